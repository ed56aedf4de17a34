/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* From the link header to the ports, for every packet that there can be:
 * whatever cannot be followed ends in a status that is not PARSE_OK. */
#ifndef ESPALIER_BPF_LIB_PARSE_H_
#define ESPALIER_BPF_LIB_PARSE_H_

#include "bpf/lib/kernel.h"
#include "bpf/shared_types.h"

enum parse_status {
  PARSE_OK = 0,
  PARSE_MALFORMED = 1,
  PARSE_TOO_MANY_HEADERS = 2,
};

enum {
  FRAGMENT_NONE = 0,
  FRAGMENT_FIRST = 1,
  FRAGMENT_LATER = 2, /* has no ports */
};

#define MAX_EXTENSION_HEADERS 8
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP 132
#define PROTOCOL_UDPLITE 136

struct packet {
  struct espalier_address source;
  struct espalier_address destination;
  __u32 l3;          /* offset of the IP header */
  __u32 l4;          /* of what follows its options and extension headers */
  __u32 end;         /* of the IP packet, by its own length */
  __u16 source_port; /* network order, as the rest */
  __u16 destination_port;
  __u16 ethertype;
  __u8 family; /* 4, 6; 0: not IP */
  __u8 protocol;
  __u8 fragment;
  __u8 hop_limit;
  __u8 tagged; /* VLAN tags in front of it */
};

/* Of a fixed header in front: nearly always it lies in the first piece of the
 * packet's memory, and is read there; else by the helper, which knows all
 * pieces. `align`: of the header, when the frame begins two octets past a
 * multiple of it (NET_IP_ALIGN), so that whole words are copied. */
#define READ_AT(skb, offset, to, align)                                       \
  ({                                                                          \
    const __u32 _offset = (offset);                                           \
    const __u8* _data = (const __u8*)(long)(skb)->data;                       \
    const __u8* _end = (const __u8*)(long)(skb)->data_end;                    \
    int _failed = 0;                                                          \
    if (_offset <= 128 && _data + _offset + sizeof(*(to)) <= _end) {          \
      __builtin_memcpy((to),                                                  \
                       __builtin_assume_aligned(_data + _offset, (align)),    \
                       sizeof(*(to)));                                        \
    } else {                                                                  \
      _failed = bpf_skb_load_bytes((skb), _offset, (to), sizeof(*(to))) != 0; \
    }                                                                         \
    _failed;                                                                  \
  })

/* The ethertype and where the next header begins. `link` is 0 on devices
 * without a link header. */
static __always_inline enum parse_status parse_link(struct __sk_buff* skb,
                                                    struct packet* p,
                                                    int link) {
  p->l3 = 0;
  p->tagged = skb->vlan_present != 0;
  if (!link) {
    p->ethertype = skb->protocol;
  } else {
    p->l3 = ETH_HLEN;
    if (READ_AT(skb, ETH_HLEN - 2, &p->ethertype, 2)) return PARSE_MALFORMED;
    for (int i = 0; i < 2; i++) {
      if (p->ethertype != bpf_htons(ETH_P_8021Q) &&
          p->ethertype != bpf_htons(ETH_P_8021AD)) {
        break;
      }
      p->tagged = 1;
      if (bpf_skb_load_bytes(skb, p->l3 + 2, &p->ethertype, 2) != 0) {
        return PARSE_MALFORMED;
      }
      p->l3 += 4;
    }
  }
  p->family = p->ethertype == bpf_htons(ETH_P_IP)     ? 4
              : p->ethertype == bpf_htons(ETH_P_IPV6) ? 6
                                                      : 0;
  return PARSE_OK;
}

