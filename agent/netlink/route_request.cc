#include <arpa/inet.h>
#include <endian.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/veth.h>

#include "absl/strings/str_cat.h"
#include "agent/netlink/route_types.h"

namespace espalier::netlink {
namespace {

uint8_t Number(base::Family family) {
  return family == base::Family::kIpv4 ? AF_INET : AF_INET6;
}

uint16_t Flags(Verb verb) {
  switch (verb) {
    case Verb::kAdd:
      return NLM_F_CREATE | NLM_F_EXCL;
    case Verb::kReplace:
      return NLM_F_CREATE | NLM_F_REPLACE;
    case Verb::kDelete:
      return 0;
  }
  return 0;
}

const char* Word(Verb verb) {
  switch (verb) {
    case Verb::kAdd:
      return "add ";
    case Verb::kReplace:
      return "set ";
    case Verb::kDelete:
      return "delete ";
  }
  return "";
}

std::string TypeName(uint8_t type) {
  switch (type) {
    case RTN_UNICAST:
      return "";
    case RTN_LOCAL:
      return "local ";
    case RTN_BLACKHOLE:
      return "blackhole ";
    case RTN_UNREACHABLE:
      return "unreachable ";
    case RTN_PROHIBIT:
      return "prohibit ";
    default:
      return absl::StrCat("type ", type, " ");
  }
}

ifinfomsg LinkHeader(const LinkSpec& link) {
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  if (link.up) {
    header.ifi_flags = IFF_UP;
    header.ifi_change = IFF_UP;
  }
  return header;
}

void PutAddrGenModeNone(Request* request) {
  request->PutNest(IFLA_AF_SPEC, [&] {
    request->PutNest(AF_INET6, [&] {
      request->PutU8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    });
  });
}

void PutLinkSpec(const LinkSpec& link, Request* request) {
  if (!link.name.empty()) request->PutString(IFLA_IFNAME, link.name);
  if (link.mtu != 0) request->PutU32(IFLA_MTU, link.mtu);
  if (link.mac) request->PutBytes(IFLA_ADDRESS, *link.mac);
  if (link.netns_fd >= 0) {
    request->PutU32(IFLA_NET_NS_FD, static_cast<uint32_t>(link.netns_fd));
  }
}

}  // namespace

std::string Address::ToString() const {
  return absl::StrCat(address.ToString(), "/", prefix_length, " dev #",
                      interface_index);
}

std::string Route::ToString() const {
  std::string text =
      absl::StrCat(TypeName(type), destination.ToString(), " table ", table);
  if (gateway) absl::StrAppend(&text, " via ", gateway->ToString());
  if (interface_index != 0) absl::StrAppend(&text, " dev #", interface_index);
  if (encapsulation) {
    absl::StrAppend(&text, " in VXLAN ", encapsulation->id, " to ",
                    encapsulation->remote.ToString());
  }
  if (preferred_source) {
    absl::StrAppend(&text, " src ", preferred_source->ToString());
  }
  if (metric != 0) absl::StrAppend(&text, " metric ", metric);
  if (mtu != 0) absl::StrAppend(&text, " mtu ", mtu);
  return text;
}

std::string Rule::ToString() const {
  std::string text =
      absl::StrCat(family == base::Family::kIpv4 ? "ipv4" : "ipv6",
                   " priority ", priority, invert ? " not" : "");
  if (source) absl::StrAppend(&text, " from ", source->ToString());
  if (destination) absl::StrAppend(&text, " to ", destination->ToString());
  if (!input_interface.empty()) {
    absl::StrAppend(&text, " iif ", input_interface);
  }
  if (!output_interface.empty()) {
    absl::StrAppend(&text, " oif ", output_interface);
  }
  if (mark_mask != 0) {
    absl::StrAppend(&text, " fwmark 0x", absl::Hex(mark), "/0x",
                    absl::Hex(mark_mask));
  }
  if (ip_protocol != 0) absl::StrAppend(&text, " ipproto ", ip_protocol);
  if (source_port != 0) absl::StrAppend(&text, " sport ", source_port);
  if (destination_port != 0) {
    absl::StrAppend(&text, " dport ", destination_port);
  }
  absl::StrAppend(&text, " table ", table);
  return text;
}

std::string Neighbour::ToString() const {
  return absl::StrCat(address.ToString(), " dev #", interface_index,
                      mac ? absl::StrCat(" mac ", MacToString(*mac)) : "");
}

Request MakeVethRequest(const LinkSpec& local, const LinkSpec& peer) {
  Request request(
      RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL,
      absl::StrCat("make the veth pair ", local.name, " and ", peer.name));
  request.PutStruct(LinkHeader(local));
  PutLinkSpec(local, &request);
  request.PutNest(IFLA_LINKINFO, [&] {
    request.PutString(IFLA_INFO_KIND, "veth");
    request.PutNest(IFLA_INFO_DATA, [&] {
      request.PutNest(VETH_INFO_PEER, [&] {
        request.PutStruct(LinkHeader(peer));
        PutLinkSpec(peer, &request);
      });
    });
  });
  return request;
}

Request MakeLinkRequest(const LinkSpec& link, const std::string& kind) {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL,
                  absl::StrCat("make the ", kind, " link ", link.name));
  request.PutStruct(LinkHeader(link));
  PutLinkSpec(link, &request);
  request.PutNest(IFLA_LINKINFO,
                  [&] { request.PutString(IFLA_INFO_KIND, kind); });
  return request;
}

