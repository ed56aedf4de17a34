#include "agent/netlink/route_client.h"

#include <linux/if.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::netlink {
namespace {

// Decodes the messages of one type; others (the kernel mixes none in) are
// skipped, and what does not parse fails the whole: half a list would make a
// reconciler believe that things are gone.
template <typename T>
absl::StatusOr<std::vector<T>> DecodeAll(
    const std::vector<Reply>& replies, uint16_t type,
    absl::StatusOr<T> (*decode)(base::ByteSpan)) {
  std::vector<T> result;
  result.reserve(replies.size());
  for (const Reply& reply : replies) {
    if (reply.type != type) continue;
    ESPALIER_ASSIGN_OR_RETURN(T value, decode(reply.payload));
    result.push_back(std::move(value));
  }
  return result;
}

// The families a dump of AF_UNSPEC may hold that are not IP (RTNL_FAMILY_IPMR,
// AF_BRIDGE): their messages start with the family too.
bool IsIp(const Reply& reply) {
  return !reply.payload.empty() &&
         (reply.payload[0] == AF_INET || reply.payload[0] == AF_INET6);
}

}  // namespace

absl::Status RouteClient::AddVeth(const LinkSpec& local, const LinkSpec& peer) {
  return channel_->Execute(MakeVethRequest(local, peer));
}

absl::Status RouteClient::AddLink(const LinkSpec& link,
                                  const std::string& kind) {
  return channel_->Execute(MakeLinkRequest(link, kind));
}

absl::Status RouteClient::AddVxlan(const LinkSpec& link, uint16_t port) {
  return channel_->Execute(MakeVxlanRequest(link, port));
}

absl::Status RouteClient::ChangeLink(int32_t index, const LinkChange& change) {
  return channel_->Execute(ChangeLinkRequest(index, change));
}

absl::Status RouteClient::DeleteLink(int32_t index) {
  return channel_->Execute(DeleteLinkRequest(index));
}

absl::Status RouteClient::DeleteLink(const std::string& name) {
  return channel_->Execute(DeleteLinkRequest(name));
}

absl::StatusOr<Link> RouteClient::GetLink(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "' is not the name of a link"));
  }
  Request request(RTM_GETLINK, 0, absl::StrCat("look up link ", name));
  request.PutStruct(ifinfomsg{});
  request.PutString(IFLA_IFNAME, name);
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<Reply> replies,
                            channel_->Query(std::move(request)));
  ESPALIER_ASSIGN_OR_RETURN(std::vector<Link> links,
                            DecodeAll<Link>(replies, RTM_NEWLINK, &DecodeLink));
  if (links.size() != 1) {
    return absl::InternalError(
        absl::StrCat("look up link ", name, ": ", links.size(), " answers"));
  }
  return std::move(links.front());
}

absl::StatusOr<Link> RouteClient::GetLink(int32_t index) {
  Request request(RTM_GETLINK, 0, absl::StrCat("look up link #", index));
  ifinfomsg header{};
  header.ifi_index = index;
  request.PutStruct(header);
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<Reply> replies,
                            channel_->Query(std::move(request)));
  ESPALIER_ASSIGN_OR_RETURN(std::vector<Link> links,
                            DecodeAll<Link>(replies, RTM_NEWLINK, &DecodeLink));
  if (links.size() != 1) {
    return absl::InternalError(
        absl::StrCat("look up link #", index, ": ", links.size(), " answers"));
  }
  return std::move(links.front());
}

absl::StatusOr<std::vector<Link>> RouteClient::ListLinks() {
  Request request(RTM_GETLINK, 0, "list links");
  request.PutStruct(ifinfomsg{});
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<Reply> replies,
                            channel_->Dump(std::move(request)));
  return DecodeAll<Link>(replies, RTM_NEWLINK, &DecodeLink);
}

absl::Status RouteClient::Apply(Verb verb, const Address& address) {
  return channel_->Execute(AddressRequest(verb, address));
}
absl::Status RouteClient::Apply(Verb verb, const Route& route) {
  return channel_->Execute(RouteRequest(verb, route));
}
absl::Status RouteClient::Apply(Verb verb, const Rule& rule) {
  return channel_->Execute(RuleRequest(verb, rule));
}
absl::Status RouteClient::Apply(Verb verb, const Neighbour& neighbour) {
  return channel_->Execute(NeighbourRequest(verb, neighbour));
}

absl::StatusOr<std::vector<Address>> RouteClient::ListAddresses(
    int32_t interface_index) {
  Request request(RTM_GETADDR, 0, "list addresses");
  ifaddrmsg header{};
  header.ifa_index = static_cast<uint32_t>(interface_index);
  request.PutStruct(header);
  ESPALIER_ASSIGN_OR_RETURN(std::vector<Reply> replies,
                            channel_->Dump(std::move(request)));
  std::erase_if(replies, [](const Reply& reply) { return !IsIp(reply); });
  ESPALIER_ASSIGN_OR_RETURN(
      std::vector<Address> addresses,
      DecodeAll<Address>(replies, RTM_NEWADDR, &DecodeAddress));
  // Kernels without strict checking ignore the filter.
  std::erase_if(addresses, [&](const Address& address) {
    return interface_index != 0 && address.interface_index != interface_index;
  });
  return addresses;
}

