// How Espalier knows its own routes, rules and tables again, and leaves
// everything else alone.
#ifndef ESPALIER_AGENT_NETWORK_OWNERSHIP_H_
#define ESPALIER_AGENT_NETWORK_OWNERSHIP_H_

#include <cstdint>

namespace espalier::network {

// rtm_protocol (and FRA_PROTOCOL) of what NodeNetwork reconciles: what carries
// it and is not desired is removed. Free in iproute2's rt_protos.
inline constexpr uint8_t kRouteProtocol = 69;
// rtm_protocol of the routes to attached pods, which agent/pods owns.
inline constexpr uint8_t kPodRouteProtocol = 70;

// The tables, in the order in which their rules come: all after the local
// table (0) and before the main one (32766). Each but the last of these only
// for some traffic; what a table says nothing of goes on to the next.

// ESP and IKE, by their mark, take the main table whatever else is said.
inline constexpr uint32_t kBypassRulePriority = 4496;
// What from_pod marked as from a `disabled` pod: the plaintext path towards
// peers' plaintext blocks.
inline constexpr uint32_t kPlainTable = 4501;
inline constexpr uint32_t kPlainRulePriority = 4498;
// What comes from this node's pods: peers' node addresses, and nodes' networks.
inline constexpr uint32_t kPodSourceTable = 4500;
inline constexpr uint32_t kPodSourceRulePriority = 4500;
// All traffic, the node's own too: pods' addresses by ESP, or nowhere.
inline constexpr uint32_t kEspTable = 4502;
inline constexpr uint32_t kEspRulePriority = 4502;
// What this node itself sends (encryptNodeTraffic): peers' node addresses. What
// must not enter a tunnel, IKE and ESP before all, is led past it.
inline constexpr uint32_t kNodeExceptionPriority = 4503;
inline constexpr uint32_t kNodeSourceTable = 4504;
inline constexpr uint32_t kNodeSourceRulePriority = 4504;

// Loses against every route that somebody meant.
inline constexpr uint32_t kLastResortMetric = 0x7fffffff;

// The device of the plaintext path by VXLAN. The alias says whose it is, and
// what it was made for.
inline constexpr char kVxlanDevice[] = "espalier-vxlan";
inline constexpr char kVxlanAlias[] = "espalier plaintext path, UDP port ";

// The nftables table of masquerading (family inet).
inline constexpr char kNatTable[] = "espalier_nat";

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_OWNERSHIP_H_
