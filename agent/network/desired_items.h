// From what the node's network is to look like to the kernel's objects. Pure.
#ifndef ESPALIER_AGENT_NETWORK_DESIRED_ITEMS_H_
#define ESPALIER_AGENT_NETWORK_DESIRED_ITEMS_H_

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "agent/base/ip_address.h"
#include "agent/netlink/route_types.h"
#include "agent/network/node_network.h"

namespace espalier::network {

// What tells two routes apart for the kernel.
struct RouteKey {
  uint32_t table = 0;
  base::IpPrefix destination;
  uint32_t metric = 0;
  friend auto operator<=>(const RouteKey&, const RouteKey&) = default;
};

using RouteMap = std::map<RouteKey, netlink::Route>;
using RuleMap = std::map<std::string, netlink::Rule>;  // by Rule::ToString
using AddressMap =
    std::map<std::pair<base::IpAddress, uint8_t>, netlink::Address>;

RouteKey KeyOf(const netlink::Route& route);
// Unreachable, blackhole and the like: what keeps traffic from going wrong, as
// against what carries it.
bool LeadsNowhere(const netlink::Route& route);

// An index of 0: the interface is not there, and what needs it is left out.
RouteMap DesiredRoutes(const DesiredNetwork& desired, int32_t tunnel_index,
                       int32_t vxlan_index = 0);
RuleMap DesiredRules(const DesiredNetwork& desired);
AddressMap DesiredAddresses(const DesiredNetwork& desired,
                            int32_t tunnel_index);

// As the kernel shows an object of ours, made comparable with those above.
netlink::Route Normalized(netlink::Route route);
netlink::Address Normalized(const netlink::Address& address);

// A transaction that replaces the table espalier_nat; empty when there is
// nothing to masquerade (the table is to go).
std::string MasqueradeCommands(const DesiredNetwork& desired);

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_DESIRED_ITEMS_H_
