#include "agent/main/guard_control.h"

#include <deque>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using guard::InsideBlock;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

network::DesiredNetwork Desired() {
  network::DesiredNetwork desired;
  desired.tunnel_interface = "esp0";
  desired.own_pod_cidrs = {Net("10.0.1.0/24")};
  desired.cluster_pod_cidrs = {Net("10.0.0.0/16")};
  desired.node_cidrs = {Net("192.0.2.0/24")};
  desired.node_addresses = {Ip("192.0.2.1"), Ip("192.0.2.2"), Ip("192.0.2.3")};
  desired.routes = {{.destination = Net("10.0.2.0/24")},
                    {.destination = Net("192.0.2.2/32"), .pods_only = true}};
  desired.plain_routes = {{Net("10.0.2.240/28"), Ip("192.0.2.2")}};
  return desired;
}

// Notes what it is told, in one order with the network.
struct Story {
  std::vector<std::string> steps;
  guard::DesiredGuard guard;
};

class FakeGuard : public guard::Guard {
 public:
  explicit FakeGuard(Story* story) : story_(story) {}
  void SetDesired(guard::DesiredGuard desired) override {
    story_->steps.push_back(desired.in_sync ? "guard in sync" : "guard");
    story_->guard = std::move(desired);
  }
  absl::Status Protect(const guard::GuardedPod& pod) override {
    story_->steps.push_back("protect " + pod.name);
    return protect_status;
  }
  std::vector<guard::GuardProblem> Problems() const override { return {}; }
  std::vector<guard::VerdictCount> Counters() const override { return {}; }
  void OnDrop(DropCallback callback) override { drop = std::move(callback); }
  void OnRepair(RepairCallback callback) override {
    repair = std::move(callback);
  }
  absl::Status protect_status;
  DropCallback drop;
  RepairCallback repair;

 private:
  Story* story_;
};

class FakeNetwork : public network::NodeNetwork {
 public:
  explicit FakeNetwork(Story* story) : story_(story) {}
  void SetDesired(network::DesiredNetwork) override {
    story_->steps.emplace_back("network");
  }
  std::vector<network::NetworkProblem> Problems() const override { return {}; }

 private:
  Story* story_;
};

class LaterExecutor : public base::Executor {
 public:
  void Post(std::function<void()> task) override { tasks.push_back(task); }
  void RunAll() {
    while (!tasks.empty()) {
      const auto task = tasks.front();
      tasks.pop_front();
      task();
    }
  }
  std::deque<std::function<void()>> tasks;
};

class GuardControlTest : public ::testing::Test {
 protected:
  GuardControlTest() {
    auto guard = std::make_unique<FakeGuard>(&story_);
    guard_ = guard.get();
    control_->Add("bpf", std::move(guard));
  }
  static pods::PodInfo Pod(const std::string& name) {
    pods::PodInfo pod;
    pod.pod_namespace = "shop";
    pod.pod_name = name;
    pod.host_interface = "esp" + name;
    return pod;
  }

  Story story_;
  LaterExecutor loop_;
  FakeNetwork network_{&story_};
  std::unique_ptr<GuardControl> control_ = std::make_unique<GuardControl>(
      &loop_, &network_, std::vector<base::IpAddress>{Ip("192.0.2.1")},
      GuardedDatapath{});
  FakeGuard* guard_ = nullptr;
};

TEST_F(GuardControlTest, TheGuardsChangeBeforeTheRoutes) {
  control_->SetDesired(Desired());
  EXPECT_THAT(story_.steps, ElementsAre("guard", "network"));
}

// A guard that replaced its predecessor's before it knows all would be weaker.
TEST_F(GuardControlTest, InSyncNeedsPodsClusterAndTunnel) {
  network::DesiredNetwork early = Desired();
  early.tunnel_interface.clear();
  control_->SetDesired(early);
  EXPECT_FALSE(control_->Ready().ok());
  control_->SetPods({Pod("a")});
  loop_.RunAll();
  EXPECT_FALSE(story_.guard.in_sync);
  EXPECT_FALSE(control_->Ready().ok());
  control_->SetDesired(Desired());
  EXPECT_TRUE(story_.guard.in_sync);
  EXPECT_TRUE(control_->Ready().ok());
  // The datapath's process is away: its interface is still the tunnel's.
  control_->SetDesired(early);
  EXPECT_TRUE(story_.guard.in_sync);
  EXPECT_EQ(story_.guard.tunnel_interface, "esp0");
}

