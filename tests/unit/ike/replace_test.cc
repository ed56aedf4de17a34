// New IKE_SAs in the place of those that are up, tunnels on demand, and what
// counts as a sign of life (RFC 7296 1.3, 1.4.1, 2.4, 2.23, 4; DESIGN 4).
#include "gtest/gtest.h"
#include "tests/unit/ike/insider.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

using wire::ExchangeType;
using wire::NotifyType;

// --- make-before-break ---

class Replace : public ::testing::Test {
 protected:
  void SetUp() override {
    lab_.Introduce(a_, b_);
    a_.core.Establish(lab_.now(), PeerId(2));
    b_.core.Establish(lab_.now(), PeerId(1));
    lab_.Drain();
    ASSERT_TRUE(lab_.PassBoth(a_, b_));
  }
  void Force(Node& self, Node& peer, bool force) {
    PeerConfig config = Lab::PskPeer(self, peer);
    config.force_encapsulation = force;
    const PeerId id = config.id;
    ASSERT_TRUE(self.core.UpsertPeer(lab_.now(), std::move(config)).ok());
    self.core.Reestablish(lab_.now(), id);
  }
  // Between any two datagrams, packets pass.
  void DeliverAllWithTraffic() {
    lab_.hold_wire = true;
    lab_.Drain();
    while (!lab_.wire.empty()) {
      lab_.DeliverNext();
      lab_.Drain();
      EXPECT_TRUE(lab_.PassBoth(a_, b_));
    }
    lab_.hold_wire = false;
  }
  void ExpectOne(bool encapsulated) {
    lab_.Run(absl::Seconds(10));
    ASSERT_EQ(a_.core.IkeSas().size(), 1u);
    ASSERT_EQ(b_.core.IkeSas().size(), 1u);
    EXPECT_EQ(a_.core.IkeSas()[0].initiator_spi,
              b_.core.IkeSas()[0].initiator_spi);
    EXPECT_EQ(a_.sas.size(), 2u);
    EXPECT_EQ(b_.sas.size(), 2u);
    EXPECT_TRUE(lab_.PassBoth(a_, b_));
    EXPECT_EQ(a_.NewestOutbound()->sa.encapsulation.has_value(), encapsulated);
    EXPECT_EQ(b_.NewestOutbound()->sa.encapsulation.has_value(), encapsulated);
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1);
  Node& b_ = lab_.Add("b", 2);
};

TEST_F(Replace, FallsBackToUdpAndReturnsWithoutLosingAPacket) {
  for (bool by_a : {true, false}) {
    Node& self = by_a ? a_ : b_;
    Node& peer = by_a ? b_ : a_;
    EXPECT_FALSE(a_.NewestOutbound()->sa.encapsulation);
    Force(self, peer, true);
    DeliverAllWithTraffic();
    ExpectOne(/*encapsulated=*/true);
    Force(self, peer, false);
    DeliverAllWithTraffic();
    ExpectOne(/*encapsulated=*/false);
  }
  EXPECT_EQ(a_.Count(Event::Kind::kIkeSaDown), 0);
  EXPECT_EQ(b_.Count(Event::Kind::kIkeSaDown), 0);
}

TEST_F(Replace, BothEndsAtOnceEndWithOne) {
  Force(a_, b_, true);
  Force(b_, a_, true);
  DeliverAllWithTraffic();
  lab_.Run(absl::Minutes(2));
  ExpectOne(/*encapsulated=*/true);
}

TEST_F(Replace, ALiveSaIsNeverChanged) {
  const base::Spi before = a_.NewestOutbound()->sa.spi;
  lab_.hold_wire = true;
  Force(a_, b_, true);
  lab_.Drain();
  EXPECT_EQ(a_.NewestOutbound()->sa.spi, before);
  EXPECT_FALSE(a_.NewestOutbound()->sa.encapsulation);
  lab_.hold_wire = false;
  ExpectOne(/*encapsulated=*/true);
  EXPECT_NE(a_.NewestOutbound()->sa.spi, before);
}

TEST_F(Replace, WhatComesToNothingLeavesTheOldOneAlone) {
  // Port 4500 is blocked, where IKE_AUTH would go; so is nothing else.
  lab_.filter = [](Node&, Node&, Path& path, base::Bytes&) {
    return path.local.port != 4500;
  };
  const base::Spi before = a_.NewestOutbound()->sa.spi;
  Force(a_, b_, true);
  lab_.Run(absl::Minutes(5));
  EXPECT_EQ(a_.NewestOutbound()->sa.spi, before);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.Count(Event::Kind::kIkeSaDown), 0);
  // It is tried again, and succeeds in the end.
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(2));
  ExpectOne(/*encapsulated=*/true);
}

