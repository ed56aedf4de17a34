// Rekeying and deleting: CREATE_CHILD_SA and INFORMATIONAL (RFC 7296 1.3, 1.4,
// 2.8, 2.17, 2.18, 2.25), and that no packet is lost meanwhile.
#include "gtest/gtest.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

class Rekey : public ::testing::Test {
 protected:
  void SetUp() override {
    lab_.Introduce(a_, b_);
    a_.core.Establish(lab_.now(), PeerId(2));
    lab_.Drain();
    ASSERT_TRUE(lab_.PassBoth(a_, b_));
  }
  void RekeyChild(Node& node) {
    node.core.RekeyChildSa(lab_.now(), PeerId(&node == &a_ ? 2 : 1));
  }
  void RekeyIke(Node& node) {
    node.core.RekeyIkeSa(lab_.now(), PeerId(&node == &a_ ? 2 : 1));
  }
  // Steps one datagram at a time; between any two, traffic must pass.
  void DeliverAllWithTraffic(bool seen = true) {
    lab_.hold_wire = true;
    lab_.Drain();
    while (!lab_.wire.empty()) {
      lab_.DeliverNext();
      lab_.Drain();
      CheckTraffic(seen);
    }
    lab_.hold_wire = false;
  }
  void CheckTraffic(bool seen) {
    if (!seen) {
      a_.watched.clear();
      b_.watched.clear();
    }
    EXPECT_TRUE(lab_.Pass(a_, b_));
    EXPECT_TRUE(lab_.Pass(b_, a_));
  }
  // One IKE_SA with one CHILD_SA at each end, and nothing else installed.
  void ExpectSettled() {
    lab_.Run(absl::Seconds(10));
    ASSERT_EQ(a_.core.IkeSas().size(), 1u);
    ASSERT_EQ(b_.core.IkeSas().size(), 1u);
    EXPECT_EQ(a_.core.IkeSas()[0].initiator_spi,
              b_.core.IkeSas()[0].initiator_spi);
    EXPECT_EQ(a_.core.IkeSas()[0].children.size(), 1u);
    EXPECT_EQ(b_.core.IkeSas()[0].children.size(), 1u);
    EXPECT_EQ(a_.sas.size(), 2u);
    EXPECT_EQ(b_.sas.size(), 2u);
    EXPECT_TRUE(lab_.PassBoth(a_, b_));
    EXPECT_EQ(a_.core.counters().ike_sas_established,
              b_.core.counters().ike_sas_established);
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1);
  Node& b_ = lab_.Add("b", 2);
};

TEST_F(Rekey, ChildFromEitherEndIsHitless) {
  for (Node* node : {&a_, &b_}) {
    const base::Spi before = a_.NewestOutbound()->sa.spi;
    RekeyChild(*node);
    DeliverAllWithTraffic();
    EXPECT_NE(a_.NewestOutbound()->sa.spi, before);
    ExpectSettled();
  }
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaRekeyed), 2);
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaDown), 0);
}

// Proof that the peer has it never comes: no packet, no request of the peer's.
TEST(RekeyWithoutTraffic, TheEndThatDidNotBeginRekeysToo) {
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_NE(b.NewestOutbound(), nullptr);
  const base::Spi before = b.NewestOutbound()->sa.spi;
  b.core.RekeyChildSa(lab.now(), PeerId(1));
  lab.Run(absl::Seconds(10));
  EXPECT_NE(b.NewestOutbound()->sa.spi, before);
  EXPECT_EQ(b.Count(Event::Kind::kChildSaRekeyed), 1);
}

TEST_F(Rekey, ChildIsHitlessWhenNothingReportsTraffic) {
  RekeyChild(a_);
  DeliverAllWithTraffic(/*seen=*/false);
  ExpectSettled();
}

TEST_F(Rekey, TheResponderSendsOnTheOldUntilItSawTheNew) {
  lab_.hold_wire = true;
  const base::Spi old = b_.NewestOutbound()->sa.spi;
  RekeyChild(a_);
  lab_.Drain();
  lab_.DeliverNext();  // the request
  lab_.Drain();
  EXPECT_EQ(b_.CountSas(base::Direction::kInbound), 2u);
  EXPECT_EQ(b_.NewestOutbound()->sa.spi, old);
  EXPECT_EQ(b_.watched.size(), 1u);
  b_.core.HandleInboundSeen(lab_.now(), *b_.watched.begin());
  lab_.Drain();
  EXPECT_NE(b_.NewestOutbound()->sa.spi, old);
}

