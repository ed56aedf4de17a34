// The nftables guard alone, on the running kernel: packets between a wire, a
// TUN and pods, with no routes of ours, no datapath and no eBPF.
#include "agent/guard/nftables_guard.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "agent/base/marks.h"
#include "agent/netlink/network_namespace.h"
#include "agent/netlink/route_client.h"
#include "agent/network/sysctl.h"
#include "gmock/gmock.h"
#include "tests/netns/private_namespace.h"
#include "tests/support/manual_loop.h"

namespace espalier::guard {
namespace {

using base::IpAddress;
using netlink::RouteClient;
using netlink::Verb;
using ::testing::IsEmpty;

IpAddress Ip(const std::string& text) { return *IpAddress::Parse(text); }
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

constexpr uint16_t kPort = 7000;

int UdpSocket(const IpAddress& bind_to) {
  const int fd = socket(bind_to.is_v4() ? AF_INET : AF_INET6,
                        SOCK_DGRAM | SOCK_CLOEXEC, 0);
  // Whoever forges a source needs no address of his own.
  const int one = 1;
  setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof(one));
  setsockopt(fd, SOL_IPV6, IPV6_TRANSPARENT, &one, sizeof(one));
  sockaddr_in v4{.sin_family = AF_INET, .sin_port = htons(kPort)};
  sockaddr_in6 v6{.sin6_family = AF_INET6, .sin6_port = htons(kPort)};
  const base::ByteSpan bytes = bind_to.bytes();
  int result = 0;
  if (bind_to.is_v4()) {
    std::copy(bytes.begin(), bytes.end(),
              reinterpret_cast<uint8_t*>(&v4.sin_addr));
    result = bind(fd, reinterpret_cast<sockaddr*>(&v4), sizeof(v4));
  } else {
    std::copy(bytes.begin(), bytes.end(),
              reinterpret_cast<uint8_t*>(&v6.sin6_addr));
    result = bind(fd, reinterpret_cast<sockaddr*>(&v6), sizeof(v6));
  }
  EXPECT_EQ(result, 0) << bind_to.ToString();
  return fd;
}

void Send(int fd, const IpAddress& to) {
  sockaddr_in v4{.sin_family = AF_INET, .sin_port = htons(kPort)};
  sockaddr_in6 v6{.sin6_family = AF_INET6, .sin6_port = htons(kPort)};
  const base::ByteSpan bytes = to.bytes();
  if (to.is_v4()) {
    std::copy(bytes.begin(), bytes.end(),
              reinterpret_cast<uint8_t*>(&v4.sin_addr));
    sendto(fd, "x", 1, 0, reinterpret_cast<sockaddr*>(&v4), sizeof(v4));
  } else {
    std::copy(bytes.begin(), bytes.end(),
              reinterpret_cast<uint8_t*>(&v6.sin6_addr));
    sendto(fd, "x", 1, 0, reinterpret_cast<sockaddr*>(&v6), sizeof(v6));
  }
}

bool Receives(int fd) {
  pollfd waits{.fd = fd, .events = POLLIN};
  if (poll(&waits, 1, 150) != 1) return false;
  char octet = 0;
  return recv(fd, &octet, 1, 0) == 1;
}

constexpr netlink::MacAddress kNodeMac = {2, 0, 0, 0, 0, 1};
constexpr netlink::MacAddress kEndMac = {2, 0, 0, 0, 0, 2};
// Whatever a test sends to: reached by the node's link address, so that no
// test waits for neighbour discovery.
constexpr const char* kEverybody[] = {
    "10.0.1.2",    "10.0.1.3",  "10.0.1.4",  "10.0.1.77", "10.0.2.2",
    "10.0.2.250",  "10.0.3.9",  "192.0.2.1", "192.0.2.2", "198.51.100.9",
    "169.254.1.1", "fd00:1::2", "fd00:2::2"};

// A namespace behind a veth of the node's: a pod or the wire.
class End {
 public:
  End(RouteClient* node, const std::string& interface,
      const std::vector<std::string>& node_addresses,
      const std::vector<std::string>& addresses) {
    EXPECT_TRUE(
        node->AddVeth({.name = interface, .mac = kNodeMac, .up = true},
                      {.name = "eth0", .mac = kEndMac, .netns_fd = other_.fd()})
            .ok());
    const int32_t index = node->GetLink(interface)->index;
    for (const std::string& address : node_addresses) {
      AddAddress(node, index, address);
    }
    for (const std::string& address : addresses) {
      AddNeighbour(node, index, address, kEndMac);
    }
    EXPECT_TRUE(netlink::RunInNetworkNamespace(other_.fd(), [&] {
                  SetUp(addresses);
                  return absl::OkStatus();
                }).ok());
  }

