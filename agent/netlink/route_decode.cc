#include <endian.h>
#include <linux/if.h>
#include <linux/veth.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/route_types.h"

namespace espalier::netlink {
namespace {

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("netlink: a malformed ", what, " message"));
}

std::optional<MacAddress> AsMac(const Attribute& attribute) {
  return attribute.As<MacAddress>();
}

// The family of the kernel's AF_* number; false for others (AF_MPLS...).
bool ToFamily(uint8_t number, base::Family* family) {
  if (number == AF_INET) {
    *family = base::Family::kIpv4;
  } else if (number == AF_INET6) {
    *family = base::Family::kIpv6;
  } else {
    return false;
  }
  return true;
}

// The address, when it is of that family.
std::optional<base::IpAddress> AddressOf(base::Family family,
                                         const Attribute& attribute) {
  const std::optional<base::IpAddress> address = attribute.AsAddress();
  if (!address || address->family() != family) return std::nullopt;
  return address;
}

// Fills *link from the attributes behind an ifinfomsg. `kind_data`, if given,
// gets IFLA_INFO_DATA.
bool ReadLinkAttributes(base::ByteSpan attributes, Link* link,
                        base::ByteSpan* kind_data, bool* has_netns) {
  AttributeReader reader(attributes);
  Attribute attribute;
  while (reader.Next(&attribute)) {
    switch (attribute.type) {
      case IFLA_IFNAME:
        link->name = attribute.AsString();
        break;
      case IFLA_IFALIAS:
        link->alias = attribute.AsString();
        break;
      case IFLA_QDISC:
        link->qdisc = attribute.AsString();
        break;
      case IFLA_MTU:
        link->mtu = attribute.AsU32().value_or(0);
        break;
      case IFLA_ADDRESS:
        link->mac = AsMac(attribute);
        break;
      case IFLA_MASTER:
        link->master = attribute.As<int32_t>().value_or(0);
        break;
      case IFLA_LINK:
        link->peer_index = attribute.As<int32_t>().value_or(0);
        break;
      case IFLA_LINK_NETNSID:
        link->peer_netns_id = attribute.As<int32_t>().value_or(-1);
        break;
      case IFLA_NET_NS_FD:
        *has_netns = true;
        break;
      case IFLA_LINKINFO: {
        AttributeReader info(attribute.value);
        Attribute inner;
        while (info.Next(&inner)) {
          if (inner.type == IFLA_INFO_KIND) link->kind = inner.AsString();
          if (inner.type == IFLA_INFO_DATA) *kind_data = inner.value;
        }
        if (info.malformed()) return false;
        break;
      }
      default:
        break;
    }
  }
  return !reader.malformed();
}

bool ReadMetrics(base::ByteSpan metrics, Route* route) {
  AttributeReader reader(metrics);
  Attribute attribute;
  while (reader.Next(&attribute)) {
    if (attribute.type == RTAX_MTU) {
      route->mtu = attribute.AsU32().value_or(0);
    } else if (attribute.type == RTAX_ADVMSS) {
      route->advmss = attribute.AsU32().value_or(0);
    }
  }
  return !reader.malformed();
}

}  // namespace

std::string MacToString(const MacAddress& mac) {
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
                         mac[2], mac[3], mac[4], mac[5]);
}

bool Link::up() const { return (flags & IFF_UP) != 0; }

absl::StatusOr<Link> DecodeLink(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  ifinfomsg header;
  if (!ReadStruct(&reader, &header)) return Malformed("link");
  Link link;
  link.index = header.ifi_index;
  link.type = header.ifi_type;
  link.flags = header.ifi_flags;
  base::ByteSpan kind_data;
  bool has_netns = false;
  if (!ReadLinkAttributes(reader.rest(), &link, &kind_data, &has_netns)) {
    return Malformed("link");
  }
  return link;
}

absl::StatusOr<NewLinkRequest> DecodeNewLinkRequest(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  ifinfomsg header;
  if (!ReadStruct(&reader, &header)) return Malformed("new link");
  NewLinkRequest request;
  request.link.index = header.ifi_index;
  request.link.flags = header.ifi_flags;
  base::ByteSpan kind_data;
  bool elsewhere = false;
  if (!ReadLinkAttributes(reader.rest(), &request.link, &kind_data,
                          &elsewhere)) {
    return Malformed("new link");
  }
  if (request.link.kind != "veth") return request;
  AttributeReader data(kind_data);
  Attribute attribute;
  while (data.Next(&attribute)) {
    if (attribute.type != VETH_INFO_PEER) continue;
    base::ByteReader inner(attribute.value);
    ifinfomsg peer_header;
    Link peer;
    base::ByteSpan unused;
    if (!ReadStruct(&inner, &peer_header) ||
        !ReadLinkAttributes(inner.rest(), &peer, &unused,
                            &request.peer_elsewhere)) {
      return Malformed("new link");
    }
    peer.kind = "veth";
    peer.flags = peer_header.ifi_flags;
    request.peer = std::move(peer);
  }
  if (data.malformed()) return Malformed("new link");
  return request;
}