Request MakeVxlanRequest(const LinkSpec& link, uint16_t port) {
  Request request(
      RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL,
      absl::StrCat("make the VXLAN device ", link.name, ", UDP port ", port));
  request.PutStruct(LinkHeader(link));
  PutLinkSpec(link, &request);
  request.PutNest(IFLA_LINKINFO, [&] {
    request.PutString(IFLA_INFO_KIND, "vxlan");
    request.PutNest(IFLA_INFO_DATA, [&] {
      request.PutU8(IFLA_VXLAN_COLLECT_METADATA, 1);
      request.PutU8(IFLA_VXLAN_LEARNING, 0);
      request.PutBytes(IFLA_VXLAN_GPE, {});
      request.PutU16(IFLA_VXLAN_PORT, htons(port));
    });
  });
  return request;
}

Request ChangeLinkRequest(int32_t index, const LinkChange& change) {
  Request request(RTM_NEWLINK, 0, absl::StrCat("change link #", index));
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  header.ifi_index = index;
  if (change.up) {
    header.ifi_flags = *change.up ? IFF_UP : 0u;
    header.ifi_change = IFF_UP;
  }
  request.PutStruct(header);
  if (change.mtu) request.PutU32(IFLA_MTU, *change.mtu);
  if (change.mac) request.PutBytes(IFLA_ADDRESS, *change.mac);
  if (change.alias) {
    // Without the terminating zero: the kernel counts it as a character.
    request.PutBytes(IFLA_IFALIAS, base::AsBytes(*change.alias));
  }
  if (change.name) request.PutString(IFLA_IFNAME, *change.name);
  if (change.master) {
    request.PutU32(IFLA_MASTER, static_cast<uint32_t>(*change.master));
  }
  if (change.netns_fd) {
    request.PutU32(IFLA_NET_NS_FD, static_cast<uint32_t>(*change.netns_fd));
  }
  if (change.gso_max_size) {
    request.PutU32(IFLA_GSO_MAX_SIZE, *change.gso_max_size);
  }
  if (change.no_ipv6_link_local && *change.no_ipv6_link_local) {
    PutAddrGenModeNone(&request);
  }
  return request;
}

Request DeleteLinkRequest(int32_t index) {
  Request request(RTM_DELLINK, 0, absl::StrCat("delete link #", index));
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  header.ifi_index = index;
  request.PutStruct(header);
  return request;
}

Request DeleteLinkRequest(const std::string& name) {
  Request request(RTM_DELLINK, 0, absl::StrCat("delete link ", name));
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  request.PutStruct(header);
  request.PutString(IFLA_IFNAME, name);
  return request;
}

Request AddressRequest(Verb verb, const Address& address) {
  Request request(verb == Verb::kDelete ? RTM_DELADDR : RTM_NEWADDR,
                  Flags(verb),
                  absl::StrCat(Word(verb), "address ", address.ToString()));
  ifaddrmsg header{};
  header.ifa_family = Number(address.address.family());
  header.ifa_prefixlen = address.prefix_length;
  header.ifa_scope = address.scope;
  header.ifa_flags = static_cast<uint8_t>(address.flags);
  header.ifa_index = static_cast<uint32_t>(address.interface_index);
  request.PutStruct(header);
  request.PutAddress(IFA_LOCAL, address.address);
  request.PutAddress(IFA_ADDRESS, address.address);
  request.PutU32(IFA_FLAGS, address.flags);
  if (address.protocol != 0) request.PutU8(IFA_PROTO, address.protocol);
  return request;
}

namespace {

void PutEncapsulation(const Encapsulation& encapsulation, Request* request) {
  request->PutU16(RTA_ENCAP_TYPE, encapsulation.remote.is_v4()
                                      ? LWTUNNEL_ENCAP_IP
                                      : LWTUNNEL_ENCAP_IP6);
  request->PutNest(RTA_ENCAP, [&] {
    request->PutU64(kEncapsulationId, htobe64(encapsulation.id));
    request->PutAddress(kEncapsulationRemote, encapsulation.remote);
  });
}

}  // namespace

