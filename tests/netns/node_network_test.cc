// agent/network against the running kernel: routes, rules, addresses, settings
// and masquerading in a namespace of the test's own.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "agent/netlink/socket.h"
#include "agent/network/kernel_node_network.h"
#include "agent/network/ownership.h"
#include "agent/network/removal.h"
#include "gmock/gmock.h"
#include "tests/netns/private_namespace.h"
#include "tests/support/manual_loop.h"

namespace espalier::network {
namespace {

using netlink::Route;
using netlink::Verb;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

// The tunnel's interface, as espalier-espd would make it.
class Tun {
 public:
  explicit Tun(const std::string& name) {
    fd_ = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    ifreq request{};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    EXPECT_EQ(ioctl(fd_, TUNSETIFF, &request), 0);
  }
  ~Tun() { close(fd_); }

 private:
  int fd_ = -1;
};

class NodeNetworkTest : public testing::PrivateNamespaceTest {
 protected:
  void SetUp() override {
    PrivateNamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    socket_ = *netlink::Socket::Open();
    client_ = std::make_unique<netlink::RouteClient>(socket_.get());
    ASSERT_TRUE(
        client_->AddVeth({.name = "up0", .up = true}, {.name = "up1"}).ok());
    uplink_ = client_->GetLink("up0")->index;
    const int32_t peer = client_->GetLink("up1")->index;
    ASSERT_TRUE(client_->ChangeLink(peer, {.up = true}).ok());
    ASSERT_TRUE(
        client_
            ->Apply(Verb::kAdd, netlink::Address{.interface_index = uplink_,
                                                 .address = Ip("192.0.2.1"),
                                                 .prefix_length = 24})
            .ok());
    MakeTun();
    auto network = KernelNodeNetwork::Open(&loop_, &loop_);
    ASSERT_TRUE(network.ok()) << network.status();
    network_ = *std::move(network);
  }

  void MakeTun() {
    tun_.reset();
    tun_ = std::make_unique<Tun>("esp0");
    tunnel_ = client_->GetLink("esp0")->index;
    ASSERT_TRUE(client_->ChangeLink(tunnel_, {.up = true}).ok());
  }

  static DesiredNetwork Desired() {
    return {.tunnel_interface = "esp0",
            .tunnel_addresses = {Ip("10.244.1.1"), Ip("fd00:244:1::1")},
            .routes = {{.destination = Net("10.244.2.0/24"), .mtu = 1420},
                       {.destination = Net("fd00:244:2::/64"), .mtu = 1420},
                       {.destination = Net("192.0.2.2/32"),
                        .mtu = 1420,
                        .pods_only = true}},
            .own_pod_cidrs = {Net("10.244.1.0/24"), Net("fd00:244:1::/64")},
            .cluster_pod_cidrs = {Net("10.244.0.0/16"), Net("fd00:244::/32")},
            .node_addresses = {Ip("192.0.2.1"), Ip("192.0.2.2")}};
  }

  std::vector<Route> Owned() {
    return *client_->ListRoutes({.protocol = kRouteProtocol});
  }
  // What notifications ask for, and what was put off.
  void Settle() {
    for (int i = 0; i < 3; ++i) {
      loop_.PollAll();
      loop_.Advance(absl::Milliseconds(300));
    }
  }

