#include "agent/controller/leader_election.h"

#include <algorithm>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace espalier::controller {
namespace {

class FixedRandom : public base::RandomSource {
 public:
  void Fill(base::MutableByteSpan out) override {
    std::fill(out.begin(), out.end(), uint8_t{0x40});
  }
};

// One Lease with the API server's rules.
class LeaseServer {
 public:
  absl::StatusOr<kube::Lease> Do(const LeaderElection::Request& request) {
    if (down) return absl::UnavailableError("down");
    switch (request.verb) {
      case LeaderElection::Verb::kGet:
        if (!exists) return absl::NotFoundError("none");
        return lease;
      case LeaderElection::Verb::kCreate:
        if (exists) return absl::AlreadyExistsError("there is one");
        break;
      case LeaderElection::Verb::kUpdate:
        if (!exists) return absl::NotFoundError("none");
        if (request.lease.meta.resource_version !=
            lease.meta.resource_version) {
          return absl::AbortedError("changed meanwhile");
        }
        break;
    }
    exists = true;
    lease = request.lease;
    lease.meta.resource_version = std::to_string(++version);
    return lease;
  }
  bool down = false;
  bool exists = false;
  int version = 0;
  kube::Lease lease;
};

class LeaderElectionTest : public ::testing::Test {
 protected:
  LeaderElection Candidate(const std::string& identity) {
    return LeaderElection(
        {.name_space = "espalier-system", .lease = "l", .identity = identity},
        &random_);
  }
  // Lets each candidate do what it can at this moment.
  void Turn(std::vector<LeaderElection*> candidates) {
    for (LeaderElection* candidate : candidates) {
      while (auto request = candidate->Poll(now_, wall_)) {
        candidate->HandleAnswer(now_, server_.Do(*request));
      }
    }
  }
  void Run(absl::Duration time, std::vector<LeaderElection*> candidates) {
    const base::Instant end = now_ + time;
    while (now_ < end) {
      Turn(candidates);
      int leaders = 0;
      for (LeaderElection* c : candidates) leaders += c->IsLeader(now_) ? 1 : 0;
      EXPECT_LE(leaders, 1);
      now_ += absl::Milliseconds(250);
      wall_ += absl::Milliseconds(250);
    }
  }