  int Socket(const std::string& address) {
    int fd = -1;
    EXPECT_TRUE(netlink::RunInNetworkNamespace(other_.fd(), [&] {
                  fd = UdpSocket(Ip(address));
                  return absl::OkStatus();
                }).ok());
    return fd;
  }

 private:
  void SetUp(const std::vector<std::string>& addresses) {
    auto socket = *netlink::Socket::Open();
    RouteClient client(socket.get());
    const int32_t index = client.GetLink("eth0")->index;
    netlink::LinkChange up;
    up.up = true;
    EXPECT_TRUE(client.ChangeLink(index, up).ok());
    for (const std::string& address : addresses) {
      AddAddress(&client, index, address);
    }
    for (const base::Family family :
         {base::Family::kIpv4, base::Family::kIpv6}) {
      EXPECT_TRUE(
          client
              .Apply(Verb::kAdd,
                     netlink::Route{.destination = *base::IpPrefix::Make(
                                        IpAddress::Any(family), 0),
                                    .scope = RT_SCOPE_LINK,
                                    .interface_index = index})
              .ok());
    }
    for (const char* address : kEverybody) {
      if (std::ranges::find(addresses, address) == addresses.end()) {
        AddNeighbour(&client, index, address, kNodeMac);
      }
    }
  }
  static void AddAddress(RouteClient* client, int32_t index,
                         const std::string& address) {
    netlink::Address value{
        .interface_index = index,
        .address = Ip(address),
        .prefix_length = static_cast<uint8_t>(Ip(address).bits())};
    if (value.address.is_v6()) value.flags = IFA_F_NODAD;
    EXPECT_TRUE(client->Apply(Verb::kAdd, value).ok()) << address;
  }
  static void AddNeighbour(RouteClient* client, int32_t index,
                           const std::string& address,
                           const netlink::MacAddress& mac) {
    EXPECT_TRUE(
        client
            ->Apply(Verb::kReplace, netlink::Neighbour{.interface_index = index,
                                                       .address = Ip(address),
                                                       .mac = mac})
            .ok())
        << address;
  }
  testing::OtherNamespace other_;
};

class NftablesGuardTest : public testing::PrivateNamespaceTest {
 protected:
  void SetUp() override {
    PrivateNamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    socket_ = *netlink::Socket::Open();
    client_ = std::make_unique<RouteClient>(socket_.get());
    network::Sysctl sysctl;
    ASSERT_TRUE(sysctl.Write("net/ipv4/ip_forward", "1").ok());
    ASSERT_TRUE(sysctl.Write("net/ipv6/conf/all/forwarding", "1").ok());
    ASSERT_TRUE(sysctl.Write("net/ipv4/conf/all/rp_filter", "0").ok());
    ASSERT_TRUE(sysctl.Write("net/ipv4/conf/default/rp_filter", "0").ok());
    // The wire has the peer's pods and a host of the outside.
    wire_ = std::make_unique<End>(
        client_.get(), "wire0", std::vector<std::string>{"192.0.2.1"},
        std::vector<std::string>{"192.0.2.2", "10.0.2.2", "10.0.2.250",
                                 "198.51.100.9", "fd00:2::2"});
    required_ = std::make_unique<End>(
        client_.get(), "espa", std::vector<std::string>{"169.254.1.1"},
        std::vector<std::string>{"10.0.1.2", "fd00:1::2"});
    preferred_ =
        std::make_unique<End>(client_.get(), "espb", std::vector<std::string>{},
                              std::vector<std::string>{"10.0.1.3"});
    disabled_ =
        std::make_unique<End>(client_.get(), "espc", std::vector<std::string>{},
                              std::vector<std::string>{"10.0.1.4"});
    AddRoute("10.0.1.2/32", "espa");
    AddRoute("fd00:1::2/128", "espa");
    AddRoute("10.0.1.3/32", "espb");
    AddRoute("10.0.1.4/32", "espc");
    // The way that must not be taken.
    for (const char* to :
         {"192.0.2.2/32", "10.0.2.0/24", "198.51.100.0/24", "fd00:2::/64"}) {
      AddRoute(to, "wire0");
    }
    auto guard = NftablesGuard::Open(&loop_, &loop_);
    ASSERT_TRUE(guard.ok()) << guard.status();
    guard_ = *std::move(guard);
    guard_->OnRepair([this](const GuardProblem&) { ++repairs_; });
  }

