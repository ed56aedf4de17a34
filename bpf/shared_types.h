/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What the eBPF programs and the agent share: marks, the layout of maps, the
 * verdicts with their texts, the event record. C for the programs, C++ for the
 * agent; the static assertions hold both to one layout. Whoever changes the
 * layout of a map raises ESPALIER_MAP_VERSION. */
#ifndef ESPALIER_BPF_SHARED_TYPES_H_
#define ESPALIER_BPF_SHARED_TYPES_H_

#include <linux/types.h>

#ifdef __cplusplus
#define ESPALIER_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define ESPALIER_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/* Part of the pin path: programs of two versions never share a map. */
#define ESPALIER_MAP_VERSION 2

/* --- marks ---
 *
 * One number of four bits in skb->mark, shifted to the lowest bit of the mask
 * (espalier_config.mark_mask, at least four adjacent bits). A packet has one
 * origin, so each writer replaces the whole number and leaves the other bits,
 * which belong to kube-proxy (0x4000, 0x8000), portmap (0x2000) and others.
 *
 * FROM_REQUIRED, FROM_REQUIRED_INSIDE, FROM_PREFERRED:
 *   written by from_pod; read by uplink_out and nftables.
 * FROM_DISABLED:
 *   written by from_pod; read by the routing rule and uplink_out.
 * FROM_ESP:
 *   written by the kernel for encrypting inbound SAs (XFRMA_SET_MARK); read by
 *   to_pod, uplink_out and, with policies on the uplink, uplink_in.
 * WIRE_INSIDE, WIRE_OUTSIDE, WIRE_TO_NODE:
 *   written by uplink_in; read by to_pod and nftables.
 * BYPASS:
 *   written by the kernel for outbound SAs (XFRMA_SET_MARK), by espd's and
 *   IKE's sockets (SO_MARK), and by uplink_out on the plaintext path's VXLAN
 *   device, whose outer packets keep the mark; read by uplink_out, nftables and
 * the routing rule.
 */
enum espalier_mark {
  ESPALIER_MARK_NONE = 0,
  ESPALIER_MARK_FROM_REQUIRED = 1,
  /* The same, of a pod that may not reach the outside. */
  ESPALIER_MARK_FROM_REQUIRED_INSIDE = 2,
  ESPALIER_MARK_FROM_PREFERRED = 3,
  ESPALIER_MARK_FROM_DISABLED = 4,
  ESPALIER_MARK_FROM_ESP = 5,
  /* Came off the wire in plaintext, from an inside source... */
  ESPALIER_MARK_WIRE_INSIDE = 6,
  /* ...from the outside, to anything but the node... */
  ESPALIER_MARK_WIRE_OUTSIDE = 7,
  /* ...from the outside, to the node's own address: what reaches a pod so was
   * sent there by a hostPort or a Service of this node. */
  ESPALIER_MARK_WIRE_TO_NODE = 8,
  ESPALIER_MARK_BYPASS = 9,
};
#define ESPALIER_MARK_BITS 4
#define ESPALIER_MARK_MAX 15
#define ESPALIER_DEFAULT_MARK_MASK 0x0f000000u

/* --- verdicts ---
 *
 * X(NAME, drop, hook, key, text): every packet that a program judges ends in
 * exactly one. `drop` is 1 for a drop; the key is for metrics and JSON, the
 * text for people. Append only: the numbers are indices of pinned counters. */
