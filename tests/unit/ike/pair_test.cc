// One IKE_SA a pair, restarts, silence (RFC 7296 2.4, 2.8.2; DESIGN 3).
#include "gtest/gtest.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

class Pair : public ::testing::Test {
 protected:
  void SetUp() override { lab_.Introduce(a_, b_); }
  void Both(bool at_once) {
    a_.core.Establish(lab_.now(), PeerId(2), at_once);
    b_.core.Establish(lab_.now(), PeerId(1), at_once);
  }
  void ExpectOne(const Node& a, const Node& b) {
    ASSERT_EQ(a.Established().size(), 1u);
    ASSERT_EQ(b.Established().size(), 1u);
    EXPECT_EQ(a.Established()[0].initiator_spi,
              b.Established()[0].initiator_spi);
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1);
  Node& b_ = lab_.Add("b", 2);
};

TEST_F(Pair, TheLowerIdentityBegins) {
  Both(false);
  lab_.Drain();
  EXPECT_TRUE(a_.Established()[0].initiator);
  lab_.Run(absl::Minutes(1));
  EXPECT_EQ(b_.core.counters().ike_sas_established, 1u);
}

TEST_F(Pair, TheOtherBeginsAfterAGraceTime) {
  b_.core.Establish(lab_.now(), PeerId(1));
  lab_.Run(absl::Seconds(9));
  EXPECT_TRUE(b_.sent.empty());
  lab_.Run(absl::Seconds(2));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_TRUE(b_.Established()[0].initiator);
}

TEST_F(Pair, BothAtOnceEndWithTheOneOfTheLower) {
  // Whatever is delivered first.
  for (int order = 0; order < 64; ++order) {
    Lab lab;
    Node& a = lab.Add("a", 1);
    Node& b = lab.Add("b", 2);
    lab.Introduce(a, b);
    lab.hold_wire = true;
    a.core.Establish(lab.now(), PeerId(2), true);
    b.core.Establish(lab.now(), PeerId(1), true);
    lab.Drain();
    for (int step = 0; !lab.wire.empty() && step < 40; ++step) {
      if (lab.wire.size() > 1 && ((order >> (step % 6)) & 1) != 0) {
        std::swap(lab.wire[0], lab.wire[1]);
      }
      lab.DeliverNext();
      lab.Drain();
    }
    lab.hold_wire = false;
    lab.Run(absl::Minutes(2));
    ASSERT_EQ(a.core.IkeSas().size(), 1u) << order;
    ASSERT_EQ(b.core.IkeSas().size(), 1u) << order;
    EXPECT_EQ(a.core.IkeSas()[0].initiator_spi,
              b.core.IkeSas()[0].initiator_spi);
    EXPECT_TRUE(lab.PassBoth(a, b)) << order;
    EXPECT_EQ(a.sas.size(), 2u) << order;
    EXPECT_EQ(a.Count(Event::Kind::kIkeSaDown), 0) << order;
    EXPECT_EQ(b.sas.size(), 2u) << order;
  }
}

// The answer to its IKE_AUTH never arrives: by the rule it is the winner, but
// what it would replace is all that there is.
TEST_F(Pair, AnIkeSaThatOnlyTheResponderHoldsIsNoWinner) {
  bool late = false;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    const auto decoded = wire::DecodeHeader(bytes);
    if (decoded->header.exchange == wire::ExchangeType::kIkeSaInit) return true;
    // Of the IKE_SA that a began.
    const bool of_a = decoded->header.from_initiator == (&from == &a_);
    return !of_a || (late && &from == &a_);
  };
  Both(true);
  lab_.Drain();
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  late = true;
  lab_.Run(absl::Seconds(3));
  ASSERT_EQ(b_.Established().size(), 2u);
  for (int i = 0; i < 240; ++i) {
    lab_.Run(absl::Seconds(1));
    ASSERT_TRUE(lab_.PassBoth(a_, b_)) << i;
  }
  ExpectOne(a_, b_);
  EXPECT_TRUE(b_.Established()[0].initiator);
}

TEST_F(Pair, RetriesWithBackoffUntilThePeerIsThere) {
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  a_.core.Establish(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(10));
  const size_t sent = a_.sent.size();
  EXPECT_GT(sent, 20u);
  EXPECT_LT(sent, 80u);
  EXPECT_GE(a_.Count(Event::Kind::kPeerUnreachable), 3);
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(3));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Pair, StopEstablishingStops) {
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  a_.core.Establish(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(2));
  a_.core.StopEstablishing(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(3));
  const size_t sent = a_.sent.size();
  lab_.Run(absl::Hours(1));
  EXPECT_EQ(a_.sent.size(), sent);
  EXPECT_TRUE(a_.core.IkeSas().empty());
}