  void AddRoute(const std::string& to, const std::string& interface) {
    ASSERT_TRUE(
        client_
            ->Apply(Verb::kAdd,
                    netlink::Route{
                        .destination = Net(to),
                        .scope = RT_SCOPE_LINK,
                        .interface_index = client_->GetLink(interface)->index})
            .ok())
        << to;
  }
  static DesiredGuard Desired() {
    DesiredGuard desired;
    desired.tunnel_interface = "esp0";
    desired.pods = {{.host_interface = "espa",
                     .addresses = {Ip("10.0.1.2"), Ip("fd00:1::2")},
                     .mode = base::Mode::kRequired},
                    {.host_interface = "espb",
                     .addresses = {Ip("10.0.1.3")},
                     .mode = base::Mode::kPreferred},
                    {.host_interface = "espc",
                     .addresses = {Ip("10.0.1.4")},
                     .mode = base::Mode::kDisabled}};
    desired.inside = {InsideBlock::Pods(Net("10.0.0.0/16")),
                      InsideBlock::Pods(Net("fd00::/16")),
                      InsideBlock::PlaintextPods(Net("10.0.2.240/28")),
                      InsideBlock::AgentNode(Net("192.0.2.2/32"))};
    desired.own_addresses = {Ip("192.0.2.1")};
    desired.in_sync = true;
    return desired;
  }

  static bool Passes(End* from, const std::string& source, End* to,
                     const std::string& destination) {
    const int sender = from->Socket(source);
    const int receiver = to->Socket(destination);
    Send(sender, Ip(destination));
    const bool passes = Receives(receiver);
    close(sender);
    close(receiver);
    return passes;
  }

  uint64_t Count(const std::string& verdict) {
    for (const VerdictCount& count : guard_->Counters()) {
      if (count.verdict == verdict) return count.packets;
    }
    return 0;
  }
  void Settle() {
    loop_.PollAll();
    loop_.Advance(absl::Milliseconds(50));
  }