// a deletes the old one, and nobody hears it; b still sends on it.
TEST_F(Replace, ADeleteThatIsNotAnsweredTakesNoInboundSa) {
  lab_.filter = [](Node&, Node&, Path&, base::Bytes& bytes) {
    return ExchangeOf(bytes) == ExchangeType::kIkeSaInit ||
           ExchangeOf(bytes) == ExchangeType::kIkeAuth;
  };
  const base::Spi before = b_.NewestOutbound()->sa.spi;
  a_.core.Reestablish(lab_.now(), PeerId(2));
  lab_.Drain();
  EXPECT_EQ(a_.Established().size(), 2u);
  // A partition, long enough for everything to be given up.
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  lab_.Run(absl::Minutes(5));
  EXPECT_TRUE(a_.Established().empty());
  EXPECT_EQ(b_.NewestOutbound()->sa.spi, before);
  EXPECT_TRUE(lab_.Pass(b_, a_));
  // Nor does its traffic end what a sends on.
  a_.core.HandleInboundSeen(lab_.now(), before);
  lab_.Run(absl::Seconds(10));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(2));
  ExpectOne(/*encapsulated=*/false);
}

// b would delete the old one, but a has said nothing on the new one since
// IKE_AUTH, and need not while ESP comes in.
TEST_F(Replace, WhatIsSuperfluousGoesAlsoWhereOnlyEspIsHeard) {
  const uint64_t old = a_.Established()[0].initiator_spi;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    return &from != &a_ || IsResponse(bytes) ||
           wire::DecodeHeader(bytes)->header.initiator_spi != old;
  };
  a_.core.Reestablish(lab_.now(), PeerId(2));
  lab_.Drain();
  ASSERT_EQ(b_.Established().size(), 2u);
  for (int i = 0; i < 50; ++i) {
    lab_.Run(absl::Seconds(1));
    EXPECT_TRUE(lab_.PassBoth(a_, b_)) << "second " << i;
    for (Node* end : {&a_, &b_}) {
      for (const auto& [key, sa] : end->sas) {
        if (key.first != base::Direction::kInbound) continue;
        end->core.HandleInboundTraffic(lab_.now(), key.second);
      }
    }
  }
  ASSERT_EQ(b_.Established().size(), 1u);
  EXPECT_NE(b_.Established()[0].initiator_spi, old);
  lab_.filter = nullptr;
  ExpectOne(/*encapsulated=*/false);
}

TEST_F(Replace, AnAttemptFromBeforeDoesNotCount) {
  // b has begun with the old configuration when it is told.
  lab_.hold_wire = true;
  b_.core.Reestablish(lab_.now(), PeerId(1));
  lab_.Drain();
  lab_.Run(absl::Milliseconds(100));
  Force(b_, a_, true);
  lab_.hold_wire = false;
  lab_.Run(absl::Minutes(1));
  ExpectOne(/*encapsulated=*/true);
}

// The peer ends what it received on a drain time after the Delete; its answers
// may be lost for longer than that.
TEST_F(Replace, ARekeyUnderWayOnTheOldOneMovesNothingToIt) {
  // Another request of a: what it made is known to stand at both ends.
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  lab_.Run(absl::Seconds(10));
  const uint64_t old = b_.Established()[0].initiator_spi;
  bool lossy = true;
  int answers = 0;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &a_ || !IsResponse(bytes) ||
        wire::DecodeHeader(bytes)->header.initiator_spi != old) {
      return true;
    }
    if (ExchangeOf(bytes) == ExchangeType::kCreateChildSa && !lossy) {
      ++answers;
      return true;
    }
    return false;
  };
  b_.core.RekeyChildSa(lab_.now(), PeerId(1));
  lab_.Drain();
  b_.core.Reestablish(lab_.now(), PeerId(1));
  lab_.Drain();
  ASSERT_EQ(b_.Count(Event::Kind::kIkeSaUp), 2);
  lossy = false;
  for (int i = 0; i < 60; ++i) {
    lab_.Run(absl::Milliseconds(500));
    EXPECT_TRUE(lab_.PassBoth(a_, b_)) << i;
  }
  EXPECT_EQ(answers, 1);
  lab_.Run(absl::Minutes(5));
  ExpectOne(/*encapsulated=*/false);
}