  testing::ManualLoop loop_;
  std::unique_ptr<netlink::Socket> socket_;
  std::unique_ptr<netlink::RouteClient> client_;
  std::unique_ptr<Tun> tun_;
  std::unique_ptr<KernelNodeNetwork> network_;
  int32_t uplink_ = 0;
  int32_t tunnel_ = 0;
};

// Policies on the uplink find the tunnel: the uplink is not ours, and an agent
// that tidied it up would take the node off its network.
TEST_F(NodeNetworkTest, AnUplinkThatIsTheTunnelKeepsItsAddresses) {
  DesiredNetwork desired = Desired();
  desired.tunnel_interface = "up0";
  desired.tunnel_is_uplink = true;
  // Without the kernel's own, which comes when it likes.
  const auto addresses = [&] {
    auto all = *client_->ListAddresses(uplink_);
    std::erase_if(all, [](const netlink::Address& address) {
      return address.address.IsLinkLocal();
    });
    return all;
  };
  const auto before = addresses();
  ASSERT_FALSE(before.empty());
  network_->SetDesired(desired);
  Settle();
  ASSERT_TRUE(network_->Resync().ok());
  EXPECT_THAT(network_->Problems(), IsEmpty());
  EXPECT_EQ(addresses(), before);
  const auto to_peer = client_->LookUpRoute(Ip("10.244.2.9"));
  ASSERT_TRUE(to_peer.ok()) << to_peer.status();
  EXPECT_EQ(to_peer->interface_index, uplink_);
  EXPECT_EQ(to_peer->preferred_source, Ip("10.244.1.1"));
  // The control: an interface that is the tunnel's own is tidied up.
  ASSERT_TRUE(
      client_
          ->Apply(Verb::kAdd, netlink::Address{.interface_index = tunnel_,
                                               .address = Ip("192.0.2.9"),
                                               .prefix_length = 24})
          .ok());
  network_->SetDesired(Desired());
  Settle();
  const auto left = *client_->ListAddresses(tunnel_);
  for (const netlink::Address& address : left) {
    EXPECT_NE(address.address, Ip("192.0.2.9"));
  }
}

TEST_F(NodeNetworkTest, MakesWhatIsDesiredOnce) {
  network_->SetDesired(Desired());
  for (const NetworkProblem& problem : network_->Problems()) {
    ADD_FAILURE() << problem.item << ": " << problem.status;
  }
  // A blackhole and two throws for each own CIDR, two unreachable for each of
  // the inside, and a pair for each route.
  EXPECT_EQ(Owned().size(), 2u * 3u + 2u * 2u + 2u * 3u);
  const auto to_peer = client_->LookUpRoute(Ip("10.244.2.9"));
  ASSERT_TRUE(to_peer.ok()) << to_peer.status();
  EXPECT_EQ(to_peer->interface_index, tunnel_);
  EXPECT_EQ(to_peer->preferred_source, Ip("10.244.1.1"));
  EXPECT_EQ(to_peer->mtu, 1420u);
  const auto to_peer6 = client_->LookUpRoute(Ip("fd00:244:2::9"));
  ASSERT_TRUE(to_peer6.ok()) << to_peer6.status();
  EXPECT_EQ(to_peer6->interface_index, tunnel_);
  EXPECT_EQ(to_peer6->preferred_source, Ip("fd00:244:1::1"));
  // Inside but unknown; an address of ours that no pod has; the node itself.
  EXPECT_FALSE(client_->LookUpRoute(Ip("10.244.77.1")).ok());
  EXPECT_FALSE(client_->LookUpRoute(Ip("10.244.1.77")).ok());
  EXPECT_FALSE(client_->LookUpRoute(Ip("fd00:244:77::1")).ok());
  EXPECT_EQ(client_->LookUpRoute(Ip("192.0.2.2"))->interface_index, uplink_);
  Sysctl sysctl;
  EXPECT_EQ(*sysctl.Read("net/ipv4/ip_forward"), "1");
  EXPECT_EQ(*sysctl.Read("net/ipv6/conf/all/forwarding"), "1");
  EXPECT_EQ(*sysctl.Read("net/ipv4/conf/esp0/rp_filter"), "2");

  const auto rules = *client_->ListRules();
  EXPECT_THAT(rules, Contains(AllOf(
                         Field(&netlink::Rule::table, kPodSourceTable),
                         Field(&netlink::Rule::source, Net("10.244.1.0/24")))));

  // A second agent finds everything as it wants it: nothing is announced.
  auto listener = *netlink::Socket::Open();
  int changes = 0;
  ASSERT_TRUE(
      listener
          ->Subscribe(
              {RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_RULE,
               RTNLGRP_IPV6_RULE, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR},
              [&](const netlink::Reply&) { ++changes; }, [] {})
          .ok());
  auto second = *KernelNodeNetwork::Open(&loop_, &loop_);
  second->SetDesired(Desired());
  EXPECT_THAT(second->Problems(), IsEmpty());
  ASSERT_TRUE(second->Resync().ok());
  listener->HandleReadable();
  EXPECT_EQ(changes, 0);
}

TEST_F(NodeNetworkTest, ARestartBeforeTheDatapathAnswersTouchesNothing) {
  network_->SetDesired(Desired());
  const std::vector<Route> before = Owned();
  network_ = *KernelNodeNetwork::Open(&loop_, &loop_);
  DesiredNetwork early = Desired();
  early.tunnel_interface.clear();
  network_->SetDesired(early);
  Settle();
  EXPECT_THAT(Owned(), ::testing::UnorderedElementsAreArray(before));
  EXPECT_EQ(client_->LookUpRoute(Ip("10.244.2.9"))->interface_index, tunnel_);
  // An address of ours that no pod has leads nowhere from the first moment.
  EXPECT_FALSE(client_->LookUpRoute(Ip("10.244.1.77")).ok());
  network_->SetDesired(Desired());
  EXPECT_THAT(Owned(), ::testing::UnorderedElementsAreArray(before));
}

TEST_F(NodeNetworkTest, FollowsWhatIsDesired) {
  network_->SetDesired(Desired());
  DesiredNetwork desired = Desired();
  desired.routes = {{.destination = Net("10.244.3.0/24"), .mtu = 1400}};
  network_->SetDesired(desired);
  EXPECT_EQ(client_->LookUpRoute(Ip("10.244.3.1"))->mtu, 1400u);
  EXPECT_FALSE(client_->LookUpRoute(Ip("10.244.2.1")).ok());
  desired.routes[0].mtu = 1380;
  network_->SetDesired(desired);
  EXPECT_EQ(client_->LookUpRoute(Ip("10.244.3.1"))->mtu, 1380u);
  EXPECT_EQ(Owned().size(), 2u * 3u + 2u * 2u + 2u);
  EXPECT_THAT(network_->Problems(), IsEmpty());
}

TEST_F(NodeNetworkTest, ForeignRoutesAndRulesStay) {
  const Route foreign{.destination = Net("10.244.9.0/24"),
                      .protocol = RTPROT_STATIC,
                      .scope = RT_SCOPE_LINK,
                      .interface_index = uplink_};
  // In the very place that is wanted.
  const Route in_the_way{.destination = Net("10.244.2.0/24"),
                         .table = kEspTable,
                         .protocol = RTPROT_STATIC,
                         .scope = RT_SCOPE_LINK,
                         .interface_index = uplink_};
  const netlink::Rule rule{
      .priority = 4499, .table = 77, .protocol = RTPROT_STATIC};
  ASSERT_TRUE(client_->Apply(Verb::kAdd, foreign).ok());
  ASSERT_TRUE(client_->Apply(Verb::kAdd, in_the_way).ok());
  ASSERT_TRUE(client_->Apply(Verb::kAdd, rule).ok());
  network_->SetDesired(Desired());
  Settle();
  EXPECT_THAT(*client_->ListRoutes(), Contains(foreign));
  EXPECT_THAT(*client_->ListRoutes(), Contains(in_the_way));
  EXPECT_THAT(*client_->ListRules(), Contains(rule));
  ASSERT_EQ(network_->Problems().size(), 1u);
  EXPECT_TRUE(absl::IsAlreadyExists(network_->Problems()[0].status));
  // Once it is out of the way ours takes its place.
  ASSERT_TRUE(client_->Apply(Verb::kDelete, in_the_way).ok());
  loop_.Advance(absl::Minutes(2));
  EXPECT_THAT(network_->Problems(), IsEmpty());
  EXPECT_EQ(client_->LookUpRoute(Ip("10.244.2.9"))->interface_index, tunnel_);
  DesiredNetwork nothing = Desired();
  nothing.routes.clear();
  network_->SetDesired(nothing);
  EXPECT_THAT(*client_->ListRoutes(), Contains(foreign));
}

TEST_F(NodeNetworkTest, WhatSomebodyDeletesComesBack) {
  network_->SetDesired(Desired());
  Settle();
  const std::vector<Route> before = Owned();
  for (const Route& route : before) {
    ASSERT_TRUE(client_->Apply(Verb::kDelete, route).ok()) << route.ToString();
  }
  ASSERT_TRUE(
      client_
          ->Apply(Verb::kDelete, netlink::Address{.interface_index = tunnel_,
                                                  .address = Ip("10.244.1.1"),
                                                  .prefix_length = 32})
          .ok());
  const std::vector<netlink::Rule> rules = *client_->ListRules();
  for (const netlink::Rule& rule : rules) {
    if (rule.protocol == kRouteProtocol) {
      ASSERT_TRUE(client_->Apply(Verb::kDelete, rule).ok());
    }
  }
  ASSERT_THAT(Owned(), IsEmpty());
  Settle();
  EXPECT_THAT(Owned(), ::testing::UnorderedElementsAreArray(before));
  EXPECT_EQ(client_->LookUpRoute(Ip("10.244.2.9"))->preferred_source,
            Ip("10.244.1.1"));
  EXPECT_THAT(*client_->ListRules(),
              Contains(Field(&netlink::Rule::table, kPodSourceTable)));
}

TEST_F(NodeNetworkTest, LostNotificationsAreMadeUpFor) {
  network_->SetDesired(Desired());
  Settle();
  const std::vector<Route> before = Owned();
  // A socket like the network's own, to show that its buffer ran over before
  // the first deletion was told.
  auto control = *netlink::Socket::Open();
  int overruns = 0, deletions = 0;
  ASSERT_TRUE(control
                  ->Subscribe(
                      {RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE},
                      [&](const netlink::Reply& reply) {
                        const auto route = netlink::DecodeRoute(reply.payload);
                        deletions +=
                            route.ok() && route->protocol == kRouteProtocol;
                      },
                      [&] { ++overruns; })
                  .ok());
  const Route noise{.destination = Net("198.51.100.0/24"),
                    .interface_index = uplink_};
  for (int i = 0; i < 3000; ++i) {
    ASSERT_TRUE(client_->Apply(Verb::kAdd, noise).ok());
    ASSERT_TRUE(client_->Apply(Verb::kDelete, noise).ok());
  }
  for (const Route& route : before) {
    ASSERT_TRUE(client_->Apply(Verb::kDelete, route).ok()) << route.ToString();
  }
  control->HandleReadable();
  ASSERT_GE(overruns, 1);
  ASSERT_EQ(deletions, 0);
  Settle();
  EXPECT_THAT(Owned(), ::testing::UnorderedElementsAreArray(before));
}

TEST_F(NodeNetworkTest, WithoutTheTunnelsInterfaceItsTrafficGoesNowhere) {
  network_->SetDesired(Desired());
  Settle();
  // Where it would go if the routes only vanished.
  ASSERT_TRUE(client_
                  ->Apply(Verb::kAdd, Route{.destination = Net("0.0.0.0/0"),
                                            .interface_index = uplink_,
                                            .gateway = Ip("192.0.2.254")})
                  .ok());
  tun_.reset();
  EXPECT_FALSE(client_->LookUpRoute(Ip("10.244.2.9")).ok());
  EXPECT_TRUE(client_->LookUpRoute(Ip("198.51.100.1")).ok());
  Settle();
  EXPECT_FALSE(client_->LookUpRoute(Ip("10.244.2.9")).ok());
  MakeTun();
  Settle();
  EXPECT_EQ(client_->LookUpRoute(Ip("10.244.2.9"))->interface_index, tunnel_);
  EXPECT_THAT(network_->Problems(), IsEmpty());
}

// Each row: who sends, with which mark, to where, and the way it takes.
TEST_F(NodeNetworkTest, EspOrPlaintextIsARoutingDecision) {
  DesiredNetwork desired = Desired();
  desired.plain_routes = {{Net("10.244.2.240/28"), Ip("192.0.2.2")}};
  desired.node_cidrs = {Net("192.0.2.0/24")};
  network_->SetDesired(desired);
  EXPECT_THAT(network_->Problems(), IsEmpty());
  // A pod behind an interface of its own, and a way out for all that leaks.
  ASSERT_TRUE(
      client_->AddVeth({.name = "pod0", .up = true}, {.name = "pod1"}).ok());
  const int32_t pod = client_->GetLink("pod0")->index;
  ASSERT_TRUE(
      client_->ChangeLink(client_->GetLink("pod1")->index, {.up = true}).ok());
  ASSERT_TRUE(client_
                  ->Apply(Verb::kAdd, Route{.destination = Net("10.244.1.5/32"),
                                            .protocol = kPodRouteProtocol,
                                            .scope = RT_SCOPE_LINK,
                                            .interface_index = pod})
                  .ok());
  ASSERT_TRUE(client_
                  ->Apply(Verb::kAdd, Route{.destination = Net("0.0.0.0/0"),
                                            .interface_index = uplink_,
                                            .gateway = Ip("192.0.2.254")})
                  .ok());
  const auto mark = [](base::Mark mark) {
    return base::MarkValue(base::kDefaultMarkMask, mark);
  };
  struct Row {
    base::Mark mark;
    bool from_pod;
    const char* to;
    int32_t way;  // 0: nowhere
  };
  const Row rows[] = {
      {base::Mark::kFromRequired, true, "10.244.2.9", tunnel_},
      {base::Mark::kFromRequired, true, "10.244.2.241", tunnel_},
      {base::Mark::kFromPreferred, true, "10.244.2.241", tunnel_},
      {base::Mark::kNone, true, "10.244.2.241", tunnel_},
      {base::Mark::kFromDisabled, true, "10.244.2.241", uplink_},
      {base::Mark::kFromDisabled, true, "10.244.2.9", tunnel_},
      {base::Mark::kFromDisabled, true, "10.244.77.1", 0},
      {base::Mark::kFromRequired, true, "192.0.2.2", tunnel_},
      {base::Mark::kFromRequired, true, "192.0.2.77", 0},
      {base::Mark::kFromRequired, true, "198.51.100.1", uplink_},
      {base::Mark::kNone, false, "10.244.2.241", tunnel_},
      {base::Mark::kNone, false, "192.0.2.2", uplink_},
      {base::Mark::kNone, false, "192.0.2.77", uplink_},
      {base::Mark::kBypass, false, "192.0.2.2", uplink_},
      {base::Mark::kNone, false, "10.244.1.5", pod},
      {base::Mark::kFromDisabled, true, "10.244.1.77", 0},
  };
  for (const Row& row : rows) {
    netlink::RouteClient::LookUp look{.destination = Ip(row.to),
                                      .mark = mark(row.mark)};
    if (row.from_pod) {
      look.source = Ip("10.244.1.5");
      look.input_interface = pod;
    }
    const auto route = client_->LookUpRoute(look);
    EXPECT_EQ(route.ok() ? route->interface_index : 0, row.way)
        << row.to << " mark " << static_cast<int>(row.mark) << " "
        << route.status();
  }
  // Without the tunnel none of it finds the uplink, and `disabled` only its
  // own.
  tun_.reset();
  for (const Row& row : rows) {
    if (row.way != tunnel_) continue;
    netlink::RouteClient::LookUp look{.destination = Ip(row.to),
                                      .mark = mark(row.mark)};
    if (row.from_pod) {
      look.source = Ip("10.244.1.5");
      look.input_interface = pod;
    }
    EXPECT_FALSE(client_->LookUpRoute(look).ok()) << row.to;
  }
}

// The block goes in before, and goes after, what it is there for.
TEST_F(NodeNetworkTest, BarriersComeFirstAndGoLast) {
  auto listener = *netlink::Socket::Open();
  std::vector<std::pair<uint16_t, Route>> changes;
  ASSERT_TRUE(listener
                  ->Subscribe(
                      {RTNLGRP_IPV4_ROUTE},
                      [&](const netlink::Reply& reply) {
                        const auto route = netlink::DecodeRoute(reply.payload);
                        if (route.ok() && route->protocol == kRouteProtocol) {
                          changes.emplace_back(reply.type, *route);
                        }
                      },
                      [] {})
                  .ok());
  network_->SetDesired(Desired());
  listener->HandleReadable();
  bool carrying = false;
  for (const auto& [type, route] : changes) {
    EXPECT_EQ(type, RTM_NEWROUTE);
    if (!LeadsNowhere(route)) carrying = true;
    EXPECT_FALSE(carrying && LeadsNowhere(route)) << route.ToString();
  }
  EXPECT_TRUE(carrying);
  changes.clear();
  DesiredNetwork nothing = Desired();
  nothing.routes.clear();
  network_->SetDesired(nothing);
  listener->HandleReadable();
  bool barrier_gone = false;
  for (const auto& [type, route] : changes) {
    EXPECT_EQ(type, RTM_DELROUTE);
    if (LeadsNowhere(route)) barrier_gone = true;
    EXPECT_FALSE(barrier_gone && !LeadsNowhere(route)) << route.ToString();
  }
  EXPECT_TRUE(barrier_gone);
}

TEST_F(NodeNetworkTest, PlaintextPathsNeedLooseUplinks) {
  Sysctl sysctl;
  ASSERT_TRUE(sysctl.Write("net/ipv4/conf/all/rp_filter", "1").ok());
  ASSERT_TRUE(sysctl.Write("net/ipv4/conf/up0/rp_filter", "1").ok());
  network_->SetDesired(Desired());
  EXPECT_EQ(*sysctl.Read("net/ipv4/conf/up0/rp_filter"), "1");
  DesiredNetwork desired = Desired();
  desired.plain_routes = {{Net("10.244.2.240/28"), Ip("192.0.2.2")}};
  network_->SetDesired(desired);
  EXPECT_EQ(*sysctl.Read("net/ipv4/conf/up0/rp_filter"), "2");
  EXPECT_EQ(*sysctl.Read("net/ipv4/conf/up1/rp_filter"), "0");
}

TEST_F(NodeNetworkTest, PlainRoutesLeadIntoTheVxlan) {
  DesiredNetwork desired = Desired();
  desired.plain_routes = {{Net("10.244.2.240/28"), Ip("192.0.2.2")},
                          {Net("fd00:244:2::f0/124"), Ip("192.0.2.2")}};
  desired.vxlan = {
      .id = 69, .port = 4790, .mtu = 1444, .address = Ip("10.244.1.1")};
  network_->SetDesired(desired);
  EXPECT_THAT(network_->Problems(), IsEmpty());
  const absl::StatusOr<netlink::Link> link = client_->GetLink(kVxlanDevice);
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ(link->kind, "vxlan");
  EXPECT_TRUE(link->up());
  EXPECT_EQ(link->mtu, 1444u);
  EXPECT_THAT(*client_->ListAddresses(link->index),
              Contains(Field(&netlink::Address::address, Ip("10.244.1.1"))));
  const auto plain = client_->ListRoutes({.table = kPlainTable});
  ASSERT_TRUE(plain.ok());
  ASSERT_THAT(*plain, SizeIs(2));
  for (const netlink::Route& route : *plain) {
    EXPECT_EQ(route.interface_index, link->index);
    EXPECT_EQ(route.encapsulation,
              (netlink::Encapsulation{69, Ip("192.0.2.2")}));
  }
  // As it should be, nothing is done.
  Settle();
  EXPECT_EQ(client_->GetLink(kVxlanDevice)->index, link->index);

  // Deleted by somebody: it and its routes are made good.
  ASSERT_TRUE(client_->DeleteLink(kVxlanDevice).ok());
  Settle();
  EXPECT_THAT(*client_->ListRoutes({.table = kPlainTable}), SizeIs(2));
  // Another port is another device.
  const int32_t index = client_->GetLink(kVxlanDevice)->index;
  desired.vxlan->port = 4791;
  network_->SetDesired(desired);
  EXPECT_NE(client_->GetLink(kVxlanDevice)->index, index);
  EXPECT_THAT(*client_->ListRoutes({.table = kPlainTable}), SizeIs(2));
  desired.vxlan.reset();
  desired.plain_routes.clear();
  network_->SetDesired(desired);
  EXPECT_TRUE(absl::IsNotFound(client_->GetLink(kVxlanDevice).status()));
  EXPECT_THAT(network_->Problems(), IsEmpty());
}

TEST_F(NodeNetworkTest, SomebodyElsesDeviceOfThatNameStays) {
  ASSERT_TRUE(client_->AddLink({.name = kVxlanDevice}, "bridge").ok());
  DesiredNetwork desired = Desired();
  desired.plain_routes = {{Net("10.244.2.240/28"), Ip("192.0.2.2")}};
  desired.vxlan = {.id = 69, .port = 4790, .mtu = 1444};
  network_->SetDesired(desired);
  EXPECT_THAT(network_->Problems(),
              Contains(Field(&NetworkProblem::item, "the VXLAN device")));
  EXPECT_EQ(client_->GetLink(kVxlanDevice)->kind, "bridge");
  EXPECT_THAT(*client_->ListRoutes({.table = kPlainTable}), IsEmpty());
  desired.vxlan.reset();
  network_->SetDesired(desired);
  EXPECT_EQ(client_->GetLink(kVxlanDevice)->kind, "bridge");
}

TEST_F(NodeNetworkTest, AnInterfaceThatComesLaterIsUsed) {
  tun_.reset();
  network_->SetDesired(Desired());
  EXPECT_FALSE(client_->LookUpRoute(Ip("10.244.2.9")).ok());
  MakeTun();
  Settle();
  EXPECT_EQ(client_->LookUpRoute(Ip("10.244.2.9"))->interface_index, tunnel_);
}

TEST_F(NodeNetworkTest, Ipv6ForwardingKeepsAdvertisementsOnUplinksOnly) {
  Sysctl sysctl;
  ASSERT_TRUE(sysctl.Write("net/ipv6/conf/up0/accept_ra", "1").ok());
  ASSERT_TRUE(sysctl.Write("net/ipv6/conf/up1/accept_ra", "1").ok());
  network_->SetDesired(Desired());
  EXPECT_EQ(*sysctl.Read("net/ipv6/conf/up0/accept_ra"), "2");
  EXPECT_EQ(*sysctl.Read("net/ipv6/conf/up1/accept_ra"), "1");
  EXPECT_EQ(*sysctl.Read("net/ipv6/conf/all/forwarding"), "1");
}

TEST_F(NodeNetworkTest, MasqueradesTowardsTheOutsideOnly) {
  network_->SetDesired(Desired());
  Nftables nft;
  const std::string list = "list table inet espalier_nat";
  absl::StatusOr<std::string> table = nft.Run(list);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(*table, HasSubstr("masquerade"));
  EXPECT_THAT(*table, HasSubstr("10.244.0.0/16"));
  EXPECT_THAT(*table, HasSubstr("192.0.2.1"));
  EXPECT_THAT(*table, HasSubstr("fd00:244::/32"));
  ASSERT_TRUE(nft.Run("add table inet foreign").ok());
  ASSERT_TRUE(nft.Run("delete table inet espalier_nat").ok());
  ASSERT_FALSE(nft.Run(list).ok());
  loop_.Advance(absl::Minutes(1));
  EXPECT_EQ(*nft.Run(list), *table);
  DesiredNetwork off = Desired();
  off.masquerade = false;
  network_->SetDesired(off);
  EXPECT_FALSE(nft.Run(list).ok());
  EXPECT_TRUE(nft.Run("list table inet foreign").ok());
}

// --- removal.h ---

class RemovalTest : public NodeNetworkTest {
 protected:
  // What is somebody else's, in each kind that is removed.
  void AddForeign() {
    ASSERT_TRUE(
        client_
            ->Apply(Verb::kAdd, Route{.destination = Net("198.51.100.0/24"),
                                      .protocol = RTPROT_STATIC,
                                      .interface_index = uplink_})
            .ok());
    ASSERT_TRUE(
        client_
            ->Apply(Verb::kAdd, Route{.destination = Net("10.244.200.0/24"),
                                      .table = kEspTable,
                                      .type = RTN_BLACKHOLE,
                                      .protocol = RTPROT_STATIC})
            .ok());
    ASSERT_TRUE(client_
                    ->Apply(Verb::kAdd, netlink::Rule{.priority = 4502,
                                                      .table = kEspTable,
                                                      .mark = 7,
                                                      .mark_mask = 7})
                    .ok());
    Nftables nft;
    ASSERT_TRUE(nft.Run("add table inet foreign").ok());
    foreign_routes_ = Foreign().size();
    foreign_rules_ = ForeignRules();
  }
  std::vector<Route> Foreign() {
    return *client_->ListRoutes({.protocol = RTPROT_STATIC});
  }
  size_t ForeignRules() {
    const auto rules = *client_->ListRules();
    return std::ranges::count_if(rules, [](const netlink::Rule& rule) {
      return rule.protocol != kRouteProtocol;
    });
  }
  size_t OwnedRules() { return client_->ListRules()->size() - ForeignRules(); }
  // The agent is away.
  void Install(const DesiredNetwork& desired) {
    network_->SetDesired(desired);
    Settle();
    ASSERT_THAT(network_->Problems(), IsEmpty());
    network_.reset();
  }