  testing::ManualLoop loop_;
  std::unique_ptr<netlink::Socket> socket_;
  std::unique_ptr<RouteClient> client_;
  std::unique_ptr<End> wire_, required_, preferred_, disabled_;
  std::unique_ptr<NftablesGuard> guard_;
  int repairs_ = 0;
};

TEST_F(NftablesGuardTest, WithoutItEverythingPasses) {
  EXPECT_TRUE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  EXPECT_TRUE(Passes(required_.get(), "fd00:1::2", wire_.get(), "fd00:2::2"));
  EXPECT_TRUE(Passes(wire_.get(), "10.0.2.2", required_.get(), "10.0.1.2"));
  EXPECT_TRUE(Passes(wire_.get(), "198.51.100.9", required_.get(), "10.0.1.2"));
}

TEST_F(NftablesGuardTest, KeepsPlaintextOfRequiredPodsOffTheWire) {
  guard_->SetDesired(Desired());
  ASSERT_THAT(guard_->Problems(), IsEmpty());
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  EXPECT_FALSE(Passes(required_.get(), "fd00:1::2", wire_.get(), "fd00:2::2"));
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.250"));
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "192.0.2.2"));
  EXPECT_EQ(Count("leak_from_pod"), 4u);
  EXPECT_FALSE(Passes(wire_.get(), "10.0.2.2", required_.get(), "10.0.1.2"));
  EXPECT_FALSE(Passes(wire_.get(), "192.0.2.2", required_.get(), "10.0.1.2"));
  EXPECT_FALSE(Passes(wire_.get(), "fd00:2::2", required_.get(), "fd00:1::2"));
  EXPECT_EQ(Count("plaintext_to_pod"), 3u);
  EXPECT_FALSE(
      Passes(wire_.get(), "198.51.100.9", required_.get(), "10.0.1.2"));
  EXPECT_EQ(Count("outside_in"), 1u);
}

// encryptNodeTraffic: what claims to be a peer's node comes by its tunnel.
TEST_F(NftablesGuardTest, PlaintextOfASealedNodeIsDropped) {
  DesiredGuard desired = Desired();
  const auto reaches_node = [&](const std::string& source) {
    const int sender = wire_->Socket(source);
    const int receiver = UdpSocket(Ip("192.0.2.1"));
    Send(sender, Ip("192.0.2.1"));
    const bool passes = Receives(receiver);
    close(sender);
    close(receiver);
    return passes;
  };
  guard_->SetDesired(desired);
  EXPECT_TRUE(reaches_node("192.0.2.2")) << "the control";
  desired.sealed_nodes = {Ip("192.0.2.2"), Ip("2001:db8::2")};
  desired.open_ports = {{IPPROTO_TCP, kPort}};
  guard_->SetDesired(desired);
  ASSERT_THAT(guard_->Problems(), IsEmpty());
  EXPECT_FALSE(reaches_node("192.0.2.2"));
  EXPECT_EQ(Count("node_plaintext"), 1u);
  EXPECT_TRUE(reaches_node("198.51.100.9")) << "not a node";
  // What the next look finds is what was written.
  Settle();
  EXPECT_EQ(repairs_, 0);
  desired.open_ports.push_back({IPPROTO_UDP, kPort});
  guard_->SetDesired(desired);
  EXPECT_TRUE(reaches_node("192.0.2.2")) << "an exception";
  desired.open_ports.clear();
  desired.sealed_nodes.clear();
  guard_->SetDesired(desired);
  EXPECT_TRUE(reaches_node("192.0.2.2"));
}

TEST_F(NftablesGuardTest, LetsPassWhatNeverLeavesTheNodeAndTheOutside) {
  guard_->SetDesired(Desired());
  EXPECT_TRUE(
      Passes(required_.get(), "10.0.1.2", preferred_.get(), "10.0.1.3"));
  EXPECT_TRUE(
      Passes(preferred_.get(), "10.0.1.3", required_.get(), "10.0.1.2"));
  EXPECT_TRUE(Passes(required_.get(), "10.0.1.2", wire_.get(), "198.51.100.9"));
  // The kubelet's probe, and its answer.
  const int node = UdpSocket(Ip("169.254.1.1"));
  const int pod = required_->Socket("10.0.1.2");
  Send(node, Ip("10.0.1.2"));
  EXPECT_TRUE(Receives(pod));
  Send(pod, Ip("169.254.1.1"));
  EXPECT_TRUE(Receives(node));
  close(node);
  close(pod);
}

TEST_F(NftablesGuardTest, RepliesFromOutsideComeIn) {
  guard_->SetDesired(Desired());
  const int pod = required_->Socket("10.0.1.2");
  const int outside = wire_->Socket("198.51.100.9");
  Send(pod, Ip("198.51.100.9"));
  ASSERT_TRUE(Receives(outside));
  Send(outside, Ip("10.0.1.2"));
  EXPECT_TRUE(Receives(pod));
  close(pod);
  close(outside);
}