Request RouteRequest(Verb verb, const Route& route) {
  Request request(verb == Verb::kDelete ? RTM_DELROUTE : RTM_NEWROUTE,
                  Flags(verb),
                  absl::StrCat(Word(verb), "route ", route.ToString()));
  const base::Family family = route.destination.family();
  rtmsg header{};
  header.rtm_family = Number(family);
  header.rtm_dst_len = static_cast<uint8_t>(route.destination.length());
  // Tables past 255 only fit the attribute.
  header.rtm_table = route.table < 256 ? static_cast<uint8_t>(route.table)
                                       : uint8_t{RT_TABLE_UNSPEC};
  header.rtm_protocol = route.protocol;
  header.rtm_type = route.type;
  header.rtm_scope = route.scope;
  if (family == base::Family::kIpv4 && !route.gateway &&
      route.type == RTN_UNICAST && route.scope == RT_SCOPE_UNIVERSE) {
    header.rtm_scope = RT_SCOPE_LINK;
  }
  if (verb == Verb::kDelete && family == base::Family::kIpv4) {
    header.rtm_scope = RT_SCOPE_NOWHERE;  // matches any
  }
  if (route.onlink) header.rtm_flags |= RTNH_F_ONLINK;
  request.PutStruct(header);
  if (route.destination.length() != 0) {
    request.PutAddress(RTA_DST, route.destination.address());
  }
  request.PutU32(RTA_TABLE, route.table);
  if (route.metric != 0) request.PutU32(RTA_PRIORITY, route.metric);
  if (route.interface_index != 0) {
    request.PutU32(RTA_OIF, static_cast<uint32_t>(route.interface_index));
  }
  if (route.gateway) request.PutAddress(RTA_GATEWAY, *route.gateway);
  if (route.encapsulation) PutEncapsulation(*route.encapsulation, &request);
  if (route.preferred_source) {
    request.PutAddress(RTA_PREFSRC, *route.preferred_source);
  }
  if (verb != Verb::kDelete && (route.mtu != 0 || route.advmss != 0)) {
    request.PutNest(RTA_METRICS, [&] {
      if (route.mtu != 0) request.PutU32(RTAX_MTU, route.mtu);
      if (route.advmss != 0) request.PutU32(RTAX_ADVMSS, route.advmss);
    });
  }
  return request;
}

Request RuleRequest(Verb verb, const Rule& rule) {
  Request request(verb == Verb::kDelete ? RTM_DELRULE : RTM_NEWRULE,
                  verb == Verb::kDelete ? 0 : NLM_F_CREATE | NLM_F_EXCL,
                  absl::StrCat(Word(verb), "rule ", rule.ToString()));
  fib_rule_hdr header{};
  header.family = Number(rule.family);
  header.action = rule.action;
  header.table = rule.table < 256 ? static_cast<uint8_t>(rule.table)
                                  : uint8_t{RT_TABLE_UNSPEC};
  if (rule.invert) header.flags |= FIB_RULE_INVERT;
  if (rule.source) {
    header.src_len = static_cast<uint8_t>(rule.source->length());
  }
  if (rule.destination) {
    header.dst_len = static_cast<uint8_t>(rule.destination->length());
  }
  request.PutStruct(header);
  request.PutU32(FRA_PRIORITY, rule.priority);
  request.PutU32(FRA_TABLE, rule.table);
  if (rule.source && rule.source->length() != 0) {
    request.PutAddress(FRA_SRC, rule.source->address());
  }
  if (rule.destination && rule.destination->length() != 0) {
    request.PutAddress(FRA_DST, rule.destination->address());
  }
  if (!rule.input_interface.empty()) {
    request.PutString(FRA_IIFNAME, rule.input_interface);
  }
  if (!rule.output_interface.empty()) {
    request.PutString(FRA_OIFNAME, rule.output_interface);
  }
  if (rule.mark_mask != 0) {
    request.PutU32(FRA_FWMARK, rule.mark);
    request.PutU32(FRA_FWMASK, rule.mark_mask);
  }
  if (rule.protocol != 0) request.PutU8(FRA_PROTOCOL, rule.protocol);
  if (rule.ip_protocol != 0) request.PutU8(FRA_IP_PROTO, rule.ip_protocol);
  const auto put_port = [&](uint16_t attribute, uint16_t port) {
    if (port == 0) return;
    request.PutStructAttribute(attribute, fib_rule_port_range{port, port});
  };
  put_port(FRA_SPORT_RANGE, rule.source_port);
  put_port(FRA_DPORT_RANGE, rule.destination_port);
  if (rule.suppress_prefix_length >= 0) {
    request.PutU32(FRA_SUPPRESS_PREFIXLEN,
                   static_cast<uint32_t>(rule.suppress_prefix_length));
  }
  return request;
}

Request NeighbourRequest(Verb verb, const Neighbour& neighbour) {
  Request request(verb == Verb::kDelete ? RTM_DELNEIGH : RTM_NEWNEIGH,
                  Flags(verb),
                  absl::StrCat(Word(verb), "neighbour ", neighbour.ToString()));
  ndmsg header{};
  header.ndm_family = Number(neighbour.address.family());
  header.ndm_ifindex = neighbour.interface_index;
  header.ndm_state = neighbour.state;
  header.ndm_flags = neighbour.flags;
  request.PutStruct(header);
  request.PutAddress(NDA_DST, neighbour.address);
  if (neighbour.mac) request.PutBytes(NDA_LLADDR, *neighbour.mac);
  return request;
}

}  // namespace espalier::netlink