TEST_F(Rekey, TheOldInboundStaysForTheDrainTime) {
  RekeyChild(a_);
  lab_.Drain();
  EXPECT_EQ(a_.CountSas(base::Direction::kInbound), 2u);
  EXPECT_EQ(b_.CountSas(base::Direction::kInbound), 2u);
  lab_.Run(absl::Seconds(4));
  EXPECT_EQ(a_.CountSas(base::Direction::kInbound), 2u);
  EXPECT_EQ(a_.CountSas(base::Direction::kOutbound), 1u);
  lab_.Run(absl::Seconds(2));
  EXPECT_EQ(a_.CountSas(base::Direction::kInbound), 1u);
  EXPECT_EQ(b_.CountSas(base::Direction::kInbound), 1u);
}

TEST_F(Rekey, SurvivesTheLossOfAnyOneMessage) {
  for (int lost = 0; lost < 4; ++lost) {
    int count = 0;
    lab_.filter = [&](Node&, Node&, Path&, base::Bytes&) {
      return count++ != lost;
    };
    RekeyChild(a_);
    lab_.Run(absl::Seconds(3));
    EXPECT_TRUE(lab_.PassBoth(a_, b_)) << lost;
    RekeyIke(b_);
    count = 0;
    lab_.Run(absl::Seconds(3));
    EXPECT_TRUE(lab_.PassBoth(a_, b_)) << lost;
    lab_.filter = nullptr;
    ExpectSettled();
  }
}

TEST_F(Rekey, IkeFromEitherEndKeepsTheChildren) {
  const base::Spi before = a_.NewestOutbound()->sa.spi;
  for (Node* node : {&a_, &b_}) {
    const uint64_t spi = a_.core.IkeSas()[0].initiator_spi;
    RekeyIke(*node);
    DeliverAllWithTraffic();
    ExpectSettled();
    EXPECT_NE(a_.core.IkeSas()[0].initiator_spi, spi);
    EXPECT_EQ(a_.core.IkeSas()[0].initiator, node == &a_);
  }
  EXPECT_EQ(a_.NewestOutbound()->sa.spi, before);
  EXPECT_EQ(a_.Count(Event::Kind::kIkeSaDown), 0);
  // The new IKE_SA works: its child can be rekeyed.
  RekeyChild(b_);
  DeliverAllWithTraffic();
  ExpectSettled();
}

// The peer has its successor; this end can not make it. ESP goes on and is a
// sign of life to both, each on an IKE_SA that the other does not have.
TEST_F(Rekey, AnIkeSaThatOnlyThePeerCouldRekeyIsMadeAnew) {
  b_.core.Establish(lab_.now(), PeerId(1));
  for (Node* node : {&a_, &b_}) {
    bool failed = false;
    node->allow_job = [&](const crypto::Job& job) {
      return !std::holds_alternative<crypto::ComputeSharedSecret>(job) ||
             std::exchange(failed, true);
    };
    RekeyIke(*node);
    lab_.Drain();
    EXPECT_TRUE(failed);
    node->allow_job = nullptr;
    for (int i = 0; i < 90; ++i) {
      lab_.Run(absl::Seconds(1));
      EXPECT_TRUE(lab_.PassBoth(a_, b_)) << "second " << i;
      for (Node* end : {&a_, &b_}) {
        for (const auto& [key, sa] : end->sas) {
          if (key.first != base::Direction::kInbound) continue;
          end->core.HandleInboundTraffic(lab_.now(), key.second);
        }
      }
    }
    ASSERT_EQ(a_.core.IkeSas().size(), 1u);
    ASSERT_EQ(b_.core.IkeSas().size(), 1u);
    EXPECT_EQ(a_.core.IkeSas()[0].initiator_spi,
              b_.core.IkeSas()[0].initiator_spi);
    EXPECT_EQ(a_.sas.size(), 2u);
    EXPECT_EQ(b_.sas.size(), 2u);
  }
}

TEST_F(Rekey, BothChildrenAtOnceEndWithOne) {
  for (int round = 0; round < 16; ++round) {
    RekeyChild(a_);
    RekeyChild(b_);
    if (round % 2 == 0) {
      DeliverAllWithTraffic(round % 4 == 0);
    } else {
      lab_.Drain();
    }
    ExpectSettled();
  }
}