  size_t foreign_routes_ = 0;
  size_t foreign_rules_ = 0;
};

TEST_F(RemovalTest, LeavesNothingButWhatIsForeign) {
  AddForeign();
  Install(Desired());
  ASSERT_GT(Owned().size(), 0u);
  ASSERT_GT(OwnedRules(), 0u);
  EXPECT_EQ(RemoveTunnelInterface(socket_.get(), "espalier0", false).value(),
            "esp0");
  EXPECT_FALSE(client_->GetLink("esp0").ok());
  const auto removed = RemoveRoutes(socket_.get());
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_GT(removed->routes, 0u);
  EXPECT_GT(removed->rules, 0u);
  Nftables nft;
  EXPECT_TRUE(netlink::RemoveTable(&nft, kNatTable).value());

  EXPECT_THAT(Owned(), IsEmpty());
  EXPECT_EQ(OwnedRules(), 0u);
  EXPECT_FALSE(nft.Run("list table inet espalier_nat").ok());
  EXPECT_EQ(Foreign().size(), foreign_routes_);
  EXPECT_EQ(ForeignRules(), foreign_rules_);
  EXPECT_TRUE(nft.Run("list table inet foreign").ok());
  EXPECT_TRUE(client_->GetLink("up0").ok());
  EXPECT_FALSE(client_->ListAddresses(uplink_)->empty());
  // Again.
  EXPECT_EQ(RemoveTunnelInterface(socket_.get(), "espalier0", false).value(),
            "");
  EXPECT_EQ(RemoveRoutes(socket_.get())->routes, 0u);
  EXPECT_FALSE(netlink::RemoveTable(&nft, kNatTable).value());
}

TEST_F(RemovalTest, PolicyBasedItIsTheUplinkThatStays) {
  DesiredNetwork desired = Desired();
  desired.tunnel_interface = "up0";
  desired.tunnel_is_uplink = true;
  Install(desired);
  const int32_t loopback = client_->GetLink("lo")->index;
  const auto ours = [&] {
    const auto addresses = *client_->ListAddresses(loopback);
    return std::ranges::count_if(addresses, [](const netlink::Address& one) {
      return one.address == Ip("10.244.1.1") ||
             one.address == Ip("fd00:244:1::1");
    });
  };
  ASSERT_EQ(ours(), 2);
  EXPECT_EQ(RemoveTunnelInterface(socket_.get(), "espalier0", true).value(),
            "");
  const auto removed = RemoveRoutes(socket_.get());
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(removed->addresses, 2u);
  EXPECT_EQ(ours(), 0);
  EXPECT_THAT(Owned(), IsEmpty());
  EXPECT_TRUE(client_->GetLink("up0").ok());
}

TEST_F(RemovalTest, AnInterfaceOfAnotherKindStays) {
  ASSERT_TRUE(client_->AddVeth({.name = "espalier0"}, {.name = "other"}).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(
      RemoveTunnelInterface(socket_.get(), "espalier0", false).status()));
  EXPECT_TRUE(client_->GetLink("espalier0").ok());
  EXPECT_TRUE(client_->GetLink("esp0").ok()) << "no route of ours leads there";
}

}  // namespace
}  // namespace espalier::network