#define ESPALIER_VERDICTS(X)                                                   \
  /* from_pod */                                                               \
  X(SENT, 0, FROM_POD, "sent", "sent by the pod")                              \
  X(SENT_LINK, 0, FROM_POD, "sent_link",                                       \
    "neighbour discovery, ARP or multicast listener report of the pod")        \
  X(FROM_UNKNOWN_POD, 1, FROM_POD, "unknown_pod",                              \
    "from a pod that the guard does not know yet")                             \
  X(WRONG_SOURCE, 1, FROM_POD, "wrong_source",                                 \
    "its source address is not the pod's")                                     \
  X(WRONG_MAC, 1, FROM_POD, "wrong_mac",                                       \
    "its source link address is not the pod's")                                \
  X(FORGED_ARP, 1, FROM_POD, "forged_arp",                                     \
    "ARP that claims an address or a link address that is not the pod's")      \
  X(FORGED_ND, 1, FROM_POD, "forged_nd",                                       \
    "neighbour discovery that claims what is not the pod's")                   \
  X(ROUTER_ADVERTISEMENT, 1, FROM_POD, "router_advertisement",                 \
    "a router advertisement or redirect from a pod")                           \
  X(DHCP_SERVER, 1, FROM_POD, "dhcp_server",                                   \
    "a DHCP server's answer from a pod")                                       \
  X(VLAN, 1, FROM_POD, "vlan", "a VLAN tag from a pod")                        \
  X(NOT_IP, 1, FROM_POD, "not_ip", "neither IPv4, IPv6 nor ARP")               \
  X(MALFORMED, 1, FROM_POD, "malformed", "its headers are cut short or wrong") \
  X(TOO_MANY_HEADERS, 1, FROM_POD, "too_many_headers",                         \
    "more IPv6 extension headers than the guard follows")                      \
  /* to_pod */                                                                 \
  X(FROM_NODE, 0, TO_POD, "from_node", "from this node itself")                \
  X(FROM_LOCAL_POD, 0, TO_POD, "from_local_pod", "from a pod on this node")    \
  X(FROM_ESP, 0, TO_POD, "from_esp", "came out of ESP")                        \
  X(REPLY_FROM_OUTSIDE, 0, TO_POD, "reply_from_outside",                       \
    "from the outside, to what the pod began")                                 \
  X(OUTSIDE_BY_NODE, 0, TO_POD, "outside_by_node",                             \
    "from the outside through a port of this node")                            \
  X(OUTSIDE_ALLOWED, 0, TO_POD, "outside_allowed",                             \
    "from the outside, allowed by espalier.dev/outside-in")                    \
  X(PLAINTEXT_ALLOWED, 0, TO_POD, "plaintext_allowed",                         \
    "in plaintext to a pod that is not required")                              \
  X(TO_UNKNOWN_POD, 1, TO_POD, "to_unknown_pod",                               \
    "to a pod that the guard does not know yet")                               \
  X(PLAINTEXT_TO_POD, 1, TO_POD, "plaintext_to_pod",                           \
    "plaintext from inside the cluster to a required pod")                     \
  X(UNENCRYPTED_TUNNEL, 1, TO_POD, "unencrypted_tunnel",                       \
    "from the tunnel's interface without the mark of an encrypting SA")        \
  X(OUTSIDE_IN, 1, TO_POD, "outside_in",                                       \
    "from the outside to a required pod without espalier.dev/outside-in")      \
  /* uplink_in */                                                              \
  X(WIRE_PLAINTEXT, 1, UPLINK_IN, "wire_plaintext",                            \
    "plaintext off the wire from an inside source to a required pod")          \
  X(WIRE_MALFORMED, 1, UPLINK_IN, "wire_malformed",                            \
    "off the wire with headers cut short")                                     \
  /* uplink_out */                                                             \
  X(OUTER, 0, UPLINK_OUT, "outer", "ESP or IKE of the node itself")            \
  X(NODE_OUT, 0, UPLINK_OUT, "node_out", "not from a pod")                     \
  X(TO_OUTSIDE, 0, UPLINK_OUT, "to_outside", "of a pod, to the outside")       \
  X(PLAINTEXT_OUT, 0, UPLINK_OUT, "plaintext_out",                             \
    "plaintext towards the inside, allowed by both ends' modes")               \
  X(LEAK_FROM_POD, 1, UPLINK_OUT, "leak_from_pod",                             \
    "plaintext of a required pod towards the inside")                          \
  X(LEAK_FROM_ESP, 1, UPLINK_OUT, "leak_from_esp",                             \
    "what came out of ESP would have left again in plaintext")                 \
  X(LEAK_TO_POD, 1, UPLINK_OUT, "leak_to_pod",                                 \
    "plaintext to an inside address where plaintext is not allowed")           \
  X(OUTSIDE_DENIED, 1, UPLINK_OUT, "outside_denied",                           \
    "to the outside from a pod with espalier.dev/outside: deny")               \
  X(NOT_IN_SYNC, 1, UPLINK_OUT, "not_in_sync",                                 \
    "before the guard knew what is inside the cluster")                        \
  X(OUT_MALFORMED, 1, UPLINK_OUT, "out_malformed",                             \
    "would have left with headers cut short")

