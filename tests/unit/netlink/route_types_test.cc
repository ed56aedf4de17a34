#include "agent/netlink/route_types.h"

#include <linux/if.h>

#include "gmock/gmock.h"

namespace espalier::netlink {
namespace {

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

// Some of each kind, in both families, with everything set and with nothing.
std::vector<Route> Routes() {
  return {{.destination = Net("0.0.0.0/0"), .scope = RT_SCOPE_LINK},
          {.destination = Net("::/0")},
          {.destination = Net("10.1.2.0/24"),
           .table = 4500,
           .protocol = 69,
           .metric = 7,
           .interface_index = 3,
           .gateway = Ip("192.0.2.1"),
           .preferred_source = Ip("192.0.2.2"),
           .onlink = true,
           .mtu = 1400,
           .advmss = 1300},
          {.destination = Net("10.3.0.0/16"),
           .scope = RT_SCOPE_LINK,
           .interface_index = 4,
           .encapsulation = Encapsulation{69, Ip("2001:db8::2")}},
          {.destination = Net("fd00:3::/64"),
           .interface_index = 4,
           .encapsulation = Encapsulation{0xffffff, Ip("192.0.2.2")}},
          {.destination = Net("fd00:1::/64"),
           .table = 100,
           .type = RTN_UNREACHABLE,
           .protocol = 69,
           .metric = 0xffffffff}};
}
std::vector<Rule> Rules() {
  return {{.priority = 1, .table = 254},
          {.family = base::Family::kIpv6,
           .priority = 4500,
           .table = 4500,
           .source = Net("fd00::/16"),
           .destination = Net("fd00:1::/64"),
           .input_interface = "in0",
           .output_interface = "out0",
           .mark = 1,
           .mark_mask = 0xff,
           .protocol = 69,
           .invert = true,
           .suppress_prefix_length = 0},
          {.priority = 4503,
           .table = 254,
           .input_interface = "lo",
           .ip_protocol = 17,
           .source_port = 4500,
           .destination_port = 500}};
}
std::vector<Address> Addresses() {
  return {
      {.interface_index = 2, .address = Ip("10.1.0.1"), .prefix_length = 32},
      {.interface_index = 2,
       .address = Ip("fd00::1"),
       .prefix_length = 64,
       .flags = IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
       .protocol = 69}};
}
std::vector<Neighbour> Neighbours() {
  return {{.interface_index = 2, .address = Ip("10.1.0.1")},
          {.interface_index = 2,
           .address = Ip("fd00::1"),
           .mac = MacAddress{2, 0, 0, 0, 0, 1},
           .flags = NTF_PROXY}};
}

// A request's payload has the layout of the kernel's own message.
TEST(RouteTypesTest, WhatIsEncodedDecodesToTheSame) {
  for (const Route& route : Routes()) {
    const auto decoded = DecodeRoute(RouteRequest(Verb::kAdd, route).payload());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, route) << route.ToString();
  }
  for (const Rule& rule : Rules()) {
    const auto decoded = DecodeRule(RuleRequest(Verb::kAdd, rule).payload());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, rule) << rule.ToString();
  }
  for (const Address& address : Addresses()) {
    const auto decoded =
        DecodeAddress(AddressRequest(Verb::kAdd, address).payload());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, address) << address.ToString();
  }
  for (const Neighbour& neighbour : Neighbours()) {
    const auto decoded =
        DecodeNeighbour(NeighbourRequest(Verb::kAdd, neighbour).payload());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, neighbour) << neighbour.ToString();
  }
}

TEST(RouteTypesTest, AVethRequestNamesBothEnds) {
  const Request request =
      MakeVethRequest({.name = "host",
                       .mtu = 1400,
                       .mac = MacAddress{2, 0, 0, 0, 0, 1},
                       .up = true},
                      {.name = "eth0", .mtu = 1401, .netns_fd = 5});
  const auto decoded = DecodeNewLinkRequest(request.payload());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->link.name, "host");
  EXPECT_EQ(decoded->link.kind, "veth");
  EXPECT_EQ(decoded->link.mtu, 1400u);
  EXPECT_TRUE(decoded->link.up());
  ASSERT_TRUE(decoded->peer.has_value());
  EXPECT_EQ(decoded->peer->name, "eth0");
  EXPECT_EQ(decoded->peer->mtu, 1401u);
  EXPECT_TRUE(decoded->peer_elsewhere);
}

TEST(RouteTypesTest, VerbsAreTheKernelsFlags) {
  const Route route{.destination = Net("10.0.0.0/8")};
  EXPECT_EQ(RouteRequest(Verb::kAdd, route).flags(),
            NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL);
  EXPECT_EQ(RouteRequest(Verb::kReplace, route).flags(),
            NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE);
  EXPECT_EQ(RouteRequest(Verb::kDelete, route).type(), RTM_DELROUTE);
}

// Every message cut at each length and with each bit turned: a value or an
// error, and never a read outside (the sanitizers would tell).
TEST(RouteTypesTest, DamagedMessagesAreAValueOrAnError) {
  std::vector<base::Bytes> messages;
  const auto add = [&](const Request& request) {
    messages.emplace_back(request.payload().begin(), request.payload().end());
  };
  for (const Route& route : Routes()) add(RouteRequest(Verb::kAdd, route));
  for (const Rule& rule : Rules()) add(RuleRequest(Verb::kAdd, rule));
  for (const Address& a : Addresses()) add(AddressRequest(Verb::kAdd, a));
  for (const Neighbour& n : Neighbours()) add(NeighbourRequest(Verb::kAdd, n));
  add(MakeVethRequest({.name = "host"}, {.name = "eth0", .netns_fd = 5}));
  int values = 0, errors = 0;
  const auto decode = [&](base::ByteSpan bytes) {
    for (const bool ok :
         {DecodeRoute(bytes).ok(), DecodeRule(bytes).ok(),
          DecodeAddress(bytes).ok(), DecodeNeighbour(bytes).ok(),
          DecodeLink(bytes).ok(), DecodeNewLinkRequest(bytes).ok()}) {
      ++(ok ? values : errors);
    }
  };
  for (const base::Bytes& message : messages) {
    for (size_t length = 0; length <= message.size(); ++length) {
      // A copy of that very size: a read past its end is one past the heap's.
      decode(base::Bytes(message.begin(),
                         message.begin() + static_cast<ptrdiff_t>(length)));
    }
    for (size_t bit = 0; bit < 8 * message.size(); ++bit) {
      base::Bytes damaged = message;
      damaged[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
      decode(damaged);
    }
  }
  EXPECT_GT(values, 1000);
  EXPECT_GT(errors, 1000);
}

}  // namespace
}  // namespace espalier::netlink