TEST_F(NftablesGuardTest, OutsideByItsRules) {
  DesiredGuard desired = Desired();
  desired.pods[0].outside_denied = true;
  desired.pods[0].outside_in = true;
  guard_->SetDesired(desired);
  EXPECT_FALSE(
      Passes(required_.get(), "10.0.1.2", wire_.get(), "198.51.100.9"));
  EXPECT_EQ(Count("outside_denied"), 1u);
  EXPECT_TRUE(Passes(wire_.get(), "198.51.100.9", required_.get(), "10.0.1.2"));
  EXPECT_FALSE(Passes(wire_.get(), "10.0.2.2", required_.get(), "10.0.1.2"));
}

// Of a pod that may not speak to the outside, who is let in gets answers.
TEST_F(NftablesGuardTest, AnswersWhoIsLetIn) {
  DesiredGuard desired = Desired();
  desired.pods[0].outside_denied = true;
  desired.pods[0].outside_in = true;
  guard_->SetDesired(desired);
  const int pod = required_->Socket("10.0.1.2");
  const int outside = wire_->Socket("198.51.100.9");
  Send(pod, Ip("198.51.100.9"));
  EXPECT_FALSE(Receives(outside));
  Send(outside, Ip("10.0.1.2"));
  ASSERT_TRUE(Receives(pod));
  Send(pod, Ip("198.51.100.9"));
  EXPECT_TRUE(Receives(outside));
  EXPECT_EQ(Count("outside_denied"), 1u);
  close(pod);
  close(outside);
}

TEST_F(NftablesGuardTest, DisabledOnlyTowardsPlaintextBlocks) {
  guard_->SetDesired(Desired());
  EXPECT_TRUE(Passes(disabled_.get(), "10.0.1.4", wire_.get(), "10.0.2.250"));
  EXPECT_FALSE(Passes(disabled_.get(), "10.0.1.4", wire_.get(), "10.0.2.2"));
  EXPECT_FALSE(Passes(preferred_.get(), "10.0.1.3", wire_.get(), "10.0.2.250"));
  EXPECT_EQ(Count("leak_to_pod"), 2u);
  // What is not required takes what comes.
  EXPECT_TRUE(Passes(wire_.get(), "10.0.2.250", disabled_.get(), "10.0.1.4"));
  EXPECT_TRUE(Passes(wire_.get(), "10.0.2.2", preferred_.get(), "10.0.1.3"));
}

// A wire that came later, a pod that nobody told of, a pod that is gone.
TEST_F(NftablesGuardTest, WhatIsNotKnownIsTheStrongest) {
  DesiredGuard desired = Desired();
  desired.pods.erase(desired.pods.begin() + 1);
  guard_->SetDesired(desired);
  EXPECT_FALSE(Passes(preferred_.get(), "10.0.1.3", wire_.get(), "10.0.2.2"));
  EXPECT_FALSE(Passes(wire_.get(), "10.0.2.2", preferred_.get(), "10.0.1.3"));
}

TEST_F(NftablesGuardTest, AForgedSourceGoesNowhere) {
  guard_->SetDesired(Desired());
  EXPECT_FALSE(
      Passes(preferred_.get(), "10.0.1.2", required_.get(), "10.0.1.2"));
  EXPECT_FALSE(
      Passes(preferred_.get(), "10.0.1.77", wire_.get(), "198.51.100.9"));
  EXPECT_GE(Count("wrong_source"), 1u);
  EXPECT_FALSE(Passes(wire_.get(), "10.0.1.3", required_.get(), "10.0.1.2"));
  EXPECT_GE(Count("wire_plaintext"), 1u);
}