absl::StatusOr<Address> DecodeAddress(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  ifaddrmsg header;
  base::Family family;
  if (!ReadStruct(&reader, &header) || !ToFamily(header.ifa_family, &family)) {
    return Malformed("address");
  }
  Address result;
  result.interface_index = static_cast<int32_t>(header.ifa_index);
  result.prefix_length = header.ifa_prefixlen;
  result.scope = header.ifa_scope;
  result.flags = header.ifa_flags;
  std::optional<base::IpAddress> local, address;
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  while (attributes.Next(&attribute)) {
    switch (attribute.type) {
      case IFA_LOCAL:
        local = AddressOf(family, attribute);
        break;
      case IFA_ADDRESS:
        address = AddressOf(family, attribute);
        break;
      case IFA_FLAGS:
        result.flags = attribute.AsU32().value_or(result.flags);
        break;
      case IFA_PROTO:
        result.protocol = attribute.AsU8().value_or(0);
        break;
      default:
        break;
    }
  }
  // Of a point-to-point address IFA_ADDRESS is the peer's.
  const std::optional<base::IpAddress> own = local ? local : address;
  if (attributes.malformed() || !own || result.prefix_length > own->bits()) {
    return Malformed("address");
  }
  result.address = *own;
  return result;
}

namespace {

// False when it does not parse; `result` stays unset for other tunnels.
bool ReadEncapsulation(uint16_t type, base::ByteSpan value,
                       std::optional<Encapsulation>* result) {
  if (type != LWTUNNEL_ENCAP_IP && type != LWTUNNEL_ENCAP_IP6) return true;
  const base::Family family =
      type == LWTUNNEL_ENCAP_IP ? base::Family::kIpv4 : base::Family::kIpv6;
  Encapsulation encapsulation;
  std::optional<base::IpAddress> remote;
  AttributeReader attributes(value);
  Attribute attribute;
  while (attributes.Next(&attribute)) {
    if (attribute.type == kEncapsulationId) {
      const std::optional<uint64_t> id = attribute.AsU64();
      if (!id) return false;
      encapsulation.id = static_cast<uint32_t>(be64toh(*id));
    } else if (attribute.type == kEncapsulationRemote) {
      remote = AddressOf(family, attribute);
      if (!remote) return false;
    }
  }
  if (attributes.malformed()) return false;
  if (!remote) return true;
  encapsulation.remote = *remote;
  *result = encapsulation;
  return true;
}

}  // namespace

absl::StatusOr<Route> DecodeRoute(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  rtmsg header;
  base::Family family;
  if (!ReadStruct(&reader, &header) || !ToFamily(header.rtm_family, &family)) {
    return Malformed("route");
  }
  Route route;
  route.table = header.rtm_table;
  route.type = header.rtm_type;
  route.protocol = header.rtm_protocol;
  route.scope = header.rtm_scope;
  route.onlink = (header.rtm_flags & RTNH_F_ONLINK) != 0;
  base::IpAddress destination = base::IpAddress::Any(family);
  uint16_t encapsulation_type = LWTUNNEL_ENCAP_NONE;
  base::ByteSpan encapsulation;
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  while (attributes.Next(&attribute)) {
    switch (attribute.type) {
      case RTA_ENCAP_TYPE:
        encapsulation_type = attribute.AsU16().value_or(LWTUNNEL_ENCAP_NONE);
        break;
      case RTA_ENCAP:
        encapsulation = attribute.value;
        break;
      case RTA_DST: {
        const auto address = AddressOf(family, attribute);
        if (!address) return Malformed("route");
        destination = *address;
        break;
      }
      case RTA_TABLE:
        route.table = attribute.AsU32().value_or(route.table);
        break;
      case RTA_PRIORITY:
        route.metric = attribute.AsU32().value_or(0);
        break;
      case RTA_OIF:
        route.interface_index = attribute.As<int32_t>().value_or(0);
        break;
      case RTA_GATEWAY:
        route.gateway = AddressOf(family, attribute);
        break;
      case RTA_PREFSRC:
        route.preferred_source = AddressOf(family, attribute);
        break;
      case RTA_METRICS:
        if (!ReadMetrics(attribute.value, &route)) return Malformed("route");
        break;
      case RTA_MULTIPATH:
        route.multipath = true;
        break;
      default:
        break;
    }
  }
  if (attributes.malformed() ||
      !ReadEncapsulation(encapsulation_type, encapsulation,
                         &route.encapsulation)) {
    return Malformed("route");
  }
  absl::StatusOr<base::IpPrefix> prefix =
      base::IpPrefix::Make(destination, header.rtm_dst_len);
  if (!prefix.ok()) return Malformed("route");
  route.destination = *prefix;
  return route;
}

