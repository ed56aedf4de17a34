#include "agent/network/removal.h"

#include <linux/rtnetlink.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/route_client.h"
#include "agent/network/desired_items.h"
#include "agent/network/ownership.h"
#include "agent/network/sysctl.h"
#include "agent/network/vxlan_device.h"

namespace espalier::network {
namespace {

using netlink::Verb;

bool IsTunnelKind(const netlink::Link& link) {
  return link.kind == "xfrm" || link.kind == "tun";
}

// Those that are gone already are gone.
absl::Status RemoveAll(netlink::Channel* channel,
                       std::vector<netlink::Request> requests) {
  absl::Status first;
  for (const absl::Status& status :
       channel->ExecuteBatch(std::move(requests))) {
    if (!absl::IsNotFound(status)) first.Update(status);
  }
  return first;
}

// Policy-based tunnels have no interface: their addresses, out of the node's
// own pod CIDRs, stand on loopback, and the blackholes name those CIDRs.
absl::StatusOr<std::vector<netlink::Address>> LoopbackAddresses(
    netlink::RouteClient* client, const std::vector<netlink::Route>& routes) {
  ESPALIER_ASSIGN_OR_RETURN(const netlink::Link loopback,
                            client->GetLink("lo"));
  ESPALIER_ASSIGN_OR_RETURN(std::vector<netlink::Address> addresses,
                            client->ListAddresses(loopback.index));
  std::erase_if(addresses, [&](const netlink::Address& address) {
    return std::ranges::none_of(routes, [&](const netlink::Route& route) {
      return route.type == RTN_BLACKHOLE && route.table == RT_TABLE_MAIN &&
             route.destination.Contains(base::IpPrefix::Host(address.address));
    });
  });
  return addresses;
}

}  // namespace

absl::StatusOr<std::string> RemoveTunnelInterface(netlink::Channel* channel,
                                                  const std::string& name,
                                                  bool policy_based) {
  netlink::RouteClient client(channel);
  std::set<int32_t> routed;
  if (!policy_based) {
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Route> routes,
                              client.ListRoutes({.protocol = kRouteProtocol}));
    for (const netlink::Route& route : routes) {
      // The plaintext path is the uplink's.
      if (!LeadsNowhere(route) && route.table != kPlainTable) {
        routed.insert(route.interface_index);
      }
    }
  }
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Link> links,
                            client.ListLinks());
  std::string removed;
  for (const netlink::Link& link : links) {
    if (link.name == name && !IsTunnelKind(link)) {
      return absl::FailedPreconditionError(
          absl::StrCat("interface ", name, " is of kind '", link.kind,
                       "': it is not Espalier's, and stays"));
    }
    if (!IsTunnelKind(link) ||
        (link.name != name && !routed.contains(link.index))) {
      continue;
    }
    if (absl::Status status = client.DeleteLink(link.index);
        !status.ok() && !absl::IsNotFound(status)) {
      return status;
    }
    absl::StrAppend(&removed, removed.empty() ? "" : ", ", link.name);
  }
  return removed;
}

absl::StatusOr<RemovedNetwork> RemoveRoutes(netlink::Channel* channel) {
  netlink::RouteClient client(channel);
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Rule> rules,
                            client.ListRules());
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Route> routes,
                            client.ListRoutes({.protocol = kRouteProtocol}));
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Address> addresses,
                            LoopbackAddresses(&client, routes));
  RemovedNetwork removed{.routes = routes.size(),
                         .addresses = addresses.size()};
  std::vector<netlink::Request> requests;
  for (const netlink::Rule& rule : rules) {
    if (rule.protocol != kRouteProtocol) continue;
    requests.push_back(netlink::RuleRequest(Verb::kDelete, rule));
    ++removed.rules;
  }
  for (const bool nowhere : {false, true}) {
    for (const netlink::Route& route : routes) {
      if (LeadsNowhere(route) != nowhere) continue;
      requests.push_back(
          netlink::RouteRequest(Verb::kDelete, Normalized(route)));
    }
    if (nowhere) break;
    for (const netlink::Address& address : addresses) {
      requests.push_back(netlink::AddressRequest(Verb::kDelete, address));
    }
  }
  ESPALIER_RETURN_IF_ERROR(RemoveAll(channel, std::move(requests)));
  Sysctl sysctl;
  ESPALIER_RETURN_IF_ERROR(
      VxlanDevice(&client, &sysctl).Ensure(std::nullopt).status());
  return removed;
}

}  // namespace espalier::network
