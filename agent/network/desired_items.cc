#include "agent/network/desired_items.h"

#include <netinet/in.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/network/ownership.h"

namespace espalier::network {
namespace {

using netlink::Route;

// What the kernel makes of metric 0 in IPv6 (IP6_RT_PRIO_USER).
constexpr uint32_t kIpv6DefaultMetric = 1024;

uint32_t DefaultMetric(base::Family family) {
  return family == base::Family::kIpv6 ? kIpv6DefaultMetric : 0;
}

std::optional<base::IpAddress> SourceOf(const DesiredNetwork& desired,
                                        base::Family family) {
  for (const base::IpAddress& address : desired.tunnel_addresses) {
    if (address.family() == family) return address;
  }
  return std::nullopt;
}

void AddNowhere(const base::IpPrefix& destination, uint8_t type, uint32_t table,
                uint32_t metric, RouteMap* routes) {
  const Route route{.destination = destination,
                    .table = table,
                    .type = type,
                    .protocol = kRouteProtocol,
                    .metric = metric};
  routes->emplace(KeyOf(route), route);
}

std::string NftSet(const std::vector<base::IpPrefix>& prefixes) {
  return absl::StrJoin(prefixes, ", ",
                       [](std::string* out, const base::IpPrefix& prefix) {
                         absl::StrAppend(out, prefix.ToString());
                       });
}

}  // namespace

bool LeadsNowhere(const Route& route) {
  return route.type == RTN_BLACKHOLE || route.type == RTN_UNREACHABLE ||
         route.type == RTN_PROHIBIT || route.type == RTN_THROW;
}

RouteKey KeyOf(const Route& route) {
  return {route.table, route.destination, route.metric};
}

Route Normalized(Route route) {
  // The kernel shows IPv6 routes that lead nowhere on the loopback device, and
  // scopes of them that nobody set.
  if (LeadsNowhere(route)) {
    route.interface_index = 0;
    route.scope = RT_SCOPE_UNIVERSE;
  }
  // The kernel finds the interface by the gateway.
  if (route.table == kPlainTable && route.gateway) route.interface_index = 0;
  return route;
}

netlink::Address Normalized(const netlink::Address& address) {
  return {.interface_index = address.interface_index,
          .address = address.address,
          .prefix_length = address.prefix_length};
}

RouteMap DesiredRoutes(const DesiredNetwork& desired, int32_t tunnel_index,
                       int32_t vxlan_index) {
  RouteMap routes;
  for (const base::IpPrefix& cidr : desired.own_pod_cidrs) {
    AddNowhere(cidr, RTN_BLACKHOLE, RT_TABLE_MAIN, DefaultMetric(cidr.family()),
               &routes);
    // Pods' own routes are in the main table.
    AddNowhere(cidr, RTN_THROW, kEspTable, DefaultMetric(cidr.family()),
               &routes);
    AddNowhere(cidr, RTN_THROW, kPodSourceTable, DefaultMetric(cidr.family()),
               &routes);
  }
  for (const base::IpPrefix& cidr : desired.cluster_pod_cidrs) {
    AddNowhere(cidr, RTN_UNREACHABLE, kEspTable, kLastResortMetric, &routes);
    // Should somebody delete the rules.
    AddNowhere(cidr, RTN_UNREACHABLE, RT_TABLE_MAIN, kLastResortMetric,
               &routes);
  }
  for (const base::IpPrefix& cidr : desired.node_cidrs) {
    AddNowhere(cidr, RTN_UNREACHABLE, kPodSourceTable, kLastResortMetric,
               &routes);
  }
  for (const TunnelRoute& tunnel : desired.routes) {
    const base::Family family = tunnel.destination.family();
    const uint32_t table = tunnel.node_only   ? kNodeSourceTable
                           : tunnel.pods_only ? kPodSourceTable
                                              : kEspTable;
    // Without the tunnel's interface its traffic ends here, not on the uplink.
    AddNowhere(tunnel.destination, RTN_UNREACHABLE, table, kLastResortMetric,
               &routes);
    if (tunnel_index == 0) continue;
    const Route route{
        .destination = tunnel.destination,
        .table = table,
        .protocol = kRouteProtocol,
        .scope = family == base::Family::kIpv4 ? uint8_t{RT_SCOPE_LINK}
                                               : uint8_t{RT_SCOPE_UNIVERSE},
        .metric = DefaultMetric(family),
        .interface_index = tunnel_index,
        .preferred_source =
            tunnel.source ? tunnel.source : SourceOf(desired, family),
        .mtu = tunnel.mtu};
    routes.emplace(KeyOf(route), route);
  }
  for (const PlainRoute& plain : desired.plain_routes) {
    const base::Family family = plain.destination.family();
    Route route{.destination = plain.destination,
                .table = kPlainTable,
                .protocol = kRouteProtocol,
                .metric = DefaultMetric(family)};
    if (!desired.vxlan) {
      route.gateway = plain.gateway;
    } else if (vxlan_index != 0) {
      route.interface_index = vxlan_index;
      route.encapsulation = {desired.vxlan->id, plain.gateway};
      if (family == base::Family::kIpv4) route.scope = RT_SCOPE_LINK;
    } else {
      // Without its device: the peer's pod CIDR, by ESP, which its end takes.
      continue;
    }
    routes.emplace(KeyOf(route), route);
  }
  return routes;
}

namespace {

// What this node sends ("iif lo" is local origin), IKE and ESP excepted.
void AddNodeRules(const std::vector<DesiredNetwork::Port>& exceptions,
                  base::Family family, RuleMap* rules) {
  const auto add = [&](netlink::Rule rule) {
    rule.family = family;
    rule.input_interface = "lo";
    rule.protocol = kRouteProtocol;
    rules->emplace(rule.ToString(), rule);
  };
  add({.priority = kNodeSourceRulePriority, .table = kNodeSourceTable});
  for (const uint8_t protocol : {IPPROTO_ESP, IPPROTO_AH}) {
    add({.priority = kNodeExceptionPriority,
         .table = RT_TABLE_MAIN,
         .ip_protocol = protocol});
  }
  std::vector<DesiredNetwork::Port> ports = {{IPPROTO_UDP, 500},
                                             {IPPROTO_UDP, 4500}};
  ports.insert(ports.end(), exceptions.begin(), exceptions.end());
  for (const DesiredNetwork::Port& port : ports) {
    netlink::Rule rule{.priority = kNodeExceptionPriority,
                       .table = RT_TABLE_MAIN,
                       .ip_protocol = port.ip_protocol};
    rule.destination_port = port.port;
    add(rule);
    // Answers, too.
    std::swap(rule.source_port, rule.destination_port);
    add(rule);
  }
}

}  // namespace

RuleMap DesiredRules(const DesiredNetwork& desired) {
  RuleMap rules;
  const auto add = [&rules](const netlink::Rule& rule) {
    rules.emplace(rule.ToString(), rule);
  };
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    const auto own = [family](const base::IpPrefix& cidr) {
      return cidr.family() == family;
    };
    if (std::ranges::none_of(desired.own_pod_cidrs, own)) continue;
    add({.family = family,
         .priority = kBypassRulePriority,
         .table = RT_TABLE_MAIN,
         .mark = base::MarkValue(desired.mark_mask, base::Mark::kBypass),
         .mark_mask = desired.mark_mask,
         .protocol = kRouteProtocol});
    add({.family = family,
         .priority = kPlainRulePriority,
         .table = kPlainTable,
         .mark = base::MarkValue(desired.mark_mask, base::Mark::kFromDisabled),
         .mark_mask = desired.mark_mask,
         .protocol = kRouteProtocol});
    add({.family = family,
         .priority = kEspRulePriority,
         .table = kEspTable,
         .protocol = kRouteProtocol});
  }
  for (const base::IpPrefix& cidr : desired.own_pod_cidrs) {
    add({.family = cidr.family(),
         .priority = kPodSourceRulePriority,
         .table = kPodSourceTable,
         .source = cidr,
         .protocol = kRouteProtocol});
  }
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    const bool wanted =
        std::ranges::any_of(desired.routes, [&](const TunnelRoute& route) {
          return route.node_only && route.destination.family() == family;
        });
    if (wanted) AddNodeRules(desired.node_exceptions, family, &rules);
  }
  return rules;
}