// The same where the traffic had moved to the old one before it lost.
TEST_F(Replace, WhatGoesIsNotSentOnAnyMore) {
  const uint64_t old = a_.Established()[0].initiator_spi;
  const base::Instant start = lab_.now();
  int answers = 0, lost = 0;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &b_ || !IsResponse(bytes) ||
        wire::DecodeHeader(bytes)->header.initiator_spi != old) {
      return true;
    }
    // The first answer comes late.
    if (ExchangeOf(bytes) == ExchangeType::kCreateChildSa) {
      return ++answers > 1;
    }
    if (lab_.now() - start < absl::Seconds(2)) return true;
    ++lost;
    return false;
  };
  a_.core.Reestablish(lab_.now(), PeerId(2));
  lab_.Drain();
  ASSERT_EQ(a_.Established().size(), 2u);
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  for (int i = 0; i < 60; ++i) {
    lab_.Run(absl::Milliseconds(500));
    EXPECT_TRUE(lab_.PassBoth(a_, b_)) << i;
  }
  EXPECT_EQ(answers, 2);
  EXPECT_GE(lost, 3);
  lab_.Run(absl::Minutes(5));
  ExpectOne(/*encapsulated=*/false);
}

// --- NO_ADDITIONAL_SAS ---

class Minimal : public ::testing::Test {
 protected:
  void SetUp() override {
    lab_.Introduce(a_, b_);
    a_.core.Establish(lab_.now(), PeerId(2));
    lab_.Drain();
    ASSERT_TRUE(lab_.PassBoth(a_, b_));
    // b answers every CREATE_CHILD_SA as a minimal implementation does: it
    // never gets to see one.
    lab_.filter = [this](Node& from, Node&, Path&, base::Bytes& bytes) {
      if (&from == &a_ && !IsResponse(bytes) &&
          ExchangeOf(bytes) == ExchangeType::kCreateChildSa) {
        ++requests_;
        refused_.insert(NameOf(bytes));
        insider_.Rewrite({}, &bytes, ExchangeType::kInformational);
      } else if (&from == &b_ && IsResponse(bytes) &&
                 refused_.contains(NameOf(bytes))) {
        insider_.Rewrite({wire::Payload::Of(wire::NotifyPayload::Of(
                             NotifyType::kNoAdditionalSas))},
                         &bytes, ExchangeType::kCreateChildSa);
      }
      return true;
    };
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1, WithKeyLog());
  Node& b_ = lab_.Add("b", 2);
  // Which exchange of which IKE_SA.
  static std::pair<uint64_t, uint32_t> NameOf(const base::Bytes& datagram) {
    const auto decoded = wire::DecodeHeader(datagram);
    return {decoded->header.initiator_spi, decoded->header.message_id};
  }

  Insider insider_{a_};
  std::set<std::pair<uint64_t, uint32_t>> refused_;
  int requests_ = 0;
};

TEST_F(Minimal, AChildThatMayNotBeRekeyedComesWithANewIkeSa) {
  const uint64_t before = a_.Established()[0].initiator_spi;
  const base::Spi old = a_.NewestOutbound()->sa.spi;
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(5));
  EXPECT_EQ(requests_, 1);
  ASSERT_EQ(a_.Established().size(), 1u);
  EXPECT_NE(a_.Established()[0].initiator_spi, before);
  EXPECT_NE(a_.NewestOutbound()->sa.spi, old);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Minimal, SoDoesAnIkeSaThatMayNotBeRekeyed) {
  const uint64_t before = a_.Established()[0].initiator_spi;
  a_.core.RekeyIkeSa(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(5));
  EXPECT_EQ(requests_, 1);
  ASSERT_EQ(a_.Established().size(), 1u);
  EXPECT_NE(a_.Established()[0].initiator_spi, before);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Minimal, AndItIsNotAskedAgainWhereNewOnesFail) {
  // Nor does it answer a new IKE_SA_INIT.
  const auto minimal = lab_.filter;
  lab_.filter = [minimal](Node& from, Node& to, Path& path,
                          base::Bytes& bytes) {
    if (ExchangeOf(bytes) == ExchangeType::kIkeSaInit) return false;
    return minimal(from, to, path, bytes);
  };
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  // To the soft lifetime and beyond, but not to the hard one.
  lab_.Run(absl::Minutes(50));
  EXPECT_EQ(requests_, 1);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

// --- CHILD_SA_NOT_FOUND ---

// b has made a CHILD_SA whose answer a never gets: b may not take a's "not
// found" for "gone", since a goes on asking and then has it.
TEST(Unconfirmed, NotFoundIsNotGoneWhileThePeerMayStillAsk) {
  Lab lab;
  CoreConfig patient;
  patient.retransmit_base = absl::Seconds(4);
  Node& a = lab.Add("a", 1, patient);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_TRUE(lab.PassBoth(a, b));
  bool lossy = true;
  lab.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    const bool answer = &from == &b && IsResponse(bytes) &&
                        ExchangeOf(bytes) == ExchangeType::kCreateChildSa;
    return !(lossy && answer);
  };
  a.core.RekeyChildSa(lab.now(), PeerId(2));
  lab.Run(absl::Seconds(7));
  // b's newer CHILD_SA is one that a does not know; b rekeys both.
  ASSERT_EQ(b.CountSas(base::Direction::kInbound), 2u);
  const base::Spi made = [&] {
    base::Spi newest;
    uint64_t order = 0;
    for (const auto& [key, sa] : b.sas) {
      if (key.first == base::Direction::kInbound && sa.order > order) {
        order = sa.order;
        newest = key.second;
      }
    }
    return newest;
  }();
  b.core.RekeyChildSa(lab.now(), PeerId(1));
  lab.Run(absl::Seconds(2));
  EXPECT_TRUE(b.sas.contains({base::Direction::kInbound, made}));
  lossy = false;
  // a gets the answer at last and sends on it, longer than b would drain.
  for (int i = 0; i < 20; ++i) {
    lab.Run(absl::Seconds(1));
    EXPECT_TRUE(lab.PassBoth(a, b)) << i;
  }
  lab.Run(absl::Minutes(2));
  EXPECT_EQ(a.sas.size(), 2u);
  EXPECT_EQ(b.sas.size(), 2u);
  EXPECT_TRUE(lab.PassBoth(a, b));
}

