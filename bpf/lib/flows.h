/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What required pods and the outside said to each other, for replies. A table
 * of the guard's own: the kernel's conntrack is reached only by functions of a
 * module that may not be loaded, and its zones and marks belong to others. Both
 * programs stand at the pod's interface, where addresses are as the pod sees
 * them, whatever was translated behind it. */
#ifndef ESPALIER_BPF_LIB_FLOWS_H_
#define ESPALIER_BPF_LIB_FLOWS_H_

#include "bpf/lib/addresses.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/parse.h"

#define SECOND 1000000000ull
/* As conntrack: an idle TCP connection may last five days. */
#define TCP_TIMEOUT (5 * 86400 * SECOND)
#define OTHER_TIMEOUT (180 * SECOND)

static __always_inline void make_flow(struct espalier_flow* flow,
                                      const struct packet* p, int from_pod) {
  flow->pod = from_pod ? p->source : p->destination;
  flow->remote = from_pod ? p->destination : p->source;
  flow->pod_port = from_pod ? p->source_port : p->destination_port;
  flow->remote_port = from_pod ? p->destination_port : p->source_port;
  flow->protocol = p->protocol;
  flow->family = p->family;
  flow->unused = 0;
}

static __always_inline void make_pair(struct espalier_flow* flow) {
  flow->pod_port = 0;
  flow->remote_port = 0;
  flow->protocol = 0;
}

static __always_inline __u32 flow_flags(const struct espalier_flow* flow,
                                        __u64 now) {
  const struct espalier_flow_state* state =
      bpf_map_lookup_elem(&esp_flows, flow);
  if (!state) return 0;
  /* Between a pair of addresses the longest of its flows counts. */
  const __u64 limit = flow->protocol == IPPROTO_TCP || flow->protocol == 0
                          ? TCP_TIMEOUT
                          : OTHER_TIMEOUT;
  return now - state->seen > limit ? 0 : state->flags;
}

/* Remembers a flow and its pair of addresses. Written once a second at most. */
static __always_inline void touch_flow(const struct packet* p, int from_pod,
                                       __u32 flag) {
  struct espalier_flow flow;
  make_flow(&flow, p, from_pod);
  const __u64 now = bpf_ktime_get_coarse_ns();
  const struct espalier_flow_state* state =
      bpf_map_lookup_elem(&esp_flows, &flow);
  if (state && (state->flags & flag) && now - state->seen < SECOND) return;
  struct espalier_flow_state fresh = {.seen = now, .flags = flag};
  if (state) fresh.flags |= state->flags;
  bpf_map_update_elem(&esp_flows, &flow, &fresh, BPF_ANY);
  make_pair(&flow);
  state = bpf_map_lookup_elem(&esp_flows, &flow);
  if (state) fresh.flags |= state->flags;
  bpf_map_update_elem(&esp_flows, &flow, &fresh, BPF_ANY);
}

/* An ICMP error's own destination is the pod; what it speaks of must be a
 * packet of the pod's to somebody it has spoken to. */
static __always_inline int error_belongs(struct __sk_buff* skb,
                                         const struct packet* p) {
  struct packet inner = {.l3 = p->l4 + 8, .family = p->family};
  if (parse_addresses(skb, &inner) != PARSE_OK) return 0;
  if (!same_address(&inner.source, &p->destination)) return 0;
  struct espalier_flow flow;
  make_flow(&flow, &inner, 1);
  make_pair(&flow);
  return flow_flags(&flow, bpf_ktime_get_coarse_ns()) & ESPALIER_FLOW_BY_POD;
}

/* Whether a packet from the outside answers what the pod began. */
static __always_inline int is_reply(struct __sk_buff* skb,
                                    const struct packet* p) {
  struct espalier_flow flow;
  make_flow(&flow, p, 0);
  if (p->fragment == FRAGMENT_LATER) {
    make_pair(&flow);
  } else if (p->protocol == IPPROTO_ICMP || p->protocol == PROTOCOL_ICMPV6) {
    __u8 type;
    if (bpf_skb_load_bytes(skb, p->l4, &type, 1) != 0) return 0;
    const int echo_reply = p->family == 4 ? type == 0 : type == 129;
    const int error = p->family == 4 ? type == 3 || type == 11 || type == 12
                                     : type >= 1 && type <= 4;
    if (error) return error_belongs(skb, p);
    if (!echo_reply) return 0;
  }
  return flow_flags(&flow, bpf_ktime_get_coarse_ns()) & ESPALIER_FLOW_BY_POD;
}

#endif /* ESPALIER_BPF_LIB_FLOWS_H_ */
