// rtnetlink objects as values: links, addresses, routes, rules, neighbours.
// Decoding checks every bound and ignores attributes it does not know.
#ifndef ESPALIER_AGENT_NETLINK_ROUTE_TYPES_H_
#define ESPALIER_AGENT_NETLINK_ROUTE_TYPES_H_

#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/lwtunnel.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"
#include "agent/netlink/message.h"

namespace espalier::netlink {

using MacAddress = std::array<uint8_t, 6>;
std::string MacToString(const MacAddress& mac);  // 02:00:5e:00:53:01

// --- values that the kernel shows ---

struct Link {
  int32_t index = 0;
  std::string name;
  std::string kind;   // "veth", "tun"...; empty for hardware
  uint16_t type = 0;  // ARPHRD_*, which says what link header it has
  std::string alias;
  std::string qdisc;  // "noop": drops all, the kernel hasn't activated it
  uint32_t mtu = 0;
  uint32_t flags = 0;  // IFF_*
  std::optional<MacAddress> mac;
  int32_t master = 0;          // 0: none
  int32_t peer_index = 0;      // IFLA_LINK, in the peer's namespace for a veth
  int32_t peer_netns_id = -1;  // IFLA_LINK_NETNSID; -1: the same namespace

  bool up() const;
};

struct Address {
  int32_t interface_index = 0;
  base::IpAddress address;  // of this end
  uint8_t prefix_length = 0;
  uint8_t scope = RT_SCOPE_UNIVERSE;
  uint32_t flags = 0;    // IFA_F_*, IFA_F_NODAD among them
  uint8_t protocol = 0;  // IFA_PROTO, 0: not said (kernels before 5.18)
  std::string ToString() const;
  friend bool operator==(const Address&, const Address&) = default;
};

// Of RTA_ENCAP's contents, the same for both families of the outside.
inline constexpr uint16_t kEncapsulationId = LWTUNNEL_IP_ID;
inline constexpr uint16_t kEncapsulationRemote = LWTUNNEL_IP_DST;
static_assert(static_cast<int>(LWTUNNEL_IP6_ID) == LWTUNNEL_IP_ID &&
              static_cast<int>(LWTUNNEL_IP6_DST) == LWTUNNEL_IP_DST);

// What goes by a route is put into an IP tunnel without a configuration of its
// own (RTA_ENCAP, LWTUNNEL_ENCAP_IP and _IP6).
struct Encapsulation {
  uint32_t id = 0;         // a VXLAN's network identifier, 24 bits
  base::IpAddress remote;  // of either family
  friend bool operator==(const Encapsulation&, const Encapsulation&) = default;
};

struct Route {
  base::IpPrefix destination;  // 0.0.0.0/0 or ::/0 is the default route
  uint32_t table = RT_TABLE_MAIN;
  uint8_t type = RTN_UNICAST;  // RTN_BLACKHOLE, RTN_UNREACHABLE...
  uint8_t protocol = RTPROT_UNSPEC;
  // Left at UNIVERSE, a unicast IPv4 route without gateway gets LINK, as the
  // kernel asks for. IPv6 ignores it.
  uint8_t scope = RT_SCOPE_UNIVERSE;
  uint32_t metric = 0;  // RTA_PRIORITY; IPv6 turns 0 into 1024
  int32_t interface_index = 0;
  std::optional<base::IpAddress> gateway;  // of the same family
  std::optional<base::IpAddress> preferred_source;
  bool onlink = false;
  uint32_t mtu = 0;     // RTAX_MTU; 0: the device's
  uint32_t advmss = 0;  // RTAX_ADVMSS; 0: the kernel's own
  std::optional<Encapsulation> encapsulation;
  bool multipath = false;  // shown only; never ours
  std::string ToString() const;
  friend bool operator==(const Route&, const Route&) = default;
};

struct Rule {
  base::Family family = base::Family::kIpv4;
  uint32_t priority = 0;
  uint8_t action = FR_ACT_TO_TBL;
  uint32_t table = 0;
  std::optional<base::IpPrefix> source;
  std::optional<base::IpPrefix> destination;
  std::string input_interface;
  std::string output_interface;
  uint32_t mark = 0;
  uint32_t mark_mask = 0;  // 0: the mark does not matter
  uint8_t protocol = 0;    // FRA_PROTOCOL: who made it
  bool invert = false;
  // FRA_SUPPRESS_PREFIXLEN; -1: none.
  int32_t suppress_prefix_length = -1;
  uint8_t ip_protocol = 0;                         // 0: any
  uint16_t source_port = 0, destination_port = 0;  // 0: any
  std::string ToString() const;
  friend bool operator==(const Rule&, const Rule&) = default;
};

struct Neighbour {
  int32_t interface_index = 0;
  base::IpAddress address;
  std::optional<MacAddress> mac;
  uint16_t state = NUD_PERMANENT;
  uint8_t flags = 0;  // NTF_PROXY...
  std::string ToString() const;
  friend bool operator==(const Neighbour&, const Neighbour&) = default;
};

// `payload` is what follows nlmsghdr. InvalidArgument when it does not parse.
absl::StatusOr<Link> DecodeLink(base::ByteSpan payload);
absl::StatusOr<Address> DecodeAddress(base::ByteSpan payload);
absl::StatusOr<Route> DecodeRoute(base::ByteSpan payload);
absl::StatusOr<Rule> DecodeRule(base::ByteSpan payload);
absl::StatusOr<Neighbour> DecodeNeighbour(base::ByteSpan payload);

// --- requests ---

// kAdd fails with AlreadyExists; kReplace creates or replaces; kDelete fails
// with NotFound.
enum class Verb : uint8_t { kAdd, kReplace, kDelete };

// One end of a link to be made. The kernel ignores an alias and refuses an
// address generation mode in that message: both are for ChangeLinkRequest.
struct LinkSpec {
  std::string name;
  uint32_t mtu = 0;  // 0: the kernel's default
  std::optional<MacAddress> mac;
  bool up = false;
  // Where this end is to live; -1: the socket's own namespace. Borrowed.
  int netns_fd = -1;
};

// A veth pair in one message. The kernel refuses to bring the peer up in it
// (its other end is not tied yet): `peer.up` must be false.
Request MakeVethRequest(const LinkSpec& local, const LinkSpec& peer);
// kind: "dummy", "bridge", "ifb"...
Request MakeLinkRequest(const LinkSpec& link, const std::string& kind);

// A VXLAN device without link layer (VXLAN-GPE, IP inside) whose remote ends
// are said by the routes that lead to it. port: UDP, at both ends.
Request MakeVxlanRequest(const LinkSpec& link, uint16_t port);

// What is to change of a link; unset fields stay.
struct LinkChange {
  std::optional<bool> up;
  std::optional<uint32_t> mtu;
  std::optional<MacAddress> mac;
  std::optional<std::string> alias;
  std::optional<std::string> name;
  std::optional<int32_t> master;  // 0: none
  std::optional<int> netns_fd;
  std::optional<uint32_t> gso_max_size;
  // No link-local address of the kernel's own (IN6_ADDR_GEN_MODE_NONE); to be
  // set before the link goes up, and refused while it is being made.
  std::optional<bool> no_ipv6_link_local;
};
Request ChangeLinkRequest(int32_t index, const LinkChange& change);
Request DeleteLinkRequest(int32_t index);
Request DeleteLinkRequest(const std::string& name);

Request AddressRequest(Verb verb, const Address& address);
Request RouteRequest(Verb verb, const Route& route);
// Rules have no replace in the kernel: kReplace is kAdd.
Request RuleRequest(Verb verb, const Rule& rule);
Request NeighbourRequest(Verb verb, const Neighbour& neighbour);

// For fakes: the objects that such requests name. A request's route has no
// defaults filled in by a kernel.
struct NewLinkRequest {
  Link link;
  std::optional<Link> peer;     // of a veth
  bool peer_elsewhere = false;  // the peer goes to another namespace
};
absl::StatusOr<NewLinkRequest> DecodeNewLinkRequest(base::ByteSpan payload);

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_ROUTE_TYPES_H_
