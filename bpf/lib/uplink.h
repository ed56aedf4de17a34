/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* uplink_in and uplink_out: every device that is neither a pod's, loopback nor
 * the tunnel's. They judge by addresses alone, so fragments and ICMP errors
 * need nothing of their own. */
#ifndef ESPALIER_BPF_LIB_UPLINK_H_
#define ESPALIER_BPF_LIB_UPLINK_H_

#include "bpf/lib/addresses.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/parse.h"
#include "bpf/lib/verdict.h"

static __always_inline int is_required(__u8 mode) {
  return mode != ESPALIER_MODE_DISABLED && mode != ESPALIER_MODE_PREFERRED;
}

static __always_inline int uplink_in(struct __sk_buff* skb, int link) {
  struct packet p = {};
  const struct espalier_config* config = get_config();
  if (!config) return DROP;
  /* With policies on the uplink, what was decrypted comes in on it once more.
   */
  if ((config->flags & ESPALIER_CONFIG_POLICY_BASED) &&
      get_mark(skb, config) == ESPALIER_MARK_FROM_ESP) {
    return NEXT;
  }
  /* What the mark says is decided here, for every packet. */
  set_mark(skb, config, ESPALIER_MARK_NONE);
  if (parse_link(skb, &p, link) != PARSE_OK) {
    return finish(skb, &p, 0, ESPALIER_V_WIRE_MALFORMED,
                  ESPALIER_HOOK_UPLINK_IN);
  }
  if (p.family == 0) return NEXT;
  if (parse_addresses(skb, &p) != PARSE_OK) {
    return finish(skb, &p, 0, ESPALIER_V_WIRE_MALFORMED,
                  ESPALIER_HOOK_UPLINK_IN);
  }
  const struct espalier_local_pod* pod =
      find_local_pod(&p.destination, p.family);
  /* ESP that is not for a pod: decryption marks what is inside it. */
  if (!pod && p.protocol == IPPROTO_ESP) return NEXT;
  const int inside = !(config->flags & ESPALIER_CONFIG_IN_SYNC) ||
                     find_block(&p.source, p.family) != 0;
  if (inside && pod && is_required(pod->mode)) {
    if (parse_extensions(skb, &p) == PARSE_OK) parse_ports(skb, &p);
    return finish(skb, &p, pod->slot, ESPALIER_V_WIRE_PLAINTEXT,
                  ESPALIER_HOOK_UPLINK_IN);
  }
  __u32 mark = ESPALIER_MARK_WIRE_INSIDE;
  if (!inside) {
    mark = !pod && (find_block(&p.destination, p.family) & ESPALIER_BLOCK_OWN)
               ? ESPALIER_MARK_WIRE_TO_NODE
               : ESPALIER_MARK_WIRE_OUTSIDE;
  }
  set_mark(skb, config, mark);
  return NEXT;
}

/* Whose plaintext it is that wants to leave. */
struct origin {
  int required;
  int from_esp;
  int from_pod;
  __u32 slot;
  __u32 plaintext; /* the ESPALIER_BLOCK_PLAIN_FROM_* that lets it pass */
};

/* By the mark that from_pod set, and by the device it came in on, whichever is
 * the stricter: other software may overwrite marks. */
static __always_inline void find_origin(const struct __sk_buff* skb,
                                        const struct espalier_config* config,
                                        __u32 mark,
                                        const struct espalier_pod* pod,
                                        struct origin* origin) {
  const __u32 input = skb->ingress_ifindex;
  origin->slot = pod ? pod->slot : 0;
  origin->required = mark == ESPALIER_MARK_FROM_REQUIRED ||
                     mark == ESPALIER_MARK_FROM_REQUIRED_INSIDE ||
                     (pod && is_required(pod->mode));
  origin->from_esp =
      mark == ESPALIER_MARK_FROM_ESP ||
      (config->tunnel_ifindex != 0 && input == config->tunnel_ifindex);
  const int preferred = mark == ESPALIER_MARK_FROM_PREFERRED ||
                        (pod && pod->mode == ESPALIER_MODE_PREFERRED);
  const int disabled = mark == ESPALIER_MARK_FROM_DISABLED ||
                       (pod && pod->mode == ESPALIER_MODE_DISABLED);
  origin->from_pod = origin->required || preferred || disabled;
  origin->plaintext = preferred  ? ESPALIER_BLOCK_PLAIN_FROM_PREFERRED
                      : disabled ? ESPALIER_BLOCK_PLAIN_FROM_DISABLED
                                 : ESPALIER_BLOCK_PLAIN_FROM_NODE;
}

