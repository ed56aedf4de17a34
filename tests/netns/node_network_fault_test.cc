// Each netlink call of the node's network, each kernel setting and each nft
// transaction fails once in turn; the node ends as if none had.
#include "agent/netlink/socket.h"
#include "agent/network/kernel_node_network.h"
#include "agent/network/ownership.h"
#include "gmock/gmock.h"
#include "tests/netns/private_namespace.h"
#include "tests/support/faulty_channel.h"
#include "tests/support/manual_loop.h"

namespace espalier::network {
namespace {

using testing::FaultyChannel;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

// Counts over all calls of both, as the channel does.
struct OtherCalls {
  uint64_t calls = 0;
  uint64_t fail_at = 0;
  bool Fails() { return ++calls == fail_at; }
};

class FaultySysctl : public Sysctl {
 public:
  explicit FaultySysctl(OtherCalls* calls) : calls_(calls) {}
  absl::StatusOr<std::string> Read(const std::string& name) override {
    if (calls_->Fails()) return absl::UnavailableError("fails");
    return Sysctl::Read(name);
  }
  absl::Status Write(const std::string& name,
                     const std::string& value) override {
    if (calls_->Fails()) return absl::UnavailableError("fails");
    return Sysctl::Write(name, value);
  }

 private:
  OtherCalls* calls_;
};

class FaultyNftables : public Nftables {
 public:
  explicit FaultyNftables(OtherCalls* calls) : calls_(calls) {}
  absl::StatusOr<std::string> Run(const std::string& commands) override {
    if (calls_->Fails()) return absl::UnavailableError("fails");
    return Nftables::Run(commands);
  }

 private:
  OtherCalls* calls_;
};

DesiredNetwork First() {
  return {.tunnel_interface = "esp0",
          .tunnel_addresses = {Ip("10.244.1.1"), Ip("fd00:244:1::1")},
          .routes = {{.destination = Net("10.244.2.0/24"), .mtu = 1420},
                     {.destination = Net("fd00:244:2::/64"), .mtu = 1420}},
          .own_pod_cidrs = {Net("10.244.1.0/24"), Net("fd00:244:1::/64")},
          .cluster_pod_cidrs = {Net("10.244.0.0/16"), Net("fd00:244::/32")},
          .node_addresses = {Ip("192.0.2.1")}};
}

DesiredNetwork Second() {
  DesiredNetwork desired = First();
  desired.routes = {{.destination = Net("10.244.2.0/24"), .mtu = 1400},
                    {.destination = Net("10.244.3.0/24"), .mtu = 1420},
                    {.destination = Net("192.0.2.3/32"), .pods_only = true}};
  desired.node_addresses.push_back(Ip("192.0.2.3"));
  return desired;
}

// What a node looks like from outside.
struct Outcome {
  std::vector<netlink::Route> routes;
  std::vector<netlink::Rule> rules;
  std::vector<netlink::Address> addresses;
  std::string nft;
  std::string forwarding;
};

class NodeNetworkFaultTest : public testing::PrivateNamespaceTest {
 protected:
  // From an empty node to First() and then Second().
  Outcome Run(uint64_t fail_netlink, FaultyChannel::Failure how,
              uint64_t fail_other) {
    Outcome outcome;
    EXPECT_EQ(unshare(CLONE_NEWNET), 0);
    auto socket = *netlink::Socket::Open();
    netlink::RouteClient client(socket.get());
    EXPECT_TRUE(
        client.AddVeth({.name = "esp0", .up = true}, {.name = "esp1"}).ok());
    const int32_t index = client.GetLink("esp0")->index;
    EXPECT_TRUE(
        client.ChangeLink(client.GetLink("esp1")->index, {.up = true}).ok());
    auto channel = std::make_unique<FaultyChannel>(socket.get());
    FaultyChannel* const faulty = channel.get();
    if (fail_netlink != 0) faulty->FailCall(fail_netlink, how);
    OtherCalls other{.fail_at = fail_other};
    KernelNodeNetwork network(&loop_, &loop_, std::move(channel), nullptr,
                              std::make_unique<FaultySysctl>(&other),
                              std::make_unique<FaultyNftables>(&other), {});
    network.SetDesired(First());
    loop_.Advance(absl::Seconds(5));
    network.SetDesired(Second());
    loop_.Advance(absl::Seconds(5));
    for (const NetworkProblem& problem : network.Problems()) {
      ADD_FAILURE() << problem.item << ": " << problem.status;
    }
    failed_ =
        faulty->has_failed() || (fail_other != 0 && other.calls >= fail_other);
    outcome.routes = *client.ListRoutes({.protocol = kRouteProtocol});
    const std::vector<netlink::Rule> rules = *client.ListRules();
    for (const netlink::Rule& rule : rules) {
      if (rule.protocol == kRouteProtocol) outcome.rules.push_back(rule);
    }
    const std::vector<netlink::Address> addresses =
        *client.ListAddresses(index);
    for (const netlink::Address& address : addresses) {
      if (!address.address.IsLinkLocal()) outcome.addresses.push_back(address);
    }
    outcome.nft =
        Nftables().Run("list table inet espalier_nat").value_or("none");
    outcome.forwarding =
        Sysctl().Read("net/ipv6/conf/all/forwarding").value_or("none");
    return outcome;
  }

  void ExpectSame(const Outcome& outcome, const Outcome& wanted) {
    EXPECT_THAT(outcome.routes, UnorderedElementsAreArray(wanted.routes));
    EXPECT_THAT(outcome.rules, UnorderedElementsAreArray(wanted.rules));
    EXPECT_THAT(outcome.addresses, UnorderedElementsAreArray(wanted.addresses));
    EXPECT_EQ(outcome.nft, wanted.nft);
    EXPECT_EQ(outcome.forwarding, wanted.forwarding);
  }

  testing::ManualLoop loop_;
  bool failed_ = false;
};

TEST_F(NodeNetworkFaultTest, EachNetlinkCallFailsOnce) {
  const Outcome wanted = Run(0, FaultyChannel::Failure::kBefore, 0);
  ASSERT_EQ(wanted.routes.size(), 16u);
  // Bypass, plain and ESP of each family, and one by each own CIDR.
  ASSERT_EQ(wanted.rules.size(), 8u);
  for (const auto how :
       {FaultyChannel::Failure::kBefore, FaultyChannel::Failure::kAfter}) {
    uint64_t n = 1;
    for (failed_ = true; failed_; ++n) {
      SCOPED_TRACE(n);
      const Outcome outcome = Run(n, how, 0);
      ExpectSame(outcome, wanted);
      if (HasFailure()) return;
    }
    // Fewer would mean that the failing was never reached.
    EXPECT_GT(n, 25u);
  }
}

TEST_F(NodeNetworkFaultTest, EachSettingAndTransactionFailsOnce) {
  const Outcome wanted = Run(0, FaultyChannel::Failure::kBefore, 0);
  uint64_t n = 1;
  for (failed_ = true; failed_; ++n) {
    SCOPED_TRACE(n);
    ExpectSame(Run(0, FaultyChannel::Failure::kBefore, n), wanted);
    if (HasFailure()) return;
  }
  EXPECT_GT(n, 8u);
}

}  // namespace
}  // namespace espalier::network