// The end that rekeyed never deletes what it replaced: the other does.
TEST(Replaced, IsDeletedByTheOtherEndInTheEnd) {
  Lab lab;
  Node& a = lab.Add("a", 1, WithKeyLog());
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_TRUE(lab.PassBoth(a, b));
  Insider insider(a);
  // a's Delete becomes a plain liveness check.
  lab.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &a || IsResponse(bytes)) return true;
    const auto payloads = insider.Read(bytes);
    if (payloads && wire::Find<wire::DeletePayload>(*payloads) != nullptr) {
      insider.Rewrite({}, &bytes);
    }
    return true;
  };
  a.core.RekeyChildSa(lab.now(), PeerId(2));
  lab.Run(absl::Seconds(10));
  ASSERT_TRUE(lab.PassBoth(a, b));
  ASSERT_EQ(b.CountSas(base::Direction::kInbound), 2u);
  lab.Run(absl::Minutes(2));
  EXPECT_EQ(b.sas.size(), 2u);
  EXPECT_TRUE(lab.PassBoth(a, b));
}

// --- signs of life ---

TEST(SignOfLife, InboundEspIsOne) {
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_TRUE(lab.PassBoth(a, b));
  lab.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  const base::Spi inbound = a.Established()[0].children[0].inbound_spi;
  // b's agent is away for longer than retransmission lasts; its ESP flows.
  const size_t sent = a.sent.size();
  for (int i = 0; i < 30; ++i) {
    lab.Run(absl::Seconds(10));
    a.core.HandleInboundTraffic(lab.now(), inbound);
  }
  EXPECT_EQ(a.sent.size(), sent);
  EXPECT_EQ(a.Established().size(), 1u);
  // And without it, its absence is found out.
  lab.Run(absl::Minutes(5));
  EXPECT_TRUE(a.Established().empty());
  EXPECT_GE(a.Count(Event::Kind::kPeerUnreachable), 1);
}

TEST(SignOfLife, OfOneIkeSaIsNoneOfAnother) {
  CoreConfig config;
  config.liveness_interval = absl::Seconds(1);
  Lab lab;
  Node& a = lab.Add("a", 1, config);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  const uint64_t old = a.Established()[0].initiator_spi;
  a.core.Reestablish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_EQ(a.Established().size(), 2u);
  const IkeSaInfo next = a.Established()[1];
  std::map<uint64_t, int> asked;
  lab.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from == &a && !IsResponse(bytes)) {
      ++asked[wire::DecodeHeader(bytes)->header.initiator_spi];
    }
    return true;
  };
  // For as long as both stand.
  for (int i = 0; i < 10; ++i) {
    lab.Run(absl::Milliseconds(200));
    a.core.HandleInboundTraffic(lab.now(), next.children[0].inbound_spi);
  }
  EXPECT_GE(asked[old], 1);
  EXPECT_EQ(asked[next.initiator_spi], 0);
}