TEST_F(NftablesGuardTest, AModeChangesBothWays) {
  DesiredGuard desired = Desired();
  guard_->SetDesired(desired);
  EXPECT_TRUE(Passes(disabled_.get(), "10.0.1.4", wire_.get(), "10.0.2.250"));
  desired.pods[2].mode = base::Mode::kRequired;
  guard_->SetDesired(desired);
  EXPECT_FALSE(Passes(disabled_.get(), "10.0.1.4", wire_.get(), "10.0.2.250"));
  EXPECT_FALSE(Passes(wire_.get(), "10.0.2.250", disabled_.get(), "10.0.1.4"));
  desired.pods[2].mode = base::Mode::kDisabled;
  guard_->SetDesired(desired);
  EXPECT_TRUE(Passes(disabled_.get(), "10.0.1.4", wire_.get(), "10.0.2.250"));
}

TEST_F(NftablesGuardTest, ATableDeletedByHandIsMadeGoodAndTold) {
  guard_->SetDesired(Desired());
  Settle();
  EXPECT_EQ(repairs_, 0);
  netlink::Nftables nft;
  ASSERT_TRUE(nft.Run("delete table inet espalier_guard").ok());
  EXPECT_TRUE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  Settle();
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  EXPECT_EQ(repairs_, 1);
  ASSERT_TRUE(nft.Run("flush chain inet espalier_guard forward").ok());
  Settle();
  EXPECT_EQ(repairs_, 2);
  ASSERT_TRUE(
      nft.Run("add element inet espalier_guard relaxed4 { 10.0.1.2 }").ok());
  Settle();
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  EXPECT_EQ(repairs_, 3);
  // Somebody else's table is nobody's business.
  ASSERT_TRUE(nft.Run("add table inet foreign").ok());
  Settle();
  EXPECT_EQ(repairs_, 3);
}

TEST_F(NftablesGuardTest, OutlivesItsAgentAndCountsOn) {
  guard_->SetDesired(Desired());
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  guard_.reset();
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  guard_ = *NftablesGuard::Open(&loop_, &loop_);
  // An agent that knows nothing yet weakens nothing.
  DesiredGuard early;
  guard_->SetDesired(early);
  EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
  EXPECT_TRUE(
      Passes(required_.get(), "10.0.1.2", preferred_.get(), "10.0.1.3"));
  guard_->SetDesired(Desired());
  EXPECT_EQ(Count("leak_from_pod"), 3u);
}

TEST_F(NftablesGuardTest, APodIsProtectedBeforeItIsUp) {
  DesiredGuard desired = Desired();
  const GuardedPod pod = desired.pods[1];
  desired.pods.erase(desired.pods.begin() + 1);
  EXPECT_FALSE(guard_->Protect(pod).ok());
  guard_->SetDesired(desired);
  ASSERT_TRUE(guard_->Protect(pod).ok());
  EXPECT_TRUE(
      Passes(preferred_.get(), "10.0.1.3", required_.get(), "10.0.1.2"));
  guard_->SetDesired(desired);
  EXPECT_FALSE(Passes(preferred_.get(), "10.0.1.3", wire_.get(), "10.0.2.2"));
}

// Plaintext of a required pod of both families, as fast as a core makes it.
class Flood {
 public:
  Flood(End* from, End* to)
      : receivers_{to->Socket("10.0.2.2"), to->Socket("fd00:2::2")} {
    thread_ = std::jthread([senders = std::array{from->Socket("10.0.1.2"),
                                                 from->Socket("fd00:1::2")}](
                               const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        for (int i = 0; i < 32; ++i) Send(senders[0], Ip("10.0.2.2"));
        for (int i = 0; i < 32; ++i) Send(senders[1], Ip("fd00:2::2"));
      }
      for (const int fd : senders) close(fd);
    });
  }
  ~Flood() {
    thread_.request_stop();
    thread_.join();
    for (const int fd : receivers_) close(fd);
  }
  // So many have come out on the wire since the last call.
  int Arrived() {
    int count = 0;
    char octet = 0;
    for (const int fd : receivers_) {
      while (recv(fd, &octet, 1, MSG_DONTWAIT) == 1) ++count;
    }
    return count;
  }

 private:
  std::array<int, 2> receivers_;
  std::jthread thread_;
};