  FixedRandom random_;
  LeaseServer server_;
  base::Instant now_ = absl::UnixEpoch() + absl::Seconds(1000);
  absl::Time wall_ = absl::FromUnixSeconds(1'800'000'000);
};

TEST_F(LeaderElectionTest, TheFirstLeadsTheSecondWaits) {
  LeaderElection a = Candidate("a");
  LeaderElection b = Candidate("b");
  Turn({&a, &b});
  EXPECT_TRUE(a.IsLeader(now_));
  EXPECT_FALSE(b.IsLeader(now_));
  EXPECT_EQ(b.holder(), "a");
  EXPECT_EQ(server_.lease.holder, "a");
  EXPECT_EQ(server_.lease.duration_seconds, 15);
  EXPECT_EQ(server_.lease.transitions, 0);
  Run(absl::Minutes(5), {&a, &b});
  EXPECT_TRUE(a.IsLeader(now_));
  EXPECT_EQ(a.term(), 1u);
}

TEST_F(LeaderElectionTest, ADeadLeaderIsFollowedWhenItsLeaseIsOver) {
  LeaderElection a = Candidate("a");
  LeaderElection b = Candidate("b");
  Run(absl::Seconds(10), {&a, &b});
  Run(absl::Seconds(9), {&b});
  EXPECT_FALSE(b.IsLeader(now_));
  Run(absl::Seconds(20), {&b});
  EXPECT_TRUE(b.IsLeader(now_));
  EXPECT_EQ(server_.lease.transitions, 1);
}

TEST_F(LeaderElectionTest, ALeaseGivenBackIsTakenAtTheNextTry) {
  LeaderElection a = Candidate("a");
  LeaderElection b = Candidate("b");
  Run(absl::Seconds(10), {&a, &b});
  const auto release = a.Release(now_, wall_);
  ASSERT_TRUE(release.has_value());
  EXPECT_FALSE(a.IsLeader(now_));
  ASSERT_TRUE(server_.Do(*release).ok());
  Run(absl::Seconds(6), {&a, &b});
  EXPECT_TRUE(b.IsLeader(now_));
  EXPECT_FALSE(a.Poll(now_ + absl::Hours(1), wall_).has_value());
}

TEST_F(LeaderElectionTest, WhoDoesNotLeadGivesNothingBack) {
  LeaderElection a = Candidate("a");
  LeaderElection b = Candidate("b");
  Turn({&a, &b});
  EXPECT_FALSE(b.Release(now_, wall_).has_value());
}

TEST_F(LeaderElectionTest, ALeaderWithoutTheServerStopsBeforeAnotherCanLead) {
  LeaderElection a = Candidate("a");
  LeaderElection b = Candidate("b");
  Run(absl::Seconds(10), {&a, &b});
  server_.down = true;
  Run(absl::Seconds(7), {&a, &b});
  EXPECT_TRUE(a.IsLeader(now_)) << "gave up within renew_deadline";
  Run(absl::Seconds(4), {&a, &b});
  EXPECT_FALSE(a.IsLeader(now_));
  EXPECT_FALSE(b.IsLeader(now_));
  server_.down = false;
  Run(absl::Seconds(30), {&a, &b});
  EXPECT_TRUE(a.IsLeader(now_) != b.IsLeader(now_));
}

TEST_F(LeaderElectionTest, EachLeadershipIsATermOfItsOwn) {
  LeaderElection a = Candidate("a");
  Run(absl::Seconds(4), {&a});
  EXPECT_EQ(a.term(), 1u);
  server_.down = true;
  Run(absl::Seconds(12), {&a});
  server_.down = false;
  Run(absl::Seconds(6), {&a});
  EXPECT_TRUE(a.IsLeader(now_));
  EXPECT_EQ(a.term(), 2u);
}

// A renewal that took effect is one from when it was sent: the server's
// candidates count from when they saw it, which may be before its answer.
TEST_F(LeaderElectionTest, ALateAnswerDoesNotLengthenTheLease) {
  LeaderElection a = Candidate("a");
  Turn({&a});
  now_ += absl::Seconds(3);
  const auto request = a.Poll(now_, wall_);
  ASSERT_TRUE(request.has_value());
  const base::Instant sent = now_;
  now_ += absl::Seconds(6);
  a.HandleAnswer(now_, server_.Do(*request));
  EXPECT_EQ(a.LeaderUntil(), sent + absl::Seconds(10));
}

TEST_F(LeaderElectionTest, ARestartedLeaderOfThatNameGoesOnAtOnce) {
  LeaderElection a = Candidate("a");
  Run(absl::Seconds(4), {&a});
  LeaderElection again = Candidate("a");
  Turn({&again});
  EXPECT_TRUE(again.IsLeader(now_));
  EXPECT_EQ(server_.lease.transitions, 0);
}

TEST_F(LeaderElectionTest, WhoWasOvertakenLeadsNoMore) {
  LeaderElection a = Candidate("a");
  Turn({&a});
  server_.lease.holder = "b";
  server_.lease.renewed = wall_ + absl::Seconds(1);
  server_.lease.meta.resource_version = std::to_string(++server_.version);
  now_ += absl::Seconds(3);
  Turn({&a});  // the renewal is refused
  now_ += absl::Seconds(3);
  Turn({&a});  // and who wrote is seen
  EXPECT_FALSE(a.IsLeader(now_));
  EXPECT_EQ(a.holder(), "b");
}

TEST_F(LeaderElectionTest, TheClockOfTheLeasesWriterDoesNotMatter) {
  server_.exists = true;
  server_.lease.holder = "elsewhere";
  server_.lease.duration_seconds = 15;
  server_.lease.renewed = wall_ - absl::Hours(24);
  LeaderElection a = Candidate("a");
  Run(absl::Seconds(14), {&a});
  EXPECT_FALSE(a.IsLeader(now_)) << "took a Lease it has not watched for 15 s";
  Run(absl::Seconds(6), {&a});
  EXPECT_TRUE(a.IsLeader(now_));
}

TEST_F(LeaderElectionTest, AnImplausibleDurationDoesNotLockForever) {
  server_.exists = true;
  server_.lease.holder = "elsewhere";
  server_.lease.duration_seconds = 1'000'000;
  LeaderElection a = Candidate("a");
  Run(absl::Seconds(22), {&a});
  EXPECT_TRUE(a.IsLeader(now_));
}

TEST_F(LeaderElectionTest, ManyCandidatesOneLeaderWhileTheyComeAndGo) {
  LeaderElection a = Candidate("a");
  LeaderElection b = Candidate("b");
  LeaderElection c = Candidate("c");
  for (int round = 0; round < 20; ++round) {
    server_.down = round % 3 == 1;
    Run(absl::Seconds(7), {&a, &b, &c});
    server_.down = false;
    Run(absl::Seconds(11),
        round % 2 ? std::vector{&a, &c} : std::vector{&b, &c});
  }
}

}  // namespace
}  // namespace espalier::controller
