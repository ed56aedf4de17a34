/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* from_pod and to_pod: the host's end of a pod's interface. */
#ifndef ESPALIER_BPF_LIB_POD_H_
#define ESPALIER_BPF_LIB_POD_H_

#include "bpf/lib/addresses.h"
#include "bpf/lib/flows.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/neighbour.h"
#include "bpf/lib/parse.h"
#include "bpf/lib/verdict.h"

#define LOOPBACK_IFINDEX 1 /* in every network namespace */

static __always_inline enum espalier_verdict malformed(
    enum parse_status status) {
  return status == PARSE_TOO_MANY_HEADERS ? ESPALIER_V_TOO_MANY_HEADERS
                                          : ESPALIER_V_MALFORMED;
}

/* --- from_pod --- */

static __always_inline int is_dhcp_server(const struct packet* p) {
  return p->protocol == IPPROTO_UDP && p->fragment != FRAGMENT_LATER &&
         p->source_port == (p->family == 4 ? bpf_htons(67) : bpf_htons(547));
}

static __always_inline enum espalier_verdict judge_source(
    struct __sk_buff* skb, struct packet* p, const struct espalier_pod* pod) {
  const enum parse_status status = parse_ip(skb, p);
  if (status != PARSE_OK) return malformed(status);
  if (p->family == 4) {
    if (!(pod->flags & ESPALIER_POD_HAS_IPV4) ||
        p->source.words[0] != pod->ipv4.words[0]) {
      return ESPALIER_V_WRONG_SOURCE;
    }
  } else if (p->protocol == PROTOCOL_ICMPV6) {
    if (!is_own6(&p->source, pod) && !is_unspecified(&p->source)) {
      return ESPALIER_V_WRONG_SOURCE;
    }
    return judge_icmp6(skb, p, pod);
  } else if (!(pod->flags & ESPALIER_POD_HAS_IPV6) ||
             !same_address(&p->source, &pod->ipv6)) {
    return ESPALIER_V_WRONG_SOURCE;
  }
  return is_dhcp_server(p) ? ESPALIER_V_DHCP_SERVER : ESPALIER_V_SENT;
}

static __always_inline enum espalier_verdict judge_frame(
    struct __sk_buff* skb, struct packet* p, const struct espalier_pod* pod) {
  struct ethhdr frame;
  if (parse_link(skb, p, 1) != PARSE_OK || READ_AT(skb, 0, &frame, 2)) {
    return ESPALIER_V_MALFORMED;
  }
  if (!same_mac(frame.h_source, pod->mac)) {
    /* For the event. */
    if (p->family != 0) parse_addresses(skb, p);
    return ESPALIER_V_WRONG_MAC;
  }
  if (p->tagged) return ESPALIER_V_VLAN;
  if (p->ethertype == bpf_htons(ETH_P_ARP)) return judge_arp(skb, p, pod);
  if (p->family == 0) return ESPALIER_V_NOT_IP;
  return judge_source(skb, p, pod);
}

/* The mark of a required pod's packet. Where it may not reach the outside, only
 * answers to what came from there under the guard's rules may leave: the
 * destination is known only after Services were translated, so uplink_out
 * decides by this mark. */
static __always_inline __u32
mark_required(const struct packet* p, const struct espalier_pod* pod,
              const struct espalier_config* config) {
  if (pod->flags & ESPALIER_POD_OUTSIDE_DENIED) {
    struct espalier_flow flow;
    make_flow(&flow, p, 1);
    if (p->fragment == FRAGMENT_LATER) make_pair(&flow);
    return flow_flags(&flow, bpf_ktime_get_coarse_ns()) &
                   ESPALIER_FLOW_BY_OUTSIDE
               ? ESPALIER_MARK_FROM_REQUIRED
               : ESPALIER_MARK_FROM_REQUIRED_INSIDE;
  }
  if ((config->flags & ESPALIER_CONFIG_IN_SYNC) &&
      !is_link_scope(&p->destination, p->family) &&
      find_block(&p->destination, p->family) == 0) {
    touch_flow(p, 1, ESPALIER_FLOW_BY_POD);
  }
  return ESPALIER_MARK_FROM_REQUIRED;
}