constexpr int kRewrites = 400;

// A packet that meets neither the old rules nor the new ones would pass.
TEST_F(NftablesGuardTest, WhileItsRulesAreRewrittenNothingPasses) {
  DesiredGuard desired = Desired();
  guard_->SetDesired(desired);
  Flood flood(required_.get(), wire_.get());
  int leaks = flood.Arrived();
  for (int i = 0; i < kRewrites; ++i) {
    // In turn: other rules, other blocks, and an agent that knows nothing of
    // what stands.
    switch (i % 3) {
      case 0:
        desired.tunnel_needs_mark = !desired.tunnel_needs_mark;
        break;
      case 1:
        desired.inside.push_back(InsideBlock::Pods(
            Net(absl::StrCat("10.", 1 + i / 3 % 200, ".0.0/16"))));
        break;
      case 2:
        desired.inside.resize(4);
        guard_ = *NftablesGuard::Open(&loop_, &loop_);
    }
    guard_->SetDesired(desired);
    leaks += flood.Arrived();
  }
  ASSERT_THAT(guard_->Problems(), IsEmpty());
  EXPECT_EQ(leaks, 0);
  EXPECT_GT(Count("leak_from_pod"), 100u * kRewrites);
}

// The control of the test above.
TEST_F(NftablesGuardTest, ADeletedTableIsNotReplacedInOneStep) {
  guard_->SetDesired(Desired());
  guard_.reset();
  Flood flood(required_.get(), wire_.get());
  netlink::Nftables nft;
  const GuardTable wanted = TableOf(Desired());
  int leaks = flood.Arrived(), rewrites = 0;
  for (; rewrites < 10 * kRewrites && leaks == 0; ++rewrites) {
    ASSERT_TRUE(nft.Run(ReplaceTable(wanted)).ok());
    leaks += flood.Arrived();
  }
  EXPECT_GT(leaks, 0);
  std::printf("%d packets in %d rewrites\n", leaks, rewrites);
}

// Each call of nft fails once in turn; the table ends as if none had.
class FaultyNftables : public netlink::Nftables {
 public:
  FaultyNftables(int* calls, int fail_at) : calls_(calls), fail_at_(fail_at) {}
  absl::StatusOr<std::string> Run(const std::string& commands) override {
    if (++*calls_ == fail_at_) return absl::UnavailableError("fails");
    return Nftables::Run(commands);
  }
  absl::StatusOr<std::string> RunStateless(
      const std::string& commands) override {
    if (++*calls_ == fail_at_) return absl::UnavailableError("fails");
    return Nftables::RunStateless(commands);
  }

 private:
  int* calls_;
  const int fail_at_;
};

TEST_F(NftablesGuardTest, EachCallFailsOnce) {
  netlink::Nftables nft;
  std::string wanted;
  for (int fail_at = 0;; ++fail_at) {
    SCOPED_TRACE(fail_at);
    (void)nft.Run("delete table inet espalier_guard");
    int calls = 0;
    guard_ = std::make_unique<NftablesGuard>(
        &loop_, &loop_, std::make_unique<FaultyNftables>(&calls, fail_at),
        nullptr, NftablesGuardOptions());
    DesiredGuard desired = Desired();
    const GuardedPod late = desired.pods.back();
    desired.pods.pop_back();
    guard_->SetDesired(desired);
    if (!guard_->Protect(late).ok()) {
      // ADD fails, and the runtime tries again.
      EXPECT_TRUE(guard_->Protect(late).ok());
    }
    desired = Desired();
    desired.pods[1].mode = base::Mode::kRequired;
    guard_->SetDesired(desired);
    EXPECT_FALSE(Passes(required_.get(), "10.0.1.2", wire_.get(), "10.0.2.2"));
    loop_.Advance(absl::Minutes(2));
    EXPECT_THAT(guard_->Problems(), IsEmpty());
    std::string listed = *nft.RunStateless("list table inet espalier_guard");
    // Which side is in use depends on how often it was tried.
    if (listed.find("@inside4_b") != std::string::npos) {
      listed = absl::StrReplaceAll(listed, {{"4_a ", "4_b "},
                                            {"6_a ", "6_b "},
                                            {"4_b ", "4_a "},
                                            {"6_b ", "6_a "}});
    }
    std::vector<std::string> lines = absl::StrSplit(listed, '\n');
    std::ranges::sort(lines);
    listed = absl::StrJoin(lines, "\n");
    if (fail_at == 0) wanted = listed;
    EXPECT_EQ(listed, wanted);
    if (HasFailure() || (fail_at > 0 && calls < fail_at)) break;
  }
}

