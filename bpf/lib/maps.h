/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The maps, as bpf/shared_types.h lays them out. The agent writes all but
 * flows, counters, budgets and events, and pins all. */
#ifndef ESPALIER_BPF_LIB_MAPS_H_
#define ESPALIER_BPF_LIB_MAPS_H_

#include "bpf/lib/kernel.h"
#include "bpf/shared_types.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct espalier_config);
} esp_config SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, ESPALIER_MAX_PODS);
  __type(key, __u32);
  __type(value, struct espalier_pod);
} esp_pods SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 2 * ESPALIER_MAX_PODS);
  __type(key, struct espalier_local_address);
  __type(value, struct espalier_local_pod);
} esp_addresses SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, ESPALIER_MAX_BLOCKS);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct espalier_block4);
  __type(value, __u32);
} esp_blocks4 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, ESPALIER_MAX_BLOCKS);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct espalier_block6);
  __type(value, __u32);
} esp_blocks6 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, ESPALIER_MAX_FLOWS);
  __type(key, struct espalier_flow);
  __type(value, struct espalier_flow_state);
} esp_flows SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, ESPALIER_MAX_PODS);
  __type(key, __u32);
  __type(value, struct espalier_counters);
} esp_counters SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, ESPALIER_MAX_PODS);
  __type(key, __u32);
  __type(value, struct espalier_event_budget);
} esp_budgets SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, ESPALIER_EVENT_BYTES);
} esp_events SEC(".maps");

/* NULL never happens for an array of one; the verifier wants it asked. */
static __always_inline struct espalier_config* get_config(void) {
  const __u32 zero = 0;
  return bpf_map_lookup_elem(&esp_config, &zero);
}

static __always_inline struct espalier_pod* get_pod(__u32 ifindex) {
  return bpf_map_lookup_elem(&esp_pods, &ifindex);
}

static __always_inline __u32 get_mark(const struct __sk_buff* skb,
                                      const struct espalier_config* config) {
  return (skb->mark & config->mark_mask) >> (config->mark_shift & 31);
}

static __always_inline void set_mark(struct __sk_buff* skb,
                                     const struct espalier_config* config,
                                     __u32 mark) {
  skb->mark = (skb->mark & ~config->mark_mask) |
              ((mark << (config->mark_shift & 31)) & config->mark_mask);
}

#endif /* ESPALIER_BPF_LIB_MAPS_H_ */