static __always_inline enum espalier_verdict judge_leaving(
    const struct packet* p, const struct espalier_config* config, __u32 mark,
    const struct espalier_pod* pod, const struct origin* origin) {
  const int guarded = origin->required || origin->from_esp;
  if (!(config->flags & ESPALIER_CONFIG_IN_SYNC)) {
    return guarded || origin->from_pod ? ESPALIER_V_NOT_IN_SYNC
                                       : ESPALIER_V_NODE_OUT;
  }
  const __u32 block = find_block(&p->destination, p->family);
  if (block == 0 && !is_link_scope(&p->destination, p->family)) {
    if (mark == ESPALIER_MARK_FROM_REQUIRED_INSIDE ||
        (origin->required && pod &&
         (pod->flags & ESPALIER_POD_OUTSIDE_DENIED) &&
         mark != ESPALIER_MARK_FROM_REQUIRED)) {
      return ESPALIER_V_OUTSIDE_DENIED;
    }
    return guarded || origin->from_pod ? ESPALIER_V_TO_OUTSIDE
                                       : ESPALIER_V_NODE_OUT;
  }
  if (origin->required) return ESPALIER_V_LEAK_FROM_POD;
  if (origin->from_esp) return ESPALIER_V_LEAK_FROM_ESP;
  if (block == 0 || (block & origin->plaintext)) {
    return origin->from_pod ? ESPALIER_V_PLAINTEXT_OUT : ESPALIER_V_NODE_OUT;
  }
  return ESPALIER_V_LEAK_TO_POD;
}

static __always_inline int uplink_out(struct __sk_buff* skb, int link) {
  struct packet p = {};
  const struct espalier_config* config = get_config();
  if (!config) return DROP;
  const __u32 mark = get_mark(skb, config);
  if (mark == ESPALIER_MARK_BYPASS) {
    return finish(skb, &p, 0, ESPALIER_V_OUTER, ESPALIER_HOOK_UPLINK_OUT);
  }
  const struct espalier_pod* pod =
      skb->ingress_ifindex ? get_pod(skb->ingress_ifindex) : 0;
  struct origin origin;
  find_origin(skb, config, mark, pod, &origin);
  const enum parse_status status = parse_link(skb, &p, link);
  if (status == PARSE_OK && p.family == 0) {
    /* MPLS and the like can carry a pod's packet; ARP never does. */
    if (!origin.required && !origin.from_esp) return NEXT;
    return finish(
        skb, &p, origin.slot,
        origin.required ? ESPALIER_V_LEAK_FROM_POD : ESPALIER_V_LEAK_FROM_ESP,
        ESPALIER_HOOK_UPLINK_OUT);
  }
  if (status != PARSE_OK || parse_addresses(skb, &p) != PARSE_OK) {
    return finish(skb, &p, origin.slot, ESPALIER_V_OUT_MALFORMED,
                  ESPALIER_HOOK_UPLINK_OUT);
  }
  const enum espalier_verdict verdict =
      judge_leaving(&p, config, mark, pod, &origin);
  if (is_drop(verdict) && parse_extensions(skb, &p) == PARSE_OK) {
    parse_ports(skb, &p);
  }
  /* What is around it comes by once more, from node to node. */
  if (config->vxlan_ifindex != 0 && skb->ifindex == config->vxlan_ifindex &&
      !is_drop(verdict)) {
    set_mark(skb, config, ESPALIER_MARK_BYPASS);
  }
  return finish(skb, &p, origin.slot, verdict, ESPALIER_HOOK_UPLINK_OUT);
}

#endif /* ESPALIER_BPF_LIB_UPLINK_H_ */