TEST_F(Pair, EstablishAfterDeleteDoesNotWaitForADeadPeer) {
  Both(false);
  lab_.Drain();
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  a_.core.Delete(lab_.now(), PeerId(2));
  lab_.Run(absl::Seconds(1));
  lab_.filter = nullptr;
  a_.core.Establish(lab_.now(), PeerId(2));
  lab_.Run(absl::Seconds(2));
  ExpectOne(a_, b_);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Pair, APeerThatBeginsAgainAndAgainIsBounded) {
  // The same node over and over, each time without a memory.
  a_.core.Establish(lab_.now(), PeerId(2));
  lab_.Drain();
  for (int i = 0; i < 30; ++i) {
    Lab other;
    Node& again = other.Add("a", 1);
    Node& unused = other.Add("b", 2);
    other.Introduce(again, unused);
    base::Bytes skipped(static_cast<size_t>(i + 1));
    again.random.Fill(skipped);
    again.core.Establish(lab_.now(), PeerId(2));
    // Joins the two labs by hand: a stranger's core, b's of this one.
    for (int step = 0; step < 6; ++step) {
      while (auto action = again.core.PollAction()) {
        if (auto* job = std::get_if<RunCrypto>(&*action)) {
          again.core.HandleCryptoDone(lab_.now(), job->id,
                                      crypto::Run(job->job));
        } else if (auto* send = std::get_if<SendDatagram>(&*action)) {
          const Path path = {.local = send->path.remote,
                             .remote = send->path.local};
          lab_.hold_wire = true;
          lab_.Inject(b_, path, send->bytes);
          while (!lab_.wire.empty()) {
            const Lab::InFlight answer = lab_.wire.front();
            lab_.wire.pop_front();
            again.core.HandleDatagram(
                lab_.now(),
                {.local = answer.path.remote, .remote = answer.path.local},
                answer.bytes);
          }
          lab_.hold_wire = false;
        }
      }
    }
  }
  EXPECT_LE(b_.core.IkeSas().size(), 8u);
  EXPECT_LE(b_.sas.size(), 60u);
  EXPECT_GE(b_.core.counters().ike_sas_established, 20u);
}

TEST_F(Pair, LivenessAsksAndIsAnswered) {
  Both(false);
  lab_.Drain();
  const size_t sent = b_.sent.size();
  lab_.Run(absl::Minutes(5));
  EXPECT_GT(a_.sent.size() + b_.sent.size(), sent + 5);
  ExpectOne(a_, b_);
  EXPECT_EQ(a_.core.counters().retransmissions, 0u);
}

TEST_F(Pair, ASilentPeerKeepsItsChildSas) {
  Both(false);
  lab_.Drain();
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  lab_.Run(absl::Minutes(4));
  EXPECT_TRUE(a_.Established().empty());
  EXPECT_GE(a_.Count(Event::Kind::kPeerUnreachable), 1);
  // ESP goes on without IKE.
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaDown), 0);
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(4));
  ExpectOne(a_, b_);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  // The old ones went when the new were confirmed.
  EXPECT_EQ(a_.sas.size(), 2u);
  EXPECT_EQ(b_.sas.size(), 2u);
}

TEST_F(Pair, KeptChildSasEndWithTheirHardLifetime) {
  Both(false);
  lab_.Drain();
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  lab_.Run(absl::Minutes(90));
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_TRUE(b_.sas.empty());
}

TEST_F(Pair, ARestartedPeerLosesNoPacket) {
  Both(false);
  lab_.Run(absl::Seconds(5));
  // b restarts: its core forgets all, its datapath goes on.
  Node& again = lab_.Add("b", 3);
  const_cast<base::IpAddress&>(again.address) = b_.address;
  again.sas = std::move(b_.sas);
  const_cast<base::IpAddress&>(b_.address) =
      base::IpAddress::V4({192, 0, 2, 250});
  PeerConfig config = Lab::PskPeer(again, a_);
  config.local_selectors = {
      base::TrafficSelector::FromPrefix(*base::IpPrefix::Parse("10.2.0.0/16"))};
  ASSERT_TRUE(again.core.UpsertPeer(lab_.now(), std::move(config)).ok());
  ASSERT_TRUE(lab_.PassBoth(a_, again));
  again.core.Establish(lab_.now(), PeerId(1), /*at_once=*/true);
  lab_.hold_wire = true;
  lab_.Drain();
  while (!lab_.wire.empty()) {
    lab_.DeliverNext();
    lab_.Drain();
    EXPECT_TRUE(lab_.PassBoth(a_, again));
  }
  lab_.hold_wire = false;
  for (int i = 0; i < 40; ++i) {
    lab_.Run(absl::Milliseconds(250));
    EXPECT_TRUE(lab_.PassBoth(a_, again));
  }
  ExpectOne(a_, again);
  // INITIAL_CONTACT displaced the old IKE_SA; its CHILD_SA drained away.
  EXPECT_EQ(a_.sas.size(), 2u);
  EXPECT_EQ(a_.core.IkeSas().size(), 1u);
}

TEST_F(Pair, EveryActionMayFailAndItStillEnds) {
  // Every third datapath operation fails, every fifth job.
  int ops = 0, jobs = 0;
  for (Node* node : {&a_, &b_}) {
    node->allow_install = [&](const InstallSa&) { return ++ops % 3 != 0; };
    node->allow_job = [&](const crypto::Job&) { return ++jobs % 5 != 0; };
  }
  Both(false);
  for (int i = 0; i < 60; ++i) {
    lab_.Run(absl::Minutes(1));
    if (i % 7 == 0) a_.core.RekeyChildSa(lab_.now(), PeerId(2));
    if (i % 11 == 0) b_.core.RekeyIkeSa(lab_.now(), PeerId(1));
  }
  for (Node* node : {&a_, &b_}) {
    node->allow_install = nullptr;
    node->allow_job = nullptr;
  }
  lab_.Run(absl::Minutes(10));
  ExpectOne(a_, b_);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.sas.size(), 2u);
  EXPECT_EQ(b_.sas.size(), 2u);
}

}  // namespace
}  // namespace espalier::ike::testing
