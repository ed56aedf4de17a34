#include "agent/datapath/tracker.h"

#include "agent/datapath/fake/fake_datapath.h"
#include "gmock/gmock.h"
#include "tests/support/manual_loop.h"

namespace espalier::datapath {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}

base::EspSa MakeSa(base::Direction direction, uint32_t spi,
                   uint32_t reqid = base::kOwnedReqidFirst + 1) {
  base::EspSa sa;
  sa.direction = direction;
  sa.spi = base::Spi(spi);
  const bool in = direction == base::Direction::kInbound;
  sa.outer_source = Ip(in ? "192.0.2.2" : "192.0.2.1");
  sa.outer_destination = Ip(in ? "192.0.2.1" : "192.0.2.2");
  sa.reqid = base::Reqid(reqid);
  sa.encryption_key = base::SecretBytes(36);
  for (int i = 0; i < 4; ++i) {
    sa.encryption_key.mutable_span()[i] = static_cast<uint8_t>(spi >> (8 * i));
  }
  return sa;
}

SaKey KeyOf(const base::EspSa& sa) {
  return {sa.direction, sa.outer_destination, sa.spi};
}

Policy MakePolicy(uint32_t reqid, const std::string& remote) {
  return {.reqid = base::Reqid(reqid),
          .local = {*base::IpPrefix::Parse("10.1.0.0/24")},
          .remote = {*base::IpPrefix::Parse(remote)},
          .outer_source = Ip("192.0.2.1"),
          .outer_destination = Ip("192.0.2.2")};
}

class TrackerTest : public ::testing::Test {
 protected:
  TrackerTest() { MakeTracker(); }

  void MakeTracker() {
    tracker_.reset();
    tracker_ = std::make_unique<Tracker>(&loop_, &loop_, &fake_);
    Tracker::TrackerEvents events;
    events.ready = [this] { ++ready_; };
    events.vanished = [this](const TrackedSa& sa) {
      vanished_.push_back(sa.key.spi.value());
    };
    events.inbound_seen = [this](const SaKey& key) {
      seen_.push_back(key.spi.value());
    };
    tracker_->SetEvents(std::move(events));
  }

  void Connect() {
    fake_.Connect();
    fake_.Run();
  }

  // Installs and returns the answer.
  absl::Status Install(base::EspSa sa) {
    absl::Status result = absl::UnknownError("no answer");
    tracker_->InstallSa(std::move(sa),
                        [&](absl::Status status) { result = status; });
    fake_.Run();
    return result;
  }

  void Settle() {
    for (int i = 0; i < 20; ++i) {
      fake_.Run();
      loop_.Advance(absl::Seconds(1));
    }
    fake_.Run();
  }

  testing::ManualLoop loop_;
  FakeDatapath fake_;
  std::unique_ptr<Tracker> tracker_;
  int ready_ = 0;
  std::vector<uint32_t> vanished_;
  std::vector<uint32_t> seen_;
};

TEST_F(TrackerTest, InstallsAndRemoves) {
  Connect();
  EXPECT_EQ(ready_, 1);
  base::EspSa sa = MakeSa(base::Direction::kInbound, 1000);
  const SaKey key = KeyOf(sa);
  EXPECT_TRUE(Install(std::move(sa)).ok());
  EXPECT_THAT(fake_.sas(), SizeIs(1));
  absl::Status removed = absl::UnknownError("no answer");
  tracker_->RemoveSa(key, [&](absl::Status status) { removed = status; });
  fake_.Run();
  EXPECT_TRUE(removed.ok());
  EXPECT_THAT(fake_.sas(), IsEmpty());
  EXPECT_THAT(tracker_->sas(), IsEmpty());
}

TEST_F(TrackerTest, AKeyIsNeverInstalledASecondTime) {
  Connect();
  for (const auto how :
       {FakeDatapath::Failure::kBefore, FakeDatapath::Failure::kAfter}) {
    const uint32_t spi = how == FakeDatapath::Failure::kBefore ? 1000 : 2000;
    fake_.FailCall(1, how);
    const absl::Status status =
        Install(MakeSa(base::Direction::kOutbound, spi));
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    Settle();
    // Whether it had been installed or not: it is gone, and stays so.
    EXPECT_THAT(fake_.sas(), IsEmpty());
    EXPECT_THAT(tracker_->sas(), IsEmpty());
  }
  EXPECT_EQ(fake_.repeated_keys(), 0);
  // The negative control: the fake does notice.
  EXPECT_TRUE(Install(MakeSa(base::Direction::kOutbound, 2000)).ok());
  EXPECT_EQ(fake_.repeated_keys(), 1);
}

