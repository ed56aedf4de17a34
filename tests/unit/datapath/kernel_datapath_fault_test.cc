// Each netlink call of the kernel's driver fails once in turn, with and without
// its effect; the SAD and the SPD end as if none had, and no key is installed
// twice.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/crypto/random.h"
#include "agent/datapath/kernel/kernel_datapath.h"
#include "agent/datapath/tracker.h"
#include "gmock/gmock.h"
#include "tests/support/fake_xfrm.h"
#include "tests/support/manual_loop.h"

namespace espalier::datapath {
namespace {

using ::testing::ElementsAre;
using testing::FakeXfrm;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr uint32_t kFirst = base::kOwnedReqidFirst + 1;
constexpr uint32_t kForeign = 42;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}

Policy MakePolicy(uint32_t reqid, const std::vector<std::string>& remotes) {
  Policy policy{.reqid = base::Reqid(reqid),
                .local = {*base::IpPrefix::Parse("10.1.0.0/24")},
                .outer_source = Ip("192.0.2.1"),
                .outer_destination = Ip("192.0.2.2")};
  for (const std::string& remote : remotes) {
    policy.remote.push_back(*base::IpPrefix::Parse(remote));
  }
  return policy;
}

// A driver and its tracker, as an agent has them.
struct Agent {
  Agent(testing::ManualLoop* loop, FakeXfrm* kernel) {
    datapath = std::make_unique<KernelDatapath>(
        loop, &random,
        KernelDatapath::Options{.local_addresses = {Ip("192.0.2.1")}});
    tracker = std::make_unique<Tracker>(loop, loop, datapath.get());
    Tracker::TrackerEvents events;
    events.ready = [this] { ++ready; };
    events.vanished = [this](const TrackedSa& sa) {
      vanished.push_back(sa.key);
    };
    events.inbound_seen = [this](const SaKey& key) { seen.push_back(key); };
    tracker->SetEvents(std::move(events));
    datapath->StartWith(kernel, {.direction = true});
  }

  crypto::SystemRandom random;
  std::unique_ptr<KernelDatapath> datapath;
  std::unique_ptr<Tracker> tracker;
  int ready = 0;
  std::vector<SaKey> vanished;
  std::vector<SaKey> seen;
};

// What is left in the kernel. Of SAs: a failed install is made good by another
// key, so only how many there are of each reqid and direction.
struct Outcome {
  std::map<std::string, base::Bytes> policies;
  std::map<std::pair<uint32_t, base::Direction>, int> sas;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

class KernelDatapathFaultTest : public ::testing::Test {
 protected:
  KernelDatapathFaultTest() { Restart(); }

  void Restart() {
    agent_.reset();
    agent_ = std::make_unique<Agent>(&loop_, &kernel_);
  }
  void Settle() { loop_.Advance(absl::Seconds(15)); }

  base::EspSa MakeSa(base::Direction direction, uint32_t reqid) {
    base::EspSa sa;
    sa.direction = direction;
    sa.spi = base::Spi(++next_spi_);
    const bool in = direction == base::Direction::kInbound;
    sa.outer_source = Ip(in ? "192.0.2.2" : "192.0.2.1");
    sa.outer_destination = Ip(in ? "192.0.2.1" : "192.0.2.2");
    sa.reqid = base::Reqid(reqid);
    sa.encryption_key = base::SecretBytes(sa.suite.encryption_key_size());
    random_.Fill(sa.encryption_key.mutable_span());
    return sa;
  }
  // As the mesh does: after a failure with another SPI and key.
  SaKey Install(base::Direction direction, uint32_t reqid) {
    for (int tries = 0; tries < 3; ++tries) {
      base::EspSa sa = MakeSa(direction, reqid);
      const SaKey key{direction, sa.outer_destination, sa.spi};
      absl::Status installed = absl::UnknownError("no answer");
      agent_->tracker->InstallSa(
          std::move(sa), [&](absl::Status status) { installed = status; });
      Settle();
      if (installed.ok()) return key;
    }
    ADD_FAILURE() << "never installed";
    return {};
  }
  void Remove(const SaKey& key) {
    std::optional<absl::Status> removed;
    agent_->tracker->RemoveSa(key,
                              [&](absl::Status status) { removed = status; });
    Settle();
    EXPECT_EQ(removed, absl::OkStatus());
  }
  Outcome Look() {
    Outcome outcome{.policies = kernel_.policies()};
    for (const auto& [name, octets] : kernel_.states()) {
      const netlink::XfrmState state = *netlink::DecodeState(octets);
      ++outcome.sas[{state.reqid.value(), *state.direction}];
    }
    return outcome;
  }