enum espalier_verdict {
#define ESPALIER_VERDICT_ENUM(name, drop, hook, key, text) ESPALIER_V_##name,
  ESPALIER_VERDICTS(ESPALIER_VERDICT_ENUM)
#undef ESPALIER_VERDICT_ENUM
      ESPALIER_VERDICT_COUNT
};
#define ESPALIER_VERDICT_SLOTS 64
ESPALIER_STATIC_ASSERT((int)ESPALIER_VERDICT_COUNT <= ESPALIER_VERDICT_SLOTS,
                       "counters have no room for this many verdicts");

enum espalier_hook {
  ESPALIER_HOOK_FROM_POD = 0,
  ESPALIER_HOOK_TO_POD = 1,
  ESPALIER_HOOK_UPLINK_IN = 2,
  ESPALIER_HOOK_UPLINK_OUT = 3,
  ESPALIER_HOOK_COUNT = 4,
};

/* --- maps --- */

#define ESPALIER_MAX_PODS 1024 /* on one node; slot 0 is the node itself */
#define ESPALIER_MAX_BLOCKS 65536
#define ESPALIER_MAX_FLOWS 131072
#define ESPALIER_EVENT_BYTES (1u << 20)
/* Events a pod may cause each second; the rest are counted only. */
#define ESPALIER_EVENTS_PER_SECOND 20

/* espalier_config.flags */
enum {
  /* The blocks have been complete at least once. Until then everything counts
   * as inside and nothing as allowed. */
  ESPALIER_CONFIG_IN_SYNC = 1 << 0,
  /* The mark alone tells what came out of ESP: policies on the uplink. */
  ESPALIER_CONFIG_POLICY_BASED = 1 << 1,
  /* What the tunnel's interface delivers must also carry the mark (the kernel
   * datapath; a TUN of espalier-espd carries nothing but what it decrypted). */
  ESPALIER_CONFIG_TUNNEL_NEEDS_MARK = 1 << 2,
};

/* Array of one. */
struct espalier_config {
  __u32 flags;
  __u32 tunnel_ifindex; /* 0: none */
  __u32 mark_mask;
  __u32 mark_shift;
  __u32 vxlan_ifindex; /* of the plaintext path; 0: none */
  __u32 unused;
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_config) == 24, "layout");

/* The values of espalier::base::Mode. 0, what a map holds that nobody wrote,
 * is the strictest. */
enum espalier_mode {
  ESPALIER_MODE_REQUIRED = 0,
  ESPALIER_MODE_PREFERRED = 1,
  ESPALIER_MODE_DISABLED = 2,
};

/* espalier_pod.flags */
enum {
  ESPALIER_POD_HAS_IPV4 = 1 << 0,
  ESPALIER_POD_HAS_IPV6 = 1 << 1,
  ESPALIER_POD_OUTSIDE_DENIED = 1 << 2,
  ESPALIER_POD_OUTSIDE_IN = 1 << 3,
};

/* IPv4 addresses lie in the first four octets, the rest is zero. Everything
 * that comes from packets is in network order. */
struct espalier_address {
  union {
    __u8 octets[16];
    __u32 words[4];
    __u64 halves[2];
  };
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_address) == 16, "layout");