/* Addresses, and the protocol as the first header names it. */
static __always_inline enum parse_status parse_addresses(struct __sk_buff* skb,
                                                         struct packet* p) {
  p->source_port = 0;
  p->destination_port = 0;
  p->fragment = FRAGMENT_NONE;
  if (p->family == 4) {
    struct iphdr ip;
    if (READ_AT(skb, p->l3, &ip, 4) || ip.version != 4 || ip.ihl < 5) {
      return PARSE_MALFORMED;
    }
    p->source.words[0] = ip.saddr;
    p->source.words[1] = 0;
    p->source.halves[1] = 0;
    p->destination.words[0] = ip.daddr;
    p->destination.words[1] = 0;
    p->destination.halves[1] = 0;
    p->protocol = ip.protocol;
    p->hop_limit = ip.ttl;
    p->l4 = p->l3 + 4 * ip.ihl;
    p->end = p->l3 + bpf_ntohs(ip.tot_len);
    const __u16 offset = bpf_ntohs(ip.frag_off);
    if (offset & 0x1fff) {
      p->fragment = FRAGMENT_LATER;
    } else if (offset & 0x2000) {
      p->fragment = FRAGMENT_FIRST;
    }
    return PARSE_OK;
  }
  struct ipv6hdr ip;
  if (READ_AT(skb, p->l3, &ip, 4) || ip.version != 6) {
    return PARSE_MALFORMED;
  }
  __builtin_memcpy(&p->source, &ip.saddr, 16);
  __builtin_memcpy(&p->destination, &ip.daddr, 16);
  p->protocol = ip.nexthdr;
  p->hop_limit = ip.hop_limit;
  p->l4 = p->l3 + sizeof(ip);
  p->end = p->l4 + bpf_ntohs(ip.payload_len);
  return PARSE_OK;
}

/* RFC 8200 4: through the extension headers to what follows them. */
static __always_inline enum parse_status parse_extensions(struct __sk_buff* skb,
                                                          struct packet* p) {
  if (p->family != 6) return PARSE_OK;
  for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
    __u8 header[4];
    switch (p->protocol) {
      case IPPROTO_HOPOPTS:
      case IPPROTO_ROUTING:
      case IPPROTO_DSTOPTS:
      case 135: /* mobility, RFC 6275 */
      case 139: /* HIP, RFC 7401 */
      case 140: /* shim6, RFC 5533 */
        if (bpf_skb_load_bytes(skb, p->l4, header, 2) != 0) {
          return PARSE_MALFORMED;
        }
        p->l4 += 8 + 8 * header[1];
        break;
      case IPPROTO_AH: /* RFC 4302 2.2: in words of four octets, less two */
        if (bpf_skb_load_bytes(skb, p->l4, header, 2) != 0) {
          return PARSE_MALFORMED;
        }
        p->l4 += 8 + 4 * header[1];
        break;
      case IPPROTO_FRAGMENT:
        if (bpf_skb_load_bytes(skb, p->l4, header, 4) != 0) {
          return PARSE_MALFORMED;
        }
        p->protocol = header[0];
        p->l4 += 8;
        if (header[2] != 0 || (header[3] & 0xf8) != 0) {
          p->fragment = FRAGMENT_LATER;
          return PARSE_OK;
        }
        /* A fragment that is the whole packet too (RFC 6946). */
        p->fragment = FRAGMENT_FIRST;
        continue;
      default:
        return PARSE_OK;
    }
    p->protocol = header[0];
  }
  return PARSE_TOO_MANY_HEADERS;
}

static __always_inline enum parse_status parse_ports(struct __sk_buff* skb,
                                                     struct packet* p) {
  if (p->fragment == FRAGMENT_LATER) return PARSE_OK;
  switch (p->protocol) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
    case IPPROTO_DCCP:
    case PROTOCOL_SCTP:
    case PROTOCOL_UDPLITE:
      break;
    default:
      return PARSE_OK;
  }
  __u16 ports[2];
  if (READ_AT(skb, p->l4, &ports, 2)) return PARSE_MALFORMED;
  p->source_port = ports[0];
  p->destination_port = ports[1];
  return PARSE_OK;
}

static __always_inline enum parse_status parse_ip(struct __sk_buff* skb,
                                                  struct packet* p) {
  enum parse_status status = parse_addresses(skb, p);
  if (status == PARSE_OK) status = parse_extensions(skb, p);
  if (status == PARSE_OK) status = parse_ports(skb, p);
  return status;
}

#endif /* ESPALIER_BPF_LIB_PARSE_H_ */