absl::StatusOr<std::vector<Route>> RouteClient::ListRoutes(
    const RouteFilter& filter) {
  std::vector<Route> result;
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    if (filter.family && *filter.family != family) continue;
    Request request(RTM_GETROUTE, 0, "list routes");
    rtmsg header{};
    header.rtm_family = family == base::Family::kIpv4 ? AF_INET : AF_INET6;
    header.rtm_protocol = filter.protocol.value_or(RTPROT_UNSPEC);
    request.PutStruct(header);
    if (filter.table) request.PutU32(RTA_TABLE, *filter.table);
    if (filter.interface_index) {
      request.PutU32(RTA_OIF, static_cast<uint32_t>(*filter.interface_index));
    }
    absl::StatusOr<std::vector<Reply>> replies =
        channel_->Dump(std::move(request));
    // So says the kernel of a table that nobody has used yet.
    if (absl::IsNotFound(replies.status()) && filter.table) continue;
    if (!replies.ok()) return replies.status();
    std::erase_if(*replies, [](const Reply& reply) {
      if (!IsIp(reply)) return true;
      rtmsg route;
      base::ByteReader reader(reply.payload);
      return ReadStruct(&reader, &route) &&
             (route.rtm_flags & RTM_F_CLONED) != 0;
    });
    ESPALIER_ASSIGN_OR_RETURN(
        std::vector<Route> routes,
        DecodeAll<Route>(*replies, RTM_NEWROUTE, &DecodeRoute));
    for (Route& route : routes) {
      // Kernels without strict checking ignore the filter.
      if ((filter.table && route.table != *filter.table) ||
          (filter.protocol && route.protocol != *filter.protocol) ||
          (filter.interface_index &&
           route.interface_index != *filter.interface_index)) {
        continue;
      }
      result.push_back(route);
    }
  }
  return result;
}

absl::StatusOr<Route> RouteClient::LookUpRoute(const LookUp& packet) {
  const base::IpAddress& destination = packet.destination;
  Request request(
      RTM_GETROUTE, 0,
      absl::StrCat("look up the route to ", destination.ToString()));
  rtmsg header{};
  header.rtm_family = destination.is_v4() ? AF_INET : AF_INET6;
  header.rtm_dst_len = static_cast<uint8_t>(destination.bits());
  if (packet.source) {
    header.rtm_src_len = static_cast<uint8_t>(packet.source->bits());
  }
  request.PutStruct(header);
  request.PutAddress(RTA_DST, destination);
  if (packet.source) request.PutAddress(RTA_SRC, *packet.source);
  if (packet.input_interface != 0) {
    request.PutU32(RTA_IIF, static_cast<uint32_t>(packet.input_interface));
  }
  if (packet.mark != 0) request.PutU32(RTA_MARK, packet.mark);
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<Reply> replies,
                            channel_->Query(std::move(request)));
  ESPALIER_ASSIGN_OR_RETURN(
      std::vector<Route> routes,
      DecodeAll<Route>(replies, RTM_NEWROUTE, &DecodeRoute));
  if (routes.empty()) {
    return absl::NotFoundError(
        absl::StrCat("no route to ", destination.ToString()));
  }
  return routes.front();
}

absl::StatusOr<std::vector<Rule>> RouteClient::ListRules() {
  std::vector<Rule> result;
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    Request request(RTM_GETRULE, 0, "list rules");
    fib_rule_hdr header{};
    header.family = family;
    request.PutStruct(header);
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<Reply> replies,
                              channel_->Dump(std::move(request)));
    ESPALIER_ASSIGN_OR_RETURN(
        const std::vector<Rule> rules,
        DecodeAll<Rule>(replies, RTM_NEWRULE, &DecodeRule));
    result.insert(result.end(), rules.begin(), rules.end());
  }
  return result;
}

absl::StatusOr<std::vector<Neighbour>> RouteClient::ListNeighbours(
    int32_t interface_index) {
  Request request(RTM_GETNEIGH, 0, "list neighbours");
  request.PutStruct(ndmsg{});
  if (interface_index != 0) {
    request.PutU32(NDA_IFINDEX, static_cast<uint32_t>(interface_index));
  }
  ESPALIER_ASSIGN_OR_RETURN(std::vector<Reply> replies,
                            channel_->Dump(std::move(request)));
  std::erase_if(replies, [](const Reply& reply) { return !IsIp(reply); });
  ESPALIER_ASSIGN_OR_RETURN(
      std::vector<Neighbour> neighbours,
      DecodeAll<Neighbour>(replies, RTM_NEWNEIGH, &DecodeNeighbour));
  std::erase_if(neighbours, [&](const Neighbour& neighbour) {
    return interface_index != 0 && neighbour.interface_index != interface_index;
  });
  return neighbours;
}

}  // namespace espalier::netlink