// Comes out of the tunnel as from espd, whole packets.
class TunnelTest : public NftablesGuardTest {
 protected:
  void SetUp() override {
    NftablesGuardTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    fd_ = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    ifreq request{};
    std::string("esp0").copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    ASSERT_EQ(ioctl(fd_, TUNSETIFF, &request), 0);
    netlink::LinkChange up;
    up.up = true;
    ASSERT_TRUE(client_->ChangeLink(client_->GetLink("esp0")->index, up).ok());
  }
  void TearDown() override {
    if (fd_ >= 0) close(fd_);
  }

  void Inject(const std::string& source, const std::string& destination) {
    std::vector<uint8_t> packet(29);
    packet[0] = 0x45;
    packet[3] = 29;
    packet[8] = 64;
    packet[9] = IPPROTO_UDP;
    const IpAddress from = Ip(source), to = Ip(destination);
    std::copy(from.bytes().begin(), from.bytes().end(), packet.begin() + 12);
    std::copy(to.bytes().begin(), to.bytes().end(), packet.begin() + 16);
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2) {
      sum += uint32_t{packet[i]} << 8 | packet[i + 1];
    }
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    packet[10] = static_cast<uint8_t>(~sum >> 8);
    packet[11] = static_cast<uint8_t>(~sum);
    packet[20] = packet[22] = kPort >> 8;
    packet[21] = packet[23] = kPort & 0xff;
    packet[25] = 9;
    ASSERT_EQ(write(fd_, packet.data(), packet.size()), 29);
  }
  bool Arrives(const std::string& source, End* to,
               const std::string& destination) {
    const int receiver = to->Socket(destination);
    Inject(source, destination);
    const bool arrives = Receives(receiver);
    close(receiver);
    return arrives;
  }
  int fd_ = -1;
};

TEST_F(TunnelTest, WhatComesOutOfEspArrivesAndDoesNotLeaveAgain) {
  EXPECT_TRUE(Arrives("10.0.3.9", wire_.get(), "10.0.2.250"));
  guard_->SetDesired(Desired());
  EXPECT_TRUE(Arrives("10.0.2.2", required_.get(), "10.0.1.2"));
  EXPECT_TRUE(Arrives("192.0.2.2", required_.get(), "10.0.1.2"));
  EXPECT_FALSE(Arrives("10.0.3.9", wire_.get(), "10.0.2.250"));
  EXPECT_GE(Count("leak_from_esp") + Count("leak_from_pod"), 1u);
}

TEST_F(TunnelTest, WithoutTheMarkOfAnSaItIsNotEsp) {
  DesiredGuard desired = Desired();
  desired.tunnel_needs_mark = true;
  guard_->SetDesired(desired);
  EXPECT_FALSE(Arrives("10.0.2.2", required_.get(), "10.0.1.2"));
  EXPECT_EQ(Count("unencrypted_tunnel"), 1u);
  netlink::Nftables nft;
  // What the kernel's SAs do.
  ASSERT_TRUE(nft.Run("table inet sa {\n chain pre {\n type filter hook "
                      "prerouting priority -290; policy accept;\n iifname "
                      "\"esp0\" meta mark set 0x05000000\n }\n}\n")
                  .ok());
  EXPECT_TRUE(Arrives("10.0.2.2", required_.get(), "10.0.1.2"));
}

}  // namespace
}  // namespace espalier::guard