AddressMap DesiredAddresses(const DesiredNetwork& desired,
                            int32_t tunnel_index) {
  AddressMap addresses;
  if (tunnel_index == 0) return addresses;
  for (const base::IpAddress& address : desired.tunnel_addresses) {
    const auto length = static_cast<uint8_t>(address.bits());
    addresses[{address, length}] = {.interface_index = tunnel_index,
                                    .address = address,
                                    .prefix_length = length};
  }
  return addresses;
}

std::string MasqueradeCommands(const DesiredNetwork& desired) {
  if (!desired.masquerade || desired.own_pod_cidrs.empty()) return "";
  std::string sets, rules;
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    const bool v4 = family == base::Family::kIpv4;
    std::vector<base::IpPrefix> pods, inside;
    for (const base::IpPrefix& cidr : desired.own_pod_cidrs) {
      if (cidr.family() == family) pods.push_back(cidr);
    }
    if (pods.empty()) continue;
    for (const base::IpPrefix& cidr : desired.cluster_pod_cidrs) {
      if (cidr.family() == family) inside.push_back(cidr);
    }
    inside.insert(inside.end(), pods.begin(), pods.end());
    for (const base::IpPrefix& cidr : desired.node_cidrs) {
      if (cidr.family() == family) inside.push_back(cidr);
    }
    for (const base::IpAddress& address : desired.node_addresses) {
      if (address.family() == family) {
        inside.push_back(base::IpPrefix::Host(address));
      }
    }
    const char* const type = v4 ? "ipv4_addr" : "ipv6_addr";
    const char* const ip = v4 ? "ip" : "ip6";
    const char* const digit = v4 ? "4" : "6";
    // auto-merge: the inside holds the pods' own, and may hold nodes.
    absl::StrAppend(&sets, "  set pods", digit, " { type ", type,
                    "; flags interval; auto-merge; elements = { ", NftSet(pods),
                    " } }\n  set inside", digit, " { type ", type,
                    "; flags interval; auto-merge; elements = { ",
                    NftSet(inside), " } }\n");
    // Multicast never passes a router as the node's own.
    absl::StrAppend(&rules, "    ", ip, " saddr @pods", digit, " ", ip,
                    " daddr != @inside", digit, " ", ip,
                    " daddr != ", v4 ? "224.0.0.0/4" : "ff00::/8",
                    " masquerade\n");
  }
  return absl::StrCat(
      "table inet ", kNatTable, " {\n}\ndelete table inet ", kNatTable,
      "\ntable inet ", kNatTable, " {\n", sets,
      "  chain postrouting {\n    type nat hook postrouting priority srcnat; "
      "policy accept;\n",
      rules, "  }\n}\n");
}

}  // namespace espalier::network