static __always_inline int from_pod(struct __sk_buff* skb) {
  struct packet p = {};
  const struct espalier_config* config = get_config();
  if (!config) return DROP;
  const struct espalier_pod* pod = get_pod(skb->ifindex);
  if (!pod) {
    if (parse_link(skb, &p, 1) == PARSE_OK && p.family != 0) {
      parse_ip(skb, &p);
    }
    return finish(skb, &p, 0, ESPALIER_V_FROM_UNKNOWN_POD,
                  ESPALIER_HOOK_FROM_POD);
  }
  const enum espalier_verdict verdict = judge_frame(skb, &p, pod);
  if (verdict == ESPALIER_V_SENT) {
    __u32 mark;
    switch (pod->mode) {
      case ESPALIER_MODE_DISABLED:
        mark = ESPALIER_MARK_FROM_DISABLED;
        break;
      case ESPALIER_MODE_PREFERRED:
        mark = ESPALIER_MARK_FROM_PREFERRED;
        break;
      default:
        mark = mark_required(&p, pod, config);
    }
    set_mark(skb, config, mark);
  }
  return finish(skb, &p, pod->slot, verdict, ESPALIER_HOOK_FROM_POD);
}

/* --- to_pod --- */

/* What came in on a device that is neither a pod's nor the tunnel's. */
static __always_inline enum espalier_verdict judge_wire(
    struct __sk_buff* skb, struct packet* p, const struct espalier_pod* pod,
    const struct espalier_config* config, __u32 mark) {
  if (parse_link(skb, p, 1) != PARSE_OK) return ESPALIER_V_MALFORMED;
  if (p->family == 0) return ESPALIER_V_NOT_IP;
  const enum parse_status status = parse_ip(skb, p);
  if (status != PARSE_OK) return malformed(status);
  if (mark == ESPALIER_MARK_WIRE_INSIDE) return ESPALIER_V_PLAINTEXT_TO_POD;
  if (mark == ESPALIER_MARK_WIRE_TO_NODE) {
    /* Its source may be this node's by now: kube-proxy masquerades. */
    touch_flow(p, 0, ESPALIER_FLOW_BY_OUTSIDE);
    return ESPALIER_V_OUTSIDE_BY_NODE;
  }
  if (!(config->flags & ESPALIER_CONFIG_IN_SYNC) ||
      find_block(&p->source, p->family) != 0) {
    return ESPALIER_V_PLAINTEXT_TO_POD;
  }
  if (pod->flags & ESPALIER_POD_OUTSIDE_IN) {
    touch_flow(p, 0, ESPALIER_FLOW_BY_OUTSIDE);
    return ESPALIER_V_OUTSIDE_ALLOWED;
  }
  return is_reply(skb, p) ? ESPALIER_V_REPLY_FROM_OUTSIDE
                          : ESPALIER_V_OUTSIDE_IN;
}

static __always_inline enum espalier_verdict judge_input(
    struct __sk_buff* skb, struct packet* p, const struct espalier_pod* pod,
    const struct espalier_config* config) {
  const __u32 input = skb->ingress_ifindex;
  if (input == 0 || input == LOOPBACK_IFINDEX) return ESPALIER_V_FROM_NODE;
  const __u32 mark = get_mark(skb, config);
  if (input == config->tunnel_ifindex) {
    if ((config->flags & ESPALIER_CONFIG_TUNNEL_NEEDS_MARK) &&
        mark != ESPALIER_MARK_FROM_ESP && pod->mode != ESPALIER_MODE_DISABLED &&
        pod->mode != ESPALIER_MODE_PREFERRED) {
      return ESPALIER_V_UNENCRYPTED_TUNNEL;
    }
    return ESPALIER_V_FROM_ESP;
  }
  if ((config->flags & ESPALIER_CONFIG_POLICY_BASED) &&
      mark == ESPALIER_MARK_FROM_ESP) {
    return ESPALIER_V_FROM_ESP;
  }
  /* from_pod would have replaced a mark of uplink_in. */
  const int off_the_wire =
      mark >= ESPALIER_MARK_WIRE_INSIDE && mark <= ESPALIER_MARK_WIRE_TO_NODE;
  if (!off_the_wire && get_pod(input)) return ESPALIER_V_FROM_LOCAL_POD;
  if (pod->mode == ESPALIER_MODE_DISABLED ||
      pod->mode == ESPALIER_MODE_PREFERRED) {
    return ESPALIER_V_PLAINTEXT_ALLOWED;
  }
  return judge_wire(skb, p, pod, config, mark);
}

static __always_inline int to_pod(struct __sk_buff* skb) {
  struct packet p = {};
  const struct espalier_config* config = get_config();
  if (!config) return DROP;
  const struct espalier_pod* pod = get_pod(skb->ifindex);
  const enum espalier_verdict verdict =
      pod ? judge_input(skb, &p, pod, config) : ESPALIER_V_TO_UNKNOWN_POD;
  if (is_drop(verdict) && p.family == 0 && parse_link(skb, &p, 1) == PARSE_OK &&
      p.family != 0) {
    /* For the event: it was dropped before anybody looked. */
    parse_ip(skb, &p);
  }
  return finish(skb, &p, pod ? pod->slot : 0, verdict, ESPALIER_HOOK_TO_POD);
}

#endif /* ESPALIER_BPF_LIB_POD_H_ */