/* Hash by the ifindex (__u32) of the host's end of a pod's interface. */
struct espalier_pod {
  struct espalier_address ipv4;
  struct espalier_address ipv6;
  struct espalier_address link_local; /* out of the MAC, RFC 4291 appendix A */
  __u8 mac[6];
  __u8 mode;  /* enum espalier_mode */
  __u8 flags; /* ESPALIER_POD_* */
  __u32 slot; /* of the counters, 1..ESPALIER_MAX_PODS-1 */
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_pod) == 64, "layout");

/* Hash: which local pod has an address. */
struct espalier_local_address {
  struct espalier_address address;
  __u32 family; /* 4 or 6 */
  __u32 unused;
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_local_address) == 24, "layout");
struct espalier_local_pod {
  __u32 slot;
  __u8 mode;
  __u8 flags;
  __u8 unused[2];
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_local_pod) == 8, "layout");

/* LPM tries, one a family: what is inside. Longest prefix alone decides; what
 * no prefix covers is outside. */
struct espalier_block4 {
  __u32 length;
  __u8 address[4];
};
struct espalier_block6 {
  __u32 length;
  __u8 address[16];
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_block4) == 8, "layout");
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_block6) == 20, "layout");
enum {
  ESPALIER_BLOCK_POD = 1 << 0,  /* pods' addresses */
  ESPALIER_BLOCK_NODE = 1 << 1, /* nodes' addresses */
  ESPALIER_BLOCK_OWN = 1 << 2,  /* this node's own address */
  /* Who may send there in plaintext. Never pods that are required. */
  ESPALIER_BLOCK_PLAIN_FROM_DISABLED = 1 << 4,
  ESPALIER_BLOCK_PLAIN_FROM_PREFERRED = 1 << 5,
  ESPALIER_BLOCK_PLAIN_FROM_NODE = 1 << 6, /* the node itself, what it routes */
};
/* The value: __u32 of these. */

/* LRU hash: traffic between a required pod and the outside. Protocol and ports
 * zero: some flow between the two addresses, for fragments and ICMP errors. */
struct espalier_flow {
  struct espalier_address pod;
  struct espalier_address remote;
  __u16 pod_port;
  __u16 remote_port;
  __u8 protocol;
  __u8 family; /* 4 or 6 */
  __u16 unused;
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_flow) == 40, "layout");
enum {
  ESPALIER_FLOW_BY_POD = 1 << 0,     /* the pod has sent */
  ESPALIER_FLOW_BY_OUTSIDE = 1 << 1, /* the outside began, and was allowed to */
};
struct espalier_flow_state {
  __u64 seen; /* CLOCK_MONOTONIC, ns, coarse */
  __u32 flags;
  __u32 unused;
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_flow_state) == 16, "layout");

/* Per-CPU array by slot. */
struct espalier_counters {
  __u64 packets[ESPALIER_VERDICT_SLOTS];
};

/* Array by slot: how many events were let through. */
struct espalier_event_budget {
  __u64 second;
  __u32 sent;
  __u32 suppressed;
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_event_budget) == 16, "layout");

/* --- events: one record of the ring buffer a drop --- */

struct espalier_event {
  __u64 time_ns; /* CLOCK_MONOTONIC */
  struct espalier_address source;
  struct espalier_address destination;
  __u32 ifindex;       /* where the program stands */
  __u32 input_ifindex; /* where the packet came in; 0: made here */
  __u32 slot;          /* of the pod; 0: none known */
  __u32 mark;          /* skb->mark */
  __u32 length;        /* octets, without the link header */
  __u32 suppressed;    /* of this slot since its last event */
  __u16 source_port;   /* host order; 0 where there is none */
  __u16 destination_port;
  __u8 verdict; /* enum espalier_verdict */
  __u8 hook;    /* enum espalier_hook */
  __u8 family;  /* 4, 6; 0: not IP */
  __u8 protocol;
};
ESPALIER_STATIC_ASSERT(sizeof(struct espalier_event) == 72, "layout");

#endif /* ESPALIER_BPF_SHARED_TYPES_H_ */