namespace {

// Ours are of one port.
uint16_t FirstPort(const Attribute& attribute) {
  const auto range = attribute.As<fib_rule_port_range>();
  return range ? range->start : uint16_t{0};
}

}  // namespace

absl::StatusOr<Rule> DecodeRule(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  fib_rule_hdr header;
  Rule rule;
  if (!ReadStruct(&reader, &header) || !ToFamily(header.family, &rule.family)) {
    return Malformed("rule");
  }
  rule.action = header.action;
  rule.table = header.table;
  rule.invert = (header.flags & FIB_RULE_INVERT) != 0;
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  const auto prefix = [&](int length) -> std::optional<base::IpPrefix> {
    const auto address = AddressOf(rule.family, attribute);
    if (!address) return std::nullopt;
    absl::StatusOr<base::IpPrefix> made =
        base::IpPrefix::Make(*address, length);
    if (!made.ok()) return std::nullopt;
    return *made;
  };
  while (attributes.Next(&attribute)) {
    switch (attribute.type) {
      case FRA_SRC:
        rule.source = prefix(header.src_len);
        if (!rule.source) return Malformed("rule");
        break;
      case FRA_DST:
        rule.destination = prefix(header.dst_len);
        if (!rule.destination) return Malformed("rule");
        break;
      case FRA_IIFNAME:
        rule.input_interface = attribute.AsString();
        break;
      case FRA_OIFNAME:
        rule.output_interface = attribute.AsString();
        break;
      case FRA_PRIORITY:
        rule.priority = attribute.AsU32().value_or(0);
        break;
      case FRA_FWMARK:
        rule.mark = attribute.AsU32().value_or(0);
        break;
      case FRA_FWMASK:
        rule.mark_mask = attribute.AsU32().value_or(0);
        break;
      case FRA_TABLE:
        rule.table = attribute.AsU32().value_or(rule.table);
        break;
      case FRA_PROTOCOL:
        rule.protocol = attribute.AsU8().value_or(0);
        break;
      case FRA_IP_PROTO:
        rule.ip_protocol = attribute.AsU8().value_or(0);
        break;
      case FRA_SPORT_RANGE:
        rule.source_port = FirstPort(attribute);
        break;
      case FRA_DPORT_RANGE:
        rule.destination_port = FirstPort(attribute);
        break;
      case FRA_SUPPRESS_PREFIXLEN:
        rule.suppress_prefix_length = attribute.As<int32_t>().value_or(-1);
        break;
      default:
        break;
    }
  }
  if (attributes.malformed()) return Malformed("rule");
  return rule;
}

absl::StatusOr<Neighbour> DecodeNeighbour(base::ByteSpan payload) {
  base::ByteReader reader(payload);
  ndmsg header;
  base::Family family;
  if (!ReadStruct(&reader, &header) || !ToFamily(header.ndm_family, &family)) {
    return Malformed("neighbour");
  }
  Neighbour neighbour;
  neighbour.interface_index = header.ndm_ifindex;
  neighbour.state = header.ndm_state;
  neighbour.flags = header.ndm_flags;
  bool has_address = false;
  AttributeReader attributes(reader.rest());
  Attribute attribute;
  while (attributes.Next(&attribute)) {
    if (attribute.type == NDA_DST) {
      const auto address = AddressOf(family, attribute);
      if (!address) return Malformed("neighbour");
      neighbour.address = *address;
      has_address = true;
    } else if (attribute.type == NDA_LLADDR) {
      neighbour.mac = AsMac(attribute);
    }
  }
  if (attributes.malformed() || !has_address) return Malformed("neighbour");
  return neighbour;
}

}  // namespace espalier::netlink