TEST_F(TrackerTest, ASecondInstallOfAKnownKeyIsRefused) {
  Connect();
  EXPECT_TRUE(Install(MakeSa(base::Direction::kOutbound, 1)).ok());
  EXPECT_TRUE(
      absl::IsAlreadyExists(Install(MakeSa(base::Direction::kOutbound, 1))));
  EXPECT_THAT(fake_.sas(), SizeIs(1));
}

TEST_F(TrackerTest, AFailedRemovalIsRetried) {
  Connect();
  base::EspSa sa = MakeSa(base::Direction::kInbound, 1);
  const SaKey key = KeyOf(sa);
  ASSERT_TRUE(Install(std::move(sa)).ok());
  fake_.FailCall(1);
  bool removed = false;
  tracker_->RemoveSa(key, [&](const absl::Status&) { removed = true; });
  fake_.Run();
  EXPECT_FALSE(removed);
  EXPECT_THAT(tracker_->Problems(), SizeIs(1));
  Settle();
  EXPECT_TRUE(removed);
  EXPECT_THAT(fake_.sas(), IsEmpty());
  EXPECT_THAT(tracker_->Problems(), IsEmpty());
}

TEST_F(TrackerTest, EachPolicyCallFailsOnceAndTheResultIsTheSame) {
  // Also with the answers lost; the first two calls are the two lists.
  for (const auto how :
       {FakeDatapath::Failure::kBefore, FakeDatapath::Failure::kAfter}) {
    for (uint64_t n = 1; n <= 8; ++n) {
      FakeDatapath fake;
      Tracker tracker(&loop_, &loop_, &fake, {.refresh = absl::Hours(1)});
      const auto settle = [&] {
        for (int i = 0; i < 20; ++i) {
          fake.Run();
          loop_.Advance(absl::Seconds(1));
        }
        fake.Run();
      };
      fake.FailCall(n, how);
      const uint32_t first = base::kOwnedReqidFirst;
      tracker.SetInSync();
      tracker.SetPolicies({MakePolicy(first + 1, "10.2.0.0/24"),
                           MakePolicy(first + 2, "10.3.0.0/24")});
      fake.Connect();
      settle();
      EXPECT_THAT(fake.policies(), SizeIs(2)) << n;
      tracker.SetPolicies({MakePolicy(first + 2, "10.4.0.0/24"),
                           MakePolicy(first + 3, "10.5.0.0/24")});
      settle();
      ASSERT_THAT(fake.policies(), SizeIs(2)) << n;
      EXPECT_EQ(fake.policies().at(base::Reqid(first + 2)),
                MakePolicy(first + 2, "10.4.0.0/24"));
      EXPECT_TRUE(fake.policies().contains(base::Reqid(first + 3)));
      EXPECT_THAT(tracker.Problems(), IsEmpty());
      const uint64_t calls = fake.calls();
      settle();
      EXPECT_EQ(fake.calls(), calls) << "not idempotent";
    }
  }
}

TEST_F(TrackerTest, AdoptsWhatAnEarlierAgentLeft) {
  Connect();
  const uint32_t reqid = base::kOwnedReqidFirst + 7;
  ASSERT_TRUE(Install(MakeSa(base::Direction::kInbound, 1, reqid)).ok());
  ASSERT_TRUE(Install(MakeSa(base::Direction::kOutbound, 2, reqid)).ok());
  // Somebody else's.
  ASSERT_TRUE(Install(MakeSa(base::Direction::kOutbound, 3, 42)).ok());
  tracker_->SetPolicies({MakePolicy(reqid, "10.2.0.0/24")});
  fake_.Run();

  MakeTracker();
  Connect();
  EXPECT_EQ(ready_, 2);
  ASSERT_THAT(tracker_->sas(), SizeIs(2));
  for (const auto& [key, sa] : tracker_->sas()) {
    EXPECT_EQ(sa.state, TrackedSa::State::kAdopted);
    EXPECT_EQ(sa.reqid.value(), reqid);
  }
  // Nothing is swept before the source is in sync.
  Settle();
  EXPECT_THAT(fake_.policies(), SizeIs(1));
  tracker_->SetInSync();
  Settle();
  EXPECT_THAT(fake_.policies(), IsEmpty());
  EXPECT_THAT(fake_.sas(), SizeIs(3));
}