TEST_F(Rekey, BothIkeAtOnceEndWithOne) {
  for (int round = 0; round < 16; ++round) {
    RekeyIke(a_);
    RekeyIke(b_);
    DeliverAllWithTraffic();
    lab_.Run(absl::Minutes(2));
    ExpectSettled();
  }
  EXPECT_EQ(a_.Count(Event::Kind::kIkeSaDown), 0);
  EXPECT_EQ(b_.Count(Event::Kind::kIkeSaDown), 0);
}

TEST_F(Rekey, IkeAgainstChildResolves) {
  for (int round = 0; round < 8; ++round) {
    RekeyIke(a_);
    RekeyChild(b_);
    DeliverAllWithTraffic();
    lab_.Run(absl::Seconds(30));
    ExpectSettled();
  }
  EXPECT_GE(b_.Count(Event::Kind::kChildSaRekeyed), 8);
}

TEST_F(Rekey, LostRequestOfASimultaneousRekey) {
  // a's request is lost at first; b's runs through meanwhile (2.8.1).
  int from_a = 0;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    return !(&from == &a_ && !IsResponse(bytes) && from_a++ == 0);
  };
  RekeyChild(a_);
  lab_.Drain();
  RekeyChild(b_);
  lab_.Drain();
  lab_.filter = nullptr;
  lab_.Run(absl::Seconds(20));
  ExpectSettled();
}

TEST_F(Rekey, LifetimesRekeyBeforeTheyEnd) {
  // Default: children after an hour at most, the IKE_SA after four.
  for (int minutes = 0; minutes < 9 * 60; ++minutes) {
    lab_.Run(absl::Minutes(1));
    ASSERT_TRUE(lab_.PassBoth(a_, b_)) << minutes;
  }
  EXPECT_GE(a_.Count(Event::Kind::kChildSaRekeyed), 8);
  EXPECT_GE(a_.Count(Event::Kind::kIkeSaRekeyed), 2);
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaDown), 0);
  EXPECT_EQ(a_.Count(Event::Kind::kIkeSaDown), 0);
  ExpectSettled();
}

TEST_F(Rekey, ASoftLimitOfTheDatapathRekeys) {
  const Node::InstalledSa& out = *a_.NewestOutbound();
  const base::Spi before = out.sa.spi;
  a_.core.HandleSaExpired(lab_.now(), base::Direction::kOutbound,
                          out.sa.outer_destination, before, /*hard=*/false);
  lab_.Drain();
  EXPECT_NE(a_.NewestOutbound()->sa.spi, before);
  // The right SPI with another destination is someone else's.
  a_.core.HandleSaExpired(lab_.now(), base::Direction::kOutbound,
                          base::IpAddress::V4({9, 9, 9, 9}),
                          a_.NewestOutbound()->sa.spi, /*hard=*/true);
  lab_.Drain();
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaDown), 0);
  ExpectSettled();
}

TEST_F(Rekey, AHardLimitReplacesTheChild) {
  const Node::InstalledSa& out = *a_.NewestOutbound();
  a_.core.HandleSaExpired(lab_.now(), base::Direction::kOutbound,
                          out.sa.outer_destination, out.sa.spi, /*hard=*/true);
  lab_.Run(absl::Seconds(20));
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaDown), 1);
  ExpectSettled();
}

TEST_F(Rekey, AFailedInstallWhileRekeyingLosesNothing) {
  for (Node* node : {&a_, &b_}) {
    for (base::Direction direction :
         {base::Direction::kInbound, base::Direction::kOutbound}) {
      SCOPED_TRACE(node->name + (direction == base::Direction::kInbound
                                     ? " fails inbound"
                                     : " fails outbound"));
      bool once = true;
      node->allow_install = [&](const InstallSa& op) {
        return op.sa.direction != direction || !std::exchange(once, false);
      };
      RekeyChild(a_);
      DeliverAllWithTraffic();
      for (int i = 0; i < 200; ++i) {
        lab_.Run(absl::Milliseconds(500));
        EXPECT_TRUE(lab_.PassBoth(a_, b_));
      }
      node->allow_install = nullptr;
      ExpectSettled();
    }
  }
}

TEST_F(Rekey, TheChildIsRekeyedWhenSelectorsChange) {
  PeerConfig config = Lab::PskPeer(a_, b_);
  const auto narrower =
      base::TrafficSelector::FromPrefix(*base::IpPrefix::Parse("10.2.3.0/24"));
  config.remote_selectors = {narrower};
  ASSERT_TRUE(a_.core.UpsertPeer(lab_.now(), std::move(config)).ok());
  lab_.Run(absl::Seconds(10));
  EXPECT_EQ(a_.NewestOutbound()->sa.remote_selectors,
            std::vector<base::TrafficSelector>{narrower});
  ExpectSettled();
}

