/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Where an address belongs. */
#ifndef ESPALIER_BPF_LIB_ADDRESSES_H_
#define ESPALIER_BPF_LIB_ADDRESSES_H_

#include "bpf/lib/maps.h"
#include "bpf/lib/parse.h"

/* ESPALIER_BLOCK_* of the longest prefix; 0: outside. */
static __always_inline __u32 find_block(const struct espalier_address* address,
                                        __u8 family) {
  __u32* flags;
  if (family == 4) {
    struct espalier_block4 key = {.length = 32};
    __builtin_memcpy(key.address, address->octets, 4);
    flags = bpf_map_lookup_elem(&esp_blocks4, &key);
  } else {
    struct espalier_block6 key = {.length = 128};
    __builtin_memcpy(key.address, address->octets, 16);
    flags = bpf_map_lookup_elem(&esp_blocks6, &key);
  }
  return flags ? *flags : 0;
}

static __always_inline struct espalier_local_pod* find_local_pod(
    const struct espalier_address* address, __u8 family) {
  struct espalier_local_address key = {.address = *address, .family = family};
  return bpf_map_lookup_elem(&esp_addresses, &key);
}

static __always_inline int same_address(const struct espalier_address* a,
                                        const struct espalier_address* b) {
  return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

static __always_inline int is_unspecified(const struct espalier_address* a) {
  return a->halves[0] == 0 && a->halves[1] == 0;
}

/* Reaches more than one neighbour of the link, or only the link itself: no
 * prefix says where that is. */
static __always_inline int is_link_scope(const struct espalier_address* a,
                                         __u8 family) {
  if (family == 4) {
    return (a->octets[0] & 0xf0) == 0xe0 || a->words[0] == 0xffffffff;
  }
  return a->octets[0] == 0xff ||
         (a->octets[0] == 0xfe && (a->octets[1] & 0xc0) == 0x80);
}

#endif /* ESPALIER_BPF_LIB_ADDRESSES_H_ */