  // What an agent does in its life, and its successor.
  Outcome Live() {
    Agent* agent = agent_.get();
    agent->tracker->SetInSync();
    agent->tracker->SetPolicies({MakePolicy(kFirst, {"10.2.0.0/24"}),
                                 MakePolicy(kFirst + 1, {"10.3.0.0/24"})});
    Settle();
    const SaKey in = Install(base::Direction::kInbound, kFirst);
    agent->tracker->WatchInbound(in);
    const SaKey old = Install(base::Direction::kOutbound, kFirst);
    kernel_.Pass();
    Settle();
    EXPECT_THAT(agent->seen, ElementsAre(in));
    Install(base::Direction::kOutbound, kFirst);
    Remove(old);
    agent->tracker->SetPolicies({MakePolicy(kFirst, {"10.2.0.0/24"}),
                                 MakePolicy(kFirst + 1, {"10.4.0.0/24"}),
                                 MakePolicy(kFirst + 2, {"10.5.0.0/24"})});
    Settle();
    EXPECT_THAT(agent->tracker->Problems(), IsEmpty());
    EXPECT_THAT(agent->vanished, IsEmpty());

    Restart();
    agent = agent_.get();
    agent->tracker->SetPolicies({MakePolicy(kFirst, {"10.2.0.0/24"})});
    Settle();
    EXPECT_EQ(agent->ready, 1);
    EXPECT_THAT(agent->tracker->sas(), SizeIs(2)) << "both are adopted";
    agent->tracker->SetInSync();
    Settle();
    EXPECT_THAT(agent->tracker->Problems(), IsEmpty());
    EXPECT_THAT(agent->vanished, IsEmpty());
    EXPECT_EQ(kernel_.repeated_keys(), 0);
    return Look();
  }

  // Of another daemon: its SA, and policies that nobody may touch.
  void AddForeign() {
    base::EspSa sa = MakeSa(base::Direction::kInbound, kForeign);
    kernel_.Start(
        *netlink::AddStateRequest(sa, {.direction = true}),
        [](const absl::Status&, const std::vector<netlink::Reply>&) {});
    netlink::XfrmPolicy policy{
        .source = *base::IpPrefix::Parse("10.9.0.0/24"),
        .destination = *base::IpPrefix::Parse("10.2.0.0/24"),
        .reqid = base::Reqid(kForeign),
        .outer_source = Ip("192.0.2.1"),
        .outer_destination = Ip("192.0.2.9")};
    kernel_.Start(
        netlink::SetPolicyRequest(policy),
        [](const absl::Status&, const std::vector<netlink::Reply>&) {});
  }

