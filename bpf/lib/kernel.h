/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The kernel's documented interface, in the order in which its headers need
 * each other. */
#ifndef ESPALIER_BPF_LIB_KERNEL_H_
#define ESPALIER_BPF_LIB_KERNEL_H_

/* clang-format off */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
/* clang-format on */

#endif /* ESPALIER_BPF_LIB_KERNEL_H_ */