TEST_F(TrackerTest, ForeignPoliciesAreLeftAlone) {
  fake_.SetPolicy(MakePolicy(42, "10.9.0.0/24"), [](const absl::Status&) {});
  Connect();
  tracker_->SetInSync();
  Settle();
  EXPECT_THAT(fake_.policies(), SizeIs(1));
}

TEST_F(TrackerTest, ARestartedBackendTakesItsSasWithIt) {
  Connect();
  tracker_->SetPolicies(
      {MakePolicy(base::kOwnedReqidFirst + 1, "10.2.0.0/24")});
  ASSERT_TRUE(Install(MakeSa(base::Direction::kInbound, 1)).ok());
  ASSERT_TRUE(Install(MakeSa(base::Direction::kOutbound, 2)).ok());
  fake_.Restart();
  Settle();
  EXPECT_THAT(vanished_, ElementsAre(1, 2));
  EXPECT_THAT(fake_.sas(), IsEmpty());
  EXPECT_THAT(tracker_->sas(), IsEmpty());
  EXPECT_THAT(fake_.policies(), SizeIs(1));
  EXPECT_EQ(fake_.repeated_keys(), 0);
}

TEST_F(TrackerTest, AnSaRemovedByHandIsNoticed) {
  Connect();
  base::EspSa sa = MakeSa(base::Direction::kOutbound, 2);
  const SaKey key = KeyOf(sa);
  ASSERT_TRUE(Install(std::move(sa)).ok());
  tracker_->Refresh([](const absl::Status&) {});
  fake_.Run();
  EXPECT_THAT(vanished_, IsEmpty());
  fake_.RemoveByHand(key);
  tracker_->Refresh([](const absl::Status&) {});
  fake_.Run();
  EXPECT_THAT(vanished_, ElementsAre(2));
}

TEST_F(TrackerTest, AnSaInstalledDuringARefreshHasNotVanished) {
  Connect();
  tracker_->Refresh([](const absl::Status&) {});
  tracker_->InstallSa(MakeSa(base::Direction::kOutbound, 2),
                      [](const absl::Status&) {});
  fake_.Run();
  EXPECT_THAT(vanished_, IsEmpty());
  EXPECT_THAT(tracker_->sas(), SizeIs(1));
}

TEST_F(TrackerTest, AWatchOutlivesAReconnection) {
  Connect();
  base::EspSa sa = MakeSa(base::Direction::kInbound, 1);
  const SaKey key = KeyOf(sa);
  ASSERT_TRUE(Install(std::move(sa)).ok());
  tracker_->WatchInbound(key);
  Connect();
  EXPECT_THAT(seen_, IsEmpty());
  fake_.Pass(key);
  EXPECT_THAT(seen_, ElementsAre(1));
  fake_.Pass(key);
  EXPECT_THAT(seen_, ElementsAre(1));
}

TEST_F(TrackerTest, RemovingWhileInstallingLeavesNothing) {
  Connect();
  base::EspSa sa = MakeSa(base::Direction::kInbound, 1);
  const SaKey key = KeyOf(sa);
  absl::Status installed, removed = absl::UnknownError("no answer");
  tracker_->InstallSa(std::move(sa),
                      [&](absl::Status status) { installed = status; });
  tracker_->RemoveSa(key, [&](absl::Status status) { removed = status; });
  fake_.Run();
  EXPECT_TRUE(absl::IsAborted(installed)) << installed;
  EXPECT_TRUE(removed.ok());
  EXPECT_THAT(fake_.sas(), IsEmpty());
}

}  // namespace
}  // namespace espalier::datapath
