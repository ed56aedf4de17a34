/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What a pod may say on its link: ARP (RFC 826), neighbour discovery (RFC
 * 4861), duplicate address detection (RFC 4862) and multicast listener reports
 * (RFC 3810), about itself alone. */
#ifndef ESPALIER_BPF_LIB_NEIGHBOUR_H_
#define ESPALIER_BPF_LIB_NEIGHBOUR_H_

#include "bpf/lib/addresses.h"
#include "bpf/lib/parse.h"

#define MLD_QUERY 130
#define MLD_REPORT 131
#define MLD_DONE 132
#define MLD2_REPORT 143
#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOUR_SOLICIT 135
#define ND_NEIGHBOUR_ADVERT 136
#define ND_REDIRECT 137
#define ND_MAX_OPTIONS 4
#define ND_SOURCE_LINK_ADDRESS 1
#define ND_TARGET_LINK_ADDRESS 2

struct arp_body {
  __u16 hardware;
  __u16 protocol;
  __u8 hardware_size;
  __u8 protocol_size;
  __u16 operation;
  __u8 sender_mac[6];
  __u8 sender[4];
  __u8 target_mac[6];
  __u8 target[4];
};

static __always_inline int same_mac(const __u8* a, const __u8* b) {
  return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] &&
         a[4] == b[4] && a[5] == b[5];
}

static __always_inline enum espalier_verdict judge_arp(
    struct __sk_buff* skb, struct packet* p, const struct espalier_pod* pod) {
  struct arp_body arp;
  if (bpf_skb_load_bytes(skb, p->l3, &arp, sizeof(arp)) != 0) {
    return ESPALIER_V_MALFORMED;
  }
  __u32 sender;
  __builtin_memcpy(&sender, arp.sender, 4);
  /* For the event. */
  __builtin_memcpy(p->source.octets, arp.sender, 4);
  __builtin_memcpy(p->destination.octets, arp.target, 4);
  if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) ||
      arp.hardware_size != 6 || arp.protocol_size != 4 ||
      !same_mac(arp.sender_mac, pod->mac)) {
    return ESPALIER_V_FORGED_ARP;
  }
  /* 0.0.0.0 asks whether an address is free (RFC 5227). */
  if (arp.operation == bpf_htons(1) && sender == 0) return ESPALIER_V_SENT_LINK;
  if (!(pod->flags & ESPALIER_POD_HAS_IPV4) || sender != pod->ipv4.words[0]) {
    return ESPALIER_V_FORGED_ARP;
  }
  return ESPALIER_V_SENT_LINK;
}

static __always_inline int is_own6(const struct espalier_address* address,
                                   const struct espalier_pod* pod) {
  return same_address(address, &pod->link_local) ||
         ((pod->flags & ESPALIER_POD_HAS_IPV6) &&
          same_address(address, &pod->ipv6));
}

/* Whether every link address among the options is the pod's, and none is there
 * where there may be none. */
static __always_inline int options_are_own(struct __sk_buff* skb,
                                           const struct packet* p, __u32 offset,
                                           int may_have_source,
                                           const struct espalier_pod* pod) {
  for (int i = 0; i < ND_MAX_OPTIONS; i++) {
    if (offset >= p->end) return 1;
    __u8 option[8];
    if (bpf_skb_load_bytes(skb, offset, option, sizeof(option)) != 0) return 0;
    if (option[1] == 0) return 0;
    if (option[0] == ND_SOURCE_LINK_ADDRESS && !may_have_source) return 0;
    if ((option[0] == ND_SOURCE_LINK_ADDRESS ||
         option[0] == ND_TARGET_LINK_ADDRESS) &&
        !same_mac(option + 2, pod->mac)) {
      return 0;
    }
    offset += 8 * option[1];
  }
  return offset >= p->end;
}

/* ICMPv6 from the pod's link-local address, from :: or from its own; the
 * source was found to be one of these. */
static __always_inline enum espalier_verdict judge_icmp6(
    struct __sk_buff* skb, const struct packet* p,
    const struct espalier_pod* pod) {
  const int unspecified = is_unspecified(&p->source);
  const int link_local = same_address(&p->source, &pod->link_local);
  const enum espalier_verdict other =
      unspecified || link_local ? ESPALIER_V_WRONG_SOURCE : ESPALIER_V_SENT;
  if (p->fragment == FRAGMENT_LATER) return other;
  __u8 type;
  if (bpf_skb_load_bytes(skb, p->l4, &type, 1) != 0) {
    return ESPALIER_V_MALFORMED;
  }
  switch (type) {
    case MLD_REPORT:
    case MLD_DONE:
    case MLD2_REPORT:
      return ESPALIER_V_SENT_LINK;
    case MLD_QUERY:
      return ESPALIER_V_FORGED_ND;
    case ND_ROUTER_ADVERT:
    case ND_REDIRECT:
      return ESPALIER_V_ROUTER_ADVERTISEMENT;
    case ND_ROUTER_SOLICIT:
    case ND_NEIGHBOUR_SOLICIT:
    case ND_NEIGHBOUR_ADVERT:
      break;
    default:
      return other;
  }
  /* RFC 4861 7.1; fragments: RFC 6980. */
  if (p->hop_limit != 255 || p->fragment != FRAGMENT_NONE) {
    return ESPALIER_V_FORGED_ND;
  }
  if (type == ND_ROUTER_SOLICIT) {
    return options_are_own(skb, p, p->l4 + 8, !unspecified, pod)
               ? ESPALIER_V_SENT_LINK
               : ESPALIER_V_FORGED_ND;
  }
  struct espalier_address target;
  if (bpf_skb_load_bytes(skb, p->l4 + 8, &target, sizeof(target)) != 0) {
    return ESPALIER_V_MALFORMED;
  }
  /* Only its own address may be asked for without a source (detection of
   * duplicates), and only its own may be advertised. */
  if (type == ND_NEIGHBOUR_ADVERT || unspecified) {
    if (!is_own6(&target, pod)) return ESPALIER_V_FORGED_ND;
    if (type == ND_NEIGHBOUR_ADVERT && unspecified) return ESPALIER_V_FORGED_ND;
  }
  return options_are_own(skb, p, p->l4 + 24, !unspecified, pod)
             ? ESPALIER_V_SENT_LINK
             : ESPALIER_V_FORGED_ND;
}

#endif /* ESPALIER_BPF_LIB_NEIGHBOUR_H_ */