TEST_F(GuardControlTest, WithoutPodsItIsNotInSync) {
  control_->SetDesired(Desired());
  EXPECT_FALSE(story_.guard.in_sync);
  EXPECT_FALSE(control_->Protect(Pod("a")).ok());
  control_->SetPods({});
  loop_.RunAll();
  EXPECT_TRUE(story_.guard.in_sync);
}

TEST_F(GuardControlTest, WhatIsProtectedIsInWhatTheLoopApplies) {
  control_->SetDesired(Desired());
  control_->SetPods({});
  loop_.RunAll();
  ASSERT_TRUE(control_->Protect(Pod("a")).ok());
  EXPECT_EQ(story_.steps.back(), "protect shop/a");
  control_->SetDesired(Desired());
  EXPECT_THAT(story_.guard.pods, SizeIs(1));
  guard_->protect_status = absl::UnavailableError("no");
  EXPECT_FALSE(control_->Protect(Pod("b")).ok());
  control_->SetPods({Pod("a")});
  loop_.RunAll();
  EXPECT_THAT(story_.guard.pods, SizeIs(1));
}

TEST(GuardControlWithoutAGuard, NoRequiredPodIsAttached) {
  Story story;
  LaterExecutor loop;
  FakeNetwork network(&story);
  GuardControl control(&loop, &network, {Ip("192.0.2.1")}, {});
  control.SetPods({});
  pods::PodInfo pod;
  pod.host_interface = "espa";
  pod.policy.encryption = base::Mode::kRequired;
  // Both switched off in the file: somebody asked for it.
  EXPECT_TRUE(control.Protect(pod).ok());
  control.Lacks("bpf", absl::UnavailableError("no bpffs"));
  EXPECT_TRUE(absl::IsUnavailable(control.Protect(pod)));
  pod.policy.encryption = base::Mode::kPreferred;
  EXPECT_TRUE(control.Protect(pod).ok());
}

TEST_F(GuardControlTest, KeepsTheLastDropsAndCountsRepairs) {
  for (size_t i = 0; i < GuardControl::kMaxDrops + 5; ++i) {
    guard_->drop({.length = static_cast<uint32_t>(i)});
  }
  EXPECT_THAT(control_->drops(), SizeIs(GuardControl::kMaxDrops));
  EXPECT_EQ(control_->drops().front().length, 5u);
  guard_->repair({.guard = "bpf", .item = "from_pod on espa"});
  guard_->repair({.guard = "bpf", .item = "from_pod on espa"});
  EXPECT_EQ(control_->repairs().at({"bpf", "from_pod on espa"}), 2u);
}

TEST(GuardOf, InsideBlocks) {
  const guard::DesiredGuard guard =
      GuardOf(Desired(), {Ip("192.0.2.1")}, GuardedDatapath{});
  EXPECT_THAT(guard.inside, Contains(InsideBlock::Pods(Net("10.0.0.0/16"))));
  EXPECT_THAT(guard.inside, Contains(InsideBlock::Pods(Net("10.0.2.0/24"))));
  EXPECT_THAT(guard.inside,
              Contains(InsideBlock::PlaintextPods(Net("10.0.2.240/28"))));
  EXPECT_THAT(guard.inside,
              Contains(InsideBlock::AgentNode(Net("192.0.2.2/32"))));
  // A peer that does not protect its own address: plaintext, but never of
  // required pods.
  EXPECT_THAT(guard.inside,
              Contains(InsideBlock::OtherNodes(Net("192.0.2.3/32"))));
  EXPECT_THAT(guard.inside,
              Not(Contains(InsideBlock::OtherNodes(Net("192.0.2.1/32")))));
}

TEST(GuardOf, SealedNodesComeWithTheirOpenPorts) {
  network::DesiredNetwork desired = Desired();
  desired.sealed_nodes = {Ip("192.0.2.2")};
  desired.node_exceptions = {{6, 6443}};
  const guard::DesiredGuard guard = GuardOf(desired, {}, GuardedDatapath{});
  EXPECT_THAT(guard.sealed_nodes, ElementsAre(Ip("192.0.2.2")));
  EXPECT_THAT(guard.open_ports,
              ElementsAre(guard::DesiredGuard::Port{6, 6443}));
}

TEST(GuardOf, PolicyBasedHasNoTunnelInterface) {
  const guard::DesiredGuard guard =
      GuardOf(Desired(), {}, GuardedDatapath{.policy_based = true});
  EXPECT_EQ(guard.tunnel_interface, "");
  EXPECT_TRUE(guard.policy_based);
}

}  // namespace
}  // namespace espalier::agent
