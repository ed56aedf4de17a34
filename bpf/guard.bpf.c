/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The guard's programs. One object, so that they share their maps. They use
 * nothing of a kernel's inner structures, only its documented interface: the
 * same object loads on every kernel from 5.15 on. */
#include "bpf/lib/pod.h"
#include "bpf/lib/uplink.h"

SEC("tc")
int esp_from_pod(struct __sk_buff* skb) { return from_pod(skb); }

SEC("tc")
int esp_to_pod(struct __sk_buff* skb) { return to_pod(skb); }

SEC("tc")
int esp_uplink_in(struct __sk_buff* skb) { return uplink_in(skb, 1); }

SEC("tc")
int esp_uplink_out(struct __sk_buff* skb) { return uplink_out(skb, 1); }

/* The same on devices without a link header. */
SEC("tc")
int esp_l3_in(struct __sk_buff* skb) { return uplink_in(skb, 0); }

SEC("tc")
int esp_l3_out(struct __sk_buff* skb) { return uplink_out(skb, 0); }

char _license[] SEC("license") = "Dual BSD/GPL";