// --- on demand ---

class OnDemand : public ::testing::Test {
 protected:
  void SetUp() override {
    for (auto [self, peer] : {std::pair(&a_, &b_), std::pair(&b_, &a_)}) {
      PeerConfig config = Lab::PskPeer(*self, *peer);
      config.on_demand = true;
      ASSERT_TRUE(self->core.UpsertPeer(lab_.now(), std::move(config)).ok());
    }
  }
  void Establish(Node& node) {
    node.core.Establish(lab_.now(), PeerId(&node == &a_ ? 2 : 1));
    lab_.Drain();
  }
  void Close(Node& node) {
    const PeerId peer(&node == &a_ ? 2 : 1);
    node.core.StopEstablishing(lab_.now(), peer);
    node.core.Delete(lab_.now(), peer);
    lab_.Drain();
  }
  void ExpectNothing() {
    EXPECT_TRUE(a_.core.IkeSas().empty());
    EXPECT_TRUE(b_.core.IkeSas().empty());
    EXPECT_TRUE(a_.sas.empty());
    EXPECT_TRUE(b_.sas.empty());
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1);
  Node& b_ = lab_.Add("b", 2);
};

TEST_F(OnDemand, EitherEndBeginsAtOnce) {
  for (Node* node : {&a_, &b_}) {
    Establish(*node);
    EXPECT_TRUE(lab_.PassBoth(a_, b_));
    Close(*node);
    lab_.Run(absl::Seconds(10));
    ExpectNothing();
  }
}

TEST_F(OnDemand, WhatWasDeletedStaysDeletedUntilTheNextEstablish) {
  for (Node* closer : {&a_, &b_}) {
    Establish(a_);
    Establish(b_);  // both ends want it: there was traffic both ways
    ASSERT_TRUE(lab_.PassBoth(a_, b_));
    Close(*closer);
    lab_.Run(absl::Seconds(10));
    const size_t sent = a_.sent.size() + b_.sent.size();
    lab_.Run(absl::Hours(1));
    ExpectNothing();
    EXPECT_EQ(a_.sent.size() + b_.sent.size(), sent);
  }
  Establish(b_);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

// The same without the flag: it comes back.
TEST_F(OnDemand, AnEagerPeerComesBack) {
  lab_.Introduce(a_, b_);
  Establish(a_);
  Establish(b_);
  Close(b_);
  lab_.Run(absl::Minutes(1));
  EXPECT_EQ(a_.Established().size(), 1u);
}

TEST_F(OnDemand, ThePeersDeleteOfTheChildEndsTheIkeSaToo) {
  Establish(a_);
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  // A hard limit deletes one CHILD_SA.
  b_.core.HandleSaExpired(lab_.now(), base::Direction::kInbound, b_.address,
                          a_.NewestOutbound()->sa.spi, /*hard=*/true);
  lab_.Run(absl::Hours(1));
  ExpectNothing();
}

TEST_F(OnDemand, APeerThatNeverAnswersIsGivenUp) {
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  Establish(a_);
  lab_.Run(absl::Hours(1));
  const size_t sent = a_.sent.size();
  EXPECT_GT(sent, 10u);
  lab_.Run(absl::Hours(5));
  EXPECT_EQ(a_.sent.size(), sent);
  lab_.filter = nullptr;
  Establish(a_);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

// Its Delete waits for an answer that never comes. The other end keeps what it
// has until it hears better, and would have sent to nobody.
TEST_F(OnDemand, WhatIsClosedWhileThePeerIsSilentIsGone) {
  Establish(a_);
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  const size_t sent = a_.sent.size();
  while (a_.sent.size() == sent) lab_.Run(absl::Seconds(1));  // liveness
  Close(a_);
  lab_.Run(absl::Minutes(30));
  EXPECT_TRUE(a_.core.IkeSas().empty());
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_EQ(b_.sas.size(), 2u);
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(2));
  EXPECT_EQ(b_.Established().size(), 1u);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  Close(b_);
  lab_.Run(absl::Minutes(2));
  ExpectNothing();
}

TEST_F(OnDemand, ALostPeerIsTriedWhileItsSasStand) {
  Establish(a_);
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  lab_.Run(absl::Minutes(40));
  EXPECT_TRUE(a_.Established().empty());
  EXPECT_TRUE(lab_.Pass(a_, b_));  // its agent is away, its ESP is not
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(2));
  EXPECT_EQ(a_.Established().size(), 1u);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

}  // namespace
}  // namespace espalier::ike::testing
