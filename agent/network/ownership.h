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

// Where only traffic from this node's pods looks: peers' node addresses. IKE
// and ESP leave from the node's own address and never meet it.
inline constexpr uint32_t kPodSourceTable = 4500;
// Before the main table (32766) and after the local one (0).
inline constexpr uint32_t kPodSourceRulePriority = 4500;

// Loses against every route that somebody meant.
inline constexpr uint32_t kLastResortMetric = 0x7fffffff;

// The nftables table of masquerading (family inet).
inline constexpr char kNatTable[] = "espalier_nat";

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_OWNERSHIP_H_