  testing::ManualLoop loop_;
  FakeXfrm kernel_{&loop_};
  crypto::SystemRandom random_;
  std::unique_ptr<Agent> agent_;
  uint32_t next_spi_ = 0x1000;
};

TEST_F(KernelDatapathFaultTest, EachCallFailsOnce) {
  AddForeign();
  const Outcome wanted = Live();
  // In, forward and out of one pair of prefixes, and the foreign one.
  ASSERT_THAT(wanted.policies, SizeIs(4));
  ASSERT_THAT(wanted.sas,
              ElementsAre(Pair(Pair(kForeign, base::Direction::kInbound), 1),
                          Pair(Pair(kFirst, base::Direction::kInbound), 1),
                          Pair(Pair(kFirst, base::Direction::kOutbound), 1)));
  for (const auto how :
       {FakeXfrm::Failure::kBefore, FakeXfrm::Failure::kAfter}) {
    uint64_t n = 1;
    for (bool failed = true; failed; ++n) {
      SCOPED_TRACE(n);
      agent_.reset();
      kernel_ = FakeXfrm(&loop_);
      AddForeign();
      kernel_.FailCall(n, how);
      Restart();
      EXPECT_EQ(Live(), wanted);
      failed = kernel_.has_failed();
      if (HasFailure()) return;
    }
    // Fewer would mean that the failing was never reached.
    EXPECT_GT(n, 40u);
  }
}

TEST_F(KernelDatapathFaultTest, AKeyThatComesASecondTimeWouldBeSeen) {
  base::EspSa sa = MakeSa(base::Direction::kInbound, kFirst);
  const auto ignore = [](const absl::Status&,
                         const std::vector<netlink::Reply>&) {};
  kernel_.Start(*netlink::AddStateRequest(sa, {}), ignore);
  sa.spi = base::Spi(++next_spi_);
  kernel_.Start(*netlink::AddStateRequest(sa, {}), ignore);
  EXPECT_EQ(kernel_.repeated_keys(), 1);
}

TEST_F(KernelDatapathFaultTest, AChangeThatFailsMidwayLeavesNoGap) {
  const auto covered = [&](const char* remote) {
    for (const auto& [name, octets] : kernel_.policies()) {
      const netlink::XfrmPolicy policy = *netlink::DecodePolicy(octets);
      if (policy.way == netlink::XfrmPolicy::Way::kOut &&
          policy.destination == *base::IpPrefix::Parse(remote)) {
        return true;
      }
    }
    return false;
  };
  agent_->tracker->SetInSync();
  // Six requests that set, and three that remove what is no longer wanted.
  for (uint64_t n = 1; n <= 9; ++n) {
    SCOPED_TRACE(n);
    agent_->tracker->SetPolicies(
        {MakePolicy(kFirst, {"10.2.0.0/24", "10.3.0.0/24"})});
    Settle();
    ASSERT_THAT(kernel_.policies(), SizeIs(6));
    kernel_.after_call = [&] { EXPECT_TRUE(covered("10.2.0.0/24")); };
    kernel_.FailCall(n, FakeXfrm::Failure::kBefore);
    agent_->tracker->SetPolicies(
        {MakePolicy(kFirst, {"10.2.0.0/24", "10.4.0.0/24"})});
    loop_.Advance(absl::Milliseconds(100));
    EXPECT_THAT(agent_->tracker->Problems(), SizeIs(1));
    // Another wish before that one is fulfilled: nothing of it stays.
    agent_->tracker->SetPolicies(
        {MakePolicy(kFirst, {"10.2.0.0/24", "10.5.0.0/24"})});
    loop_.Advance(absl::Seconds(2));
    kernel_.after_call = nullptr;
    EXPECT_THAT(agent_->tracker->Problems(), IsEmpty());
    EXPECT_THAT(kernel_.policies(), SizeIs(6));
    EXPECT_TRUE(covered("10.5.0.0/24"));
    EXPECT_FALSE(covered("10.3.0.0/24"));
    EXPECT_FALSE(covered("10.4.0.0/24"));
  }
}

TEST_F(KernelDatapathFaultTest, WhatStoodBeforeAFailedFirstListIsStillRemoved) {
  agent_->tracker->SetInSync();
  agent_->tracker->SetPolicies(
      {MakePolicy(kFirst, {"10.2.0.0/24", "10.3.0.0/24"})});
  Settle();
  ASSERT_THAT(kernel_.policies(), SizeIs(6));
  // The list at the start, then the one of the tracker's first look.
  for (uint64_t n : {1, 3}) {
    SCOPED_TRACE(n);
    agent_.reset();
    kernel_.FailCall(n, FakeXfrm::Failure::kBefore);
    Restart();
    agent_->tracker->SetInSync();
    agent_->tracker->SetPolicies({MakePolicy(kFirst, {"10.2.0.0/24"})});
    Settle();
    EXPECT_TRUE(kernel_.has_failed());
    EXPECT_EQ(agent_->ready, 1);
    EXPECT_THAT(kernel_.policies(), SizeIs(3));
  }
}

TEST_F(KernelDatapathFaultTest, ListsThatChangesInterruptAreRepeated) {
  Install(base::Direction::kInbound, kFirst);
  const auto list = [&] {
    std::optional<absl::StatusOr<std::vector<InstalledSa>>> result;
    agent_->datapath->ListSas([&](auto sas) { result = std::move(sas); });
    loop_.Advance(absl::ZeroDuration());
    EXPECT_TRUE(result.has_value());
    return *result;
  };
  const absl::Status interrupted = absl::AbortedError("interrupted");
  // With half of the answer each time.
  kernel_.FailCall(1, FakeXfrm::Failure::kAfter, 4, interrupted);
  absl::StatusOr<std::vector<InstalledSa>> sas = list();
  ASSERT_TRUE(sas.ok()) << sas.status();
  EXPECT_THAT(*sas, SizeIs(1));
  // Not for ever; and nothing counts as vanished by it.
  kernel_.FailCall(1, FakeXfrm::Failure::kAfter, 5, interrupted);
  EXPECT_EQ(list().status(), interrupted);
  EXPECT_TRUE(kernel_.has_failed());
  kernel_.FailCall(1, FakeXfrm::Failure::kBefore, 100, interrupted);
  agent_->tracker->Refresh([](const absl::Status&) {});
  Settle();
  EXPECT_THAT(agent_->vanished, IsEmpty());
  EXPECT_THAT(agent_->tracker->sas(), SizeIs(1));
}

TEST_F(KernelDatapathFaultTest, AWatchOutlivesLooksThatFail) {
  const SaKey key = Install(base::Direction::kInbound, kFirst);
  agent_->tracker->WatchInbound(key);
  kernel_.FailCall(1, FakeXfrm::Failure::kBefore, 3);
  kernel_.Pass();
  loop_.Advance(absl::Seconds(5));
  EXPECT_TRUE(kernel_.has_failed());
  EXPECT_THAT(agent_->seen, ElementsAre(key));
}

}  // namespace
}  // namespace espalier::datapath