// RFC 7296 2.9.2: what an earlier answer narrowed is no policy.
TEST_F(Rekey, ARekeyOffersTheWholePolicyAgain) {
  const auto narrow =
      base::TrafficSelector::FromPrefix(*base::IpPrefix::Parse("10.2.3.0/24"));
  PeerConfig config = Lab::PskPeer(b_, a_);
  const std::vector<base::TrafficSelector> whole = config.local_selectors;
  config.local_selectors = {narrow};
  ASSERT_TRUE(b_.core.UpsertPeer(lab_.now(), std::move(config)).ok());
  lab_.Run(absl::Seconds(10));
  ASSERT_EQ(a_.NewestOutbound()->sa.remote_selectors,
            std::vector<base::TrafficSelector>{narrow});
  // Quietly, so that it is a's rekey that brings it.
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    return &from != &b_ || IsResponse(bytes);
  };
  ASSERT_TRUE(b_.core.UpsertPeer(lab_.now(), Lab::PskPeer(b_, a_)).ok());
  RekeyChild(a_);
  lab_.Drain();
  EXPECT_EQ(a_.NewestOutbound()->sa.remote_selectors, whole);
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(1));
  ExpectSettled();
}

TEST_F(Rekey, ManyRequestsForChildrenAreBounded) {
  lab_.filter = nullptr;
  for (int i = 0; i < 100; ++i) {
    RekeyChild(a_);
    lab_.Drain();
  }
  EXPECT_LE(b_.sas.size(), 60u);
  lab_.Run(absl::Minutes(2));
  ExpectSettled();
}

// --- deleting ---

TEST_F(Rekey, DeleteEndsBothEndsAndBeginsAnew) {
  b_.core.Delete(lab_.now(), PeerId(1));
  lab_.Drain();
  EXPECT_TRUE(a_.core.IkeSas().empty());
  EXPECT_TRUE(b_.core.IkeSas().empty());
  EXPECT_EQ(a_.Count(Event::Kind::kIkeSaDown), 1);
  EXPECT_EQ(a_.CountSas(base::Direction::kOutbound), 0u);
  // a still wants it.
  lab_.Run(absl::Seconds(10));
  ExpectSettled();
}

TEST_F(Rekey, BothDeleteAtOnce) {
  a_.core.StopEstablishing(lab_.now(), PeerId(2));
  a_.core.Delete(lab_.now(), PeerId(2));
  b_.core.Delete(lab_.now(), PeerId(1));
  lab_.Run(absl::Minutes(2));
  EXPECT_TRUE(a_.core.IkeSas().empty());
  EXPECT_TRUE(b_.core.IkeSas().empty());
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_TRUE(b_.sas.empty());
}

TEST_F(Rekey, RemovePeerLeavesNothing) {
  RekeyChild(b_);
  lab_.hold_wire = true;
  lab_.Drain();
  a_.core.RemovePeer(lab_.now(), PeerId(2));
  lab_.Drain();
  EXPECT_TRUE(a_.sas.empty());
  lab_.hold_wire = false;
  lab_.Run(absl::Minutes(2));
  EXPECT_TRUE(a_.core.IkeSas().empty());
  // And the peer may come back.
  lab_.Introduce(a_, b_);
  a_.core.Establish(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(2));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Rekey, ADeleteThatWaitsForARekeyTakesTheSuccessorToo) {
  lab_.hold_wire = true;
  RekeyIke(a_);
  lab_.Drain();
  ASSERT_EQ(lab_.wire.size(), 1u);
  a_.core.StopEstablishing(lab_.now(), PeerId(2));
  a_.core.Delete(lab_.now(), PeerId(2));
  lab_.hold_wire = false;
  lab_.Run(absl::Minutes(2));
  EXPECT_TRUE(a_.core.IkeSas().empty());
  EXPECT_TRUE(b_.core.IkeSas().empty());
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_TRUE(b_.sas.empty());
}

TEST_F(Rekey, DeleteDuringRekey) {
  for (int i = 0; i < 4; ++i) {
    RekeyIke(a_);
    RekeyChild(a_);
    b_.core.Delete(lab_.now(), PeerId(1));
    lab_.Run(absl::Minutes(2));
    ExpectSettled();
  }
}

}  // namespace
}  // namespace espalier::ike::testing
