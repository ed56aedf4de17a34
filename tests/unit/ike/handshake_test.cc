// IKE_SA_INIT and IKE_AUTH between two cores (RFC 7296 1.2, 2.4 to 2.7, 2.15,
// 2.21).
#include "gtest/gtest.h"
#include "tests/unit/ike/insider.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

class Handshake : public ::testing::Test {
 protected:
  void Establish() {
    a_.core.Establish(lab_.now(), PeerId(2));
    lab_.Drain();
  }
  // Both with this configuration of their peer.
  void Configure(const std::function<void(PeerConfig&)>& change) {
    ChangeOne(a_, b_, change);
    ChangeOne(b_, a_, change);
  }
  void ChangeOne(Node& self, Node& peer,
                 const std::function<void(PeerConfig&)>& change) {
    PeerConfig config = Lab::PskPeer(self, peer);
    change(config);
    ASSERT_TRUE(self.core.UpsertPeer(lab_.now(), std::move(config)).ok());
  }
  bool Up() {
    return a_.Established().size() == 1 && b_.Established().size() == 1;
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1);
  Node& b_ = lab_.Add("b", 2);
};

TEST_F(Handshake, FourMessagesMakeATunnel) {
  lab_.Introduce(a_, b_);
  Establish();
  ASSERT_TRUE(Up());
  EXPECT_EQ(a_.sent.size(), 2u);
  EXPECT_EQ(b_.sent.size(), 2u);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.Count(Event::Kind::kIkeSaUp), 1);
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaUp), 1);
  EXPECT_EQ(b_.Count(Event::Kind::kChildSaUp), 1);
  const std::vector<std::string> order = {"install in", "install out"};
  EXPECT_EQ(a_.datapath_log, order);
  EXPECT_EQ(b_.datapath_log, order);
  EXPECT_EQ(b_.core.counters().half_open, 0u);
  ASSERT_EQ(a_.Established()[0].children.size(), 1u);
  EXPECT_EQ(a_.Established()[0].children[0].state, "installed");
  EXPECT_TRUE(a_.Established()[0].initiator);
  EXPECT_FALSE(a_.NewestOutbound()->sa.encapsulation);
}

TEST_F(Handshake, TheResponderAnswersOnlyWhenItsInboundStands) {
  lab_.Introduce(a_, b_);
  b_.hold_datapath = true;
  Establish();
  EXPECT_FALSE(Up());
  ASSERT_EQ(b_.held_ops.size(), 1u);
  EXPECT_EQ(b_.held_ops[0].sa.direction, base::Direction::kInbound);
  EXPECT_EQ(b_.sent.size(), 1u);
  b_.hold_datapath = false;
  b_.core.HandleDatapathDone(lab_.now(), b_.held_ops[0].op, absl::OkStatus());
  lab_.Drain();
  EXPECT_TRUE(Up());
}

TEST_F(Handshake, TheInitiatorInstallsOutboundOnlyAfterInbound) {
  lab_.Introduce(a_, b_);
  a_.hold_datapath = true;
  Establish();
  ASSERT_EQ(a_.held_ops.size(), 1u);
  EXPECT_EQ(a_.held_ops[0].sa.direction, base::Direction::kInbound);
  a_.core.HandleDatapathDone(lab_.now(), a_.held_ops[0].op, absl::OkStatus());
  lab_.Drain();
  ASSERT_EQ(a_.held_ops.size(), 2u);
  EXPECT_EQ(a_.held_ops[1].sa.direction, base::Direction::kOutbound);
  EXPECT_EQ(a_.Count(Event::Kind::kChildSaUp), 0);
}

TEST_F(Handshake, SurvivesTheLossOfEachMessage) {
  for (int lost = 0; lost < 4; ++lost) {
    Lab lab;
    Node& a = lab.Add("a", 1);
    Node& b = lab.Add("b", 2);
    lab.Introduce(a, b);
    int count = 0;
    lab.filter = [&](Node&, Node&, Path&, base::Bytes&) {
      return count++ != lost;
    };
    a.core.Establish(lab.now(), PeerId(2));
    lab.Run(absl::Seconds(5));
    EXPECT_TRUE(lab.PassBoth(a, b)) << lost;
    EXPECT_EQ(a.core.counters().retransmissions, 1u);
    EXPECT_EQ(a.core.counters().ike_sas_established, 1u);
    EXPECT_EQ(b.core.counters().ike_sas_established, 1u);
  }
}

TEST_F(Handshake, RepeatedRequestsGetTheSameOctets) {
  lab_.Introduce(a_, b_);
  std::vector<std::pair<Path, base::Bytes>> requests;
  lab_.filter = [&](Node& from, Node&, Path& path, base::Bytes& bytes) {
    if (&from == &a_) requests.emplace_back(path, bytes);
    return true;
  };
  Establish();
  ASSERT_EQ(requests.size(), 2u);
  const std::vector<base::Bytes> answers = b_.sent;
  // The last request is remembered; the one before has been superseded.
  lab_.Inject(b_, requests[1].first, requests[1].second);
  ASSERT_EQ(b_.sent.size(), 3u);
  EXPECT_EQ(b_.sent[2], answers[1]);
  EXPECT_EQ(b_.core.counters().duplicate_requests, 1u);
  EXPECT_EQ(b_.core.counters().ike_sas_established, 1u);
}

TEST_F(Handshake, ARepeatedInitGetsTheSameOctetsWhileHalfOpen) {
  lab_.Introduce(a_, b_);
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    return &from == &a_ && ExchangeOf(bytes) == wire::ExchangeType::kIkeSaInit;
  };
  a_.core.Establish(lab_.now(), PeerId(2));
  lab_.Run(absl::Seconds(2));
  ASSERT_GE(b_.sent.size(), 2u);
  EXPECT_EQ(b_.sent[0], b_.sent[1]);
  EXPECT_EQ(b_.core.counters().half_open, 1u);
}

TEST_F(Handshake, WrongSharedKeyIsRefused) {
  (void)a_.core.UpsertPeer(lab_.now(), Lab::PskPeer(a_, b_, "one"));
  (void)b_.core.UpsertPeer(lab_.now(), Lab::PskPeer(b_, a_, "two"));
  Establish();
  EXPECT_FALSE(Up());
  EXPECT_EQ(a_.Count(Event::Kind::kAuthenticationFailed), 1);
  EXPECT_EQ(b_.Count(Event::Kind::kAuthenticationFailed), 1);
  EXPECT_EQ(b_.core.counters().authentication_failures, 1u);
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_TRUE(b_.sas.empty());
  // Nothing stays of it, but the wish to try again.
  a_.core.StopEstablishing(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(1));
  EXPECT_TRUE(b_.core.IkeSas().empty());
}

TEST_F(Handshake, AnUnknownInitiatorIsRefused) {
  (void)a_.core.UpsertPeer(lab_.now(), Lab::PskPeer(a_, b_));
  ChangeOne(b_, a_, [](PeerConfig& c) { c.identity = Identity::Fqdn("x"); });
  Establish();
  EXPECT_FALSE(Up());
  EXPECT_EQ(a_.Count(Event::Kind::kAuthenticationFailed), 1);
}

TEST_F(Handshake, AResponderThatIsSomeoneElseIsTold) {
  ChangeOne(a_, b_, [](PeerConfig& c) { c.identity = Identity::Fqdn("x"); });
  (void)b_.core.UpsertPeer(lab_.now(), Lab::PskPeer(b_, a_));
  Establish();
  EXPECT_EQ(a_.Count(Event::Kind::kAuthenticationFailed), 1);
  // RFC 7296 2.21.2: b held it for established until it was told.
  EXPECT_EQ(b_.Count(Event::Kind::kIkeSaUp), 1);
  EXPECT_EQ(b_.Count(Event::Kind::kIkeSaDown), 1);
  EXPECT_TRUE(b_.Established().empty());
  EXPECT_EQ(a_.CountSas(base::Direction::kOutbound), 0u);
  lab_.Run(absl::Milliseconds(10));
}

TEST_F(Handshake, ForeignProposalsAreRefused) {
  ChangeOne(a_, b_,
            [](PeerConfig& c) { c.ike_proposals = {{.key_bits = 128}}; });
  ChangeOne(b_, a_, [](PeerConfig&) {});
  Establish();
  EXPECT_FALSE(Up());
  EXPECT_EQ(a_.Count(Event::Kind::kNoProposalChosen), 1);
  EXPECT_TRUE(b_.core.IkeSas().empty());
}

TEST_F(Handshake, ForeignChildProposalsLeaveTheIkeSaUp) {
  ChangeOne(a_, b_,
            [](PeerConfig& c) { c.child_proposals = {{.key_bits = 128}}; });
  ChangeOne(b_, a_, [](PeerConfig&) {});
  Establish();
  EXPECT_TRUE(Up());
  EXPECT_EQ(a_.Count(Event::Kind::kNoProposalChosen), 1);
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_TRUE(b_.sas.empty());
  // What was wrong is put right: the next try on the same IKE_SA succeeds.
  ChangeOne(b_, a_,
            [](PeerConfig& c) { c.child_proposals = {{.key_bits = 128}}; });
  lab_.Run(absl::Seconds(10));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.core.counters().ike_sas_established, 1u);
}

TEST_F(Handshake, DisjointSelectorsAreUnacceptable) {
  ChangeOne(a_, b_, [](PeerConfig& c) {
    c.remote_selectors = {base::TrafficSelector::FromPrefix(
        *base::IpPrefix::Parse("10.77.0.0/16"))};
  });
  ChangeOne(b_, a_, [](PeerConfig&) {});
  Establish();
  EXPECT_TRUE(Up());
  EXPECT_EQ(a_.Count(Event::Kind::kTsUnacceptable), 1);
  EXPECT_TRUE(b_.sas.empty());
}

TEST_F(Handshake, WideSelectorsAreNarrowed) {
  ChangeOne(a_, b_, [](PeerConfig& c) {
    c.remote_selectors = {
        base::TrafficSelector::FromPrefix(*base::IpPrefix::Parse("0.0.0.0/0"))};
  });
  ChangeOne(b_, a_, [](PeerConfig&) {});
  Establish();
  ASSERT_TRUE(Up());
  EXPECT_EQ(a_.NewestOutbound()->sa.remote_selectors[0].ToString(),
            "10.2.0.0-10.2.255.255");
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Handshake, EverySuiteAndGroup) {
  using crypto::Cipher, crypto::Group, crypto::Integrity, crypto::Prf;
  const std::vector<IkeProposal> proposals = {
      {.key_bits = 128, .prfs = {Prf::kHmacSha2_256}},
      {.cipher = Cipher::kChaCha20Poly1305, .groups = {Group::kEcp256}},
      {.cipher = Cipher::kAesCbc,
       .integrity = Integrity::kHmacSha2_256_128,
       .groups = {Group::kModp2048}},
      {.cipher = Cipher::kAesCbc,
       .key_bits = 128,
       .integrity = Integrity::kHmacSha2_512_256,
       .prfs = {Prf::kHmacSha2_512},
       .groups = {Group::kEcp384}},
      {.cipher = Cipher::kAesCbc,
       .integrity = Integrity::kHmacSha2_384_192,
       .groups = {Group::kModp3072}},
  };
  const std::vector<ChildProposal> children = {
      {.key_bits = 128, .esn = false},
      {.cipher = base::EspCipher::kChaCha20Poly1305},
      {.cipher = base::EspCipher::kAesCbc,
       .integrity = base::EspIntegrity::kHmacSha2_256_128},
      {.cipher = base::EspCipher::kAesCbc,
       .key_bits = 128,
       .integrity = base::EspIntegrity::kHmacSha2_512_256},
      {.cipher = base::EspCipher::kAesCbc,
       .integrity = base::EspIntegrity::kHmacSha2_384_192},
  };
  for (size_t i = 0; i < proposals.size(); ++i) {
    Lab lab;
    Node& a = lab.Add("a", 1);
    Node& b = lab.Add("b", 2);
    for (auto [self, peer] : {std::pair(&a, &b), std::pair(&b, &a)}) {
      PeerConfig config = Lab::PskPeer(*self, *peer);
      config.ike_proposals = {proposals[i]};
      config.child_proposals = {children[i]};
      config.child_proposals[0].groups = proposals[i].groups;
      ASSERT_TRUE(self->core.UpsertPeer(lab.now(), std::move(config)).ok());
    }
    a.core.Establish(lab.now(), PeerId(2));
    lab.Drain();
    EXPECT_TRUE(lab.PassBoth(a, b)) << i;
    // The same group and suite in both kinds of rekey.
    a.core.RekeyChildSa(lab.now(), PeerId(2));
    b.core.RekeyIkeSa(lab.now(), PeerId(1));
    lab.Run(absl::Seconds(20));
    EXPECT_TRUE(lab.PassBoth(a, b)) << i;
    ASSERT_EQ(a.Established().size(), 1u) << i;
    EXPECT_EQ(a.Established()[0].children.size(), 1u) << i;
    EXPECT_GE(a.Count(Event::Kind::kChildSaRekeyed), 1) << i;
    EXPECT_GE(a.Count(Event::Kind::kIkeSaRekeyed), 1) << i;
  }
}

TEST_F(Handshake, InvalidKePayloadIsRetriedWithTheWantedGroup) {
  ChangeOne(a_, b_, [](PeerConfig& c) {
    c.ike_proposals = {
        {.groups = {crypto::Group::kX25519, crypto::Group::kEcp384}}};
  });
  ChangeOne(b_, a_, [](PeerConfig& c) {
    c.ike_proposals = {{.groups = {crypto::Group::kEcp384}}};
  });
  Establish();
  ASSERT_TRUE(Up());
  EXPECT_EQ(a_.Established()[0].group, crypto::Group::kEcp384);
  EXPECT_EQ(a_.sent.size(), 3u);
}

TEST_F(Handshake, InvalidKePayloadCannotWeaken) {
  lab_.Introduce(a_, b_);
  // Someone answers in b's place and wants MODP-1024, which was not offered.
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &b_) return true;
    wire::Decoded<wire::DecodedHeader> header = wire::DecodeHeader(bytes);
    bytes = wire::EncodeMessage(
        header->header, {wire::Payload::Of(wire::NotifyPayload::InvalidKe(2))});
    return true;
  };
  Establish();
  EXPECT_EQ(a_.sent.size(), 1u);
  EXPECT_TRUE(a_.Established().empty());
}

TEST_F(Handshake, ARepeatedHandshakeHasOtherNoncesAndPublicValues) {
  lab_.Introduce(a_, b_);
  std::set<base::Bytes> nonces, public_values;
  size_t messages = 0;
  lab_.filter = [&](Node&, Node&, Path&, base::Bytes& bytes) {
    if (ExchangeOf(bytes) != wire::ExchangeType::kIkeSaInit) return true;
    ++messages;
    const wire::Decoded<wire::Message> message = wire::DecodeMessage(bytes);
    nonces.insert(wire::Find<wire::NoncePayload>(message->payloads)->nonce);
    public_values.insert(wire::Find<wire::KePayload>(message->payloads)->data);
    return true;
  };
  for (size_t round = 1; round <= 3; ++round) {
    Establish();
    ASSERT_TRUE(Up());
    EXPECT_EQ(messages, 2 * round);
    EXPECT_EQ(nonces.size(), messages);
    EXPECT_EQ(public_values.size(), messages);
    a_.core.StopEstablishing(lab_.now(), PeerId(2));
    a_.core.Delete(lab_.now(), PeerId(2));
    lab_.Drain();
  }
}

TEST_F(Handshake, TheResponderAnnouncesThatAChildMayComeLater) {
  lab_.Introduce(a_, b_);
  Establish();
  const auto announced = [](const base::Bytes& datagram) {
    return wire::FindNotify(wire::DecodeMessage(datagram)->payloads,
                            wire::NotifyType::kChildlessIkev2Supported) !=
           nullptr;
  };
  // RFC 6023 3: the responder alone.
  EXPECT_TRUE(announced(b_.sent[0]));
  EXPECT_FALSE(announced(a_.sent[0]));
}

TEST_F(Handshake, AnInitiatorWithoutAChildGetsItLater) {
  Lab lab;
  Node& a = lab.Add("a", 1, WithKeyLog());
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  Insider insider(a);
  lab.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    std::optional<wire::Payloads> payloads = insider.Read(bytes);
    if (&from != &a || !payloads ||
        ExchangeOf(bytes) != wire::ExchangeType::kIkeAuth) {
      return true;
    }
    std::erase_if(*payloads, [](const wire::Payload& payload) {
      return payload.type == wire::PayloadType::kSa ||
             payload.type == wire::PayloadType::kTsi ||
             payload.type == wire::PayloadType::kTsr;
    });
    insider.Rewrite(*payloads, &bytes);
    return true;
  };
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_EQ(b.Established().size(), 1u);
  EXPECT_TRUE(b.sas.empty());
  lab.Run(absl::Seconds(20));
  EXPECT_TRUE(lab.PassBoth(a, b));
  EXPECT_EQ(b.core.counters().ike_sas_established, 1u);
}

TEST_F(Handshake, CookiesAreAskedForAndGiven) {
  CoreConfig config;
  config.cookie_threshold = 0;
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2, config);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  EXPECT_TRUE(lab.PassBoth(a, b));
  EXPECT_EQ(b.core.counters().cookies_sent, 1u);
  EXPECT_EQ(a.sent.size(), 3u);
}

TEST_F(Handshake, ACookieAndAnotherGroupInOneHandshake) {
  CoreConfig config;
  config.cookie_threshold = 0;
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2, config);
  for (auto [self, peer] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    PeerConfig peers = Lab::PskPeer(*self, *peer);
    peers.ike_proposals = {{.groups = {crypto::Group::kEcp384}}};
    if (self == &a) {
      peers.ike_proposals[0].groups.insert(
          peers.ike_proposals[0].groups.begin(), crypto::Group::kX25519);
    }
    ASSERT_TRUE(self->core.UpsertPeer(lab.now(), std::move(peers)).ok());
  }
  std::vector<bool> cookies;
  lab.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from == &a && ExchangeOf(bytes) == wire::ExchangeType::kIkeSaInit) {
      cookies.push_back(wire::FindNotify(wire::DecodeMessage(bytes)->payloads,
                                         wire::NotifyType::kCookie) != nullptr);
    }
    return true;
  };
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  EXPECT_TRUE(lab.PassBoth(a, b));
  EXPECT_EQ(a.Established()[0].group, crypto::Group::kEcp384);
  // RFC 7296 2.6.1: the cookie is given again with the other group, so that
  // there is no third round.
  EXPECT_EQ(cookies, (std::vector<bool>{false, true, true}));
  EXPECT_EQ(b.core.counters().cookies_sent, 1u);
}

TEST_F(Handshake, AFloodCostsNoStateBeyondTheThreshold) {
  CoreConfig config;
  config.cookie_threshold = 8;
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2, config);
  lab.Introduce(a, b);
  base::Bytes init;
  lab.filter = [&](Node&, Node&, Path&, base::Bytes& bytes) {
    if (init.empty()) init = bytes;
    return false;
  };
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  for (int i = 0; i < 200; ++i) {
    base::Bytes copy = init;
    copy[7] = static_cast<uint8_t>(i);  // another SPI
    const Path path = {.local = {b.address, 500},
                       .remote = {base::IpAddress::V4({198, 51, 100, 7}), 500}};
    lab.Inject(b, path, copy);
  }
  EXPECT_EQ(b.core.counters().half_open, 8u);
  EXPECT_EQ(b.core.IkeSas().size(), 8u);
  EXPECT_EQ(b.core.counters().cookies_sent, 192u);
  lab.Run(absl::Minutes(1));
  EXPECT_EQ(b.core.counters().half_open, 0u);
  EXPECT_TRUE(b.core.IkeSas().empty());
}

TEST_F(Handshake, AWrongCookieGetsAnotherAndTheGameEnds) {
  lab_.Introduce(a_, b_);
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &b_) return true;
    wire::Decoded<wire::DecodedHeader> header = wire::DecodeHeader(bytes);
    header->header.responder_spi = 0;
    bytes = wire::EncodeMessage(
        header->header, {wire::Payload::Of(wire::NotifyPayload::Of(
                            wire::NotifyType::kCookie, base::Bytes(20, 1)))});
    return true;
  };
  Establish();
  EXPECT_LE(a_.sent.size(), 8u);
  EXPECT_TRUE(a_.Established().empty());
}

TEST_F(Handshake, EveryFlippedBitOfIkeAuthIsNoticed) {
  lab_.Introduce(a_, b_);
  base::Bytes auth;
  Path path;
  lab_.filter = [&](Node&, Node&, Path& p, base::Bytes& bytes) {
    if (ExchangeOf(bytes) != wire::ExchangeType::kIkeAuth) return true;
    if (auth.empty()) auth = bytes;
    path = p;
    return false;
  };
  Establish();
  ASSERT_FALSE(auth.empty());
  lab_.filter = nullptr;
  for (size_t bit = 0; bit < auth.size() * 8; ++bit) {
    base::Bytes tampered = auth;
    tampered[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    lab_.Inject(b_, path, tampered);
  }
  EXPECT_TRUE(b_.Established().empty());
  EXPECT_GT(b_.core.counters().bad_integrity, auth.size() * 4);
  // The negative control: untouched, it does establish.
  lab_.Inject(b_, path, auth);
  EXPECT_EQ(b_.Established().size(), 1u);
}

TEST_F(Handshake, ATamperedInitFailsInIkeAuth) {
  // A man in the middle takes the strong proposal away; AUTH covers the
  // message, so both ends find out.
  Configure([](PeerConfig& c) {
    c.ike_proposals = {IkeProposal{}, {.key_bits = 128}};
  });
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &a_ || ExchangeOf(bytes) != wire::ExchangeType::kIkeSaInit)
      return true;
    wire::Decoded<wire::Message> message = wire::DecodeMessage(bytes);
    for (wire::Payload& payload : message->payloads) {
      if (auto* sa = std::get_if<wire::SaPayload>(&payload.body)) {
        sa->proposals.erase(sa->proposals.begin());
        sa->proposals[0].number = 1;
      }
    }
    bytes = wire::EncodeMessage(message->header, message->payloads);
    return true;
  };
  Establish();
  EXPECT_TRUE(b_.Established().empty());
  EXPECT_TRUE(a_.Established().empty());
}

TEST_F(Handshake, AReflectedMessageIsIgnored) {
  lab_.Introduce(a_, b_);
  Establish();
  // Until then the peer might not have it, and it is not rekeyed.
  lab_.Run(absl::Seconds(6));
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  // Of either end: the initiator's and the responder's.
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  b_.core.RekeyChildSa(lab_.now(), PeerId(1));
  lab_.Run(absl::Milliseconds(100));
  for (auto [self, other] : {std::pair(&a_, &b_), std::pair(&b_, &a_)}) {
    const Path path = {.local = {self->address, 500},
                       .remote = {other->address, 500}};
    const size_t sent = self->sent.size();
    const uint64_t malformed = self->core.counters().malformed;
    lab_.Inject(*self, path, base::Bytes(self->sent.back()));
    EXPECT_EQ(self->sent.size(), sent);
    EXPECT_EQ(self->core.counters().malformed, malformed + 1);
    EXPECT_EQ(self->core.counters().unknown_spi, 0u);
    EXPECT_EQ(self->Established().size(), 1u);
  }
}

TEST_F(Handshake, UnknownSpiAndVersionAreAnsweredSparingly) {
  lab_.Introduce(a_, b_);
  const Path path = {.local = {b_.address, 500}, .remote = {a_.address, 500}};
  const wire::Header header = {.initiator_spi = 1,
                               .responder_spi = 2,
                               .exchange = wire::ExchangeType::kInformational,
                               .from_initiator = true};
  base::Bytes request = wire::EncodeMessage(header, {});
  for (int i = 0; i < 1000; ++i)
    b_.core.HandleDatagram(lab_.now(), path, request);
  base::Bytes version = request;
  version[17] = 0x30;
  b_.core.HandleDatagram(lab_.now() + absl::Seconds(2), path, version);
  lab_.hold_wire = true;
  lab_.Drain();
  EXPECT_EQ(b_.sent.size(), 21u);
  EXPECT_EQ(b_.core.counters().unknown_spi, 1000u);
  // Never larger than what asked for it, beyond the notification itself.
  for (const base::Bytes& sent : b_.sent) EXPECT_LE(sent.size(), 40u);
  // Responses are never answered.
  base::Bytes response = request;
  response[19] |= 0x20;
  b_.core.HandleDatagram(lab_.now() + absl::Seconds(9), path, response);
  lab_.Drain();
  EXPECT_EQ(b_.sent.size(), 21u);
}

TEST_F(Handshake, FailedJobsAndSilentWorkersEndTheAttempt) {
  lab_.Introduce(a_, b_);
  bool broken = true;
  a_.allow_job = [&](const crypto::Job&) { return !broken; };
  Establish();
  EXPECT_TRUE(a_.sent.empty());
  broken = false;
  lab_.Run(absl::Seconds(3));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Handshake, AJobThatNeverEndsTimesOut) {
  lab_.Introduce(a_, b_);
  b_.hold_jobs = true;
  a_.core.Establish(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(1));
  EXPECT_LE(b_.core.IkeSas().size(), 1u);
  b_.hold_jobs = false;
  lab_.Run(absl::Minutes(3));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  // A late answer to a job of the dead is harmless.
  for (RunCrypto& job : b_.held_jobs) {
    b_.core.HandleCryptoDone(lab_.now(), job.id, crypto::Run(job.job));
  }
  lab_.Drain();
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Handshake, AFailedInboundInstallIsTriedAgainOnTheSameIkeSa) {
  lab_.Introduce(a_, b_);
  for (Node* node : {&a_, &b_}) {
    bool first = true;
    node->allow_install = [first](const InstallSa&) mutable {
      return !std::exchange(first, false);
    };
  }
  Establish();
  lab_.Run(absl::Minutes(1));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.core.counters().ike_sas_established, 1u);
  EXPECT_EQ(a_.CountSas(base::Direction::kInbound), 1u);
  EXPECT_EQ(b_.CountSas(base::Direction::kInbound), 1u);
}

TEST_F(Handshake, AFailedOutboundInstallIsNeverRetriedWithTheSameKey) {
  lab_.Introduce(a_, b_);
  base::Spi refused;
  a_.allow_install = [&](const InstallSa& op) {
    if (op.sa.direction == base::Direction::kInbound) return true;
    if (refused == base::Spi()) refused = op.sa.spi;
    return op.sa.spi != refused;
  };
  Establish();
  lab_.Run(absl::Minutes(1));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_NE(a_.NewestOutbound()->sa.spi, refused);
}

TEST_F(Handshake, KeysAreLoggedOnlyWhenAskedFor) {
  lab_.Introduce(a_, b_);
  Establish();
  EXPECT_TRUE(a_.keys.empty());
  CoreConfig config;
  config.key_log = true;
  Lab lab;
  Node& a = lab.Add("a", 1, config);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  ASSERT_EQ(a.keys.size(), 1u);
  EXPECT_EQ(a.keys[0].sk_ei.size(), 36u);
}

TEST_F(Handshake, ConfigurationIsChecked) {
  const auto refused = [&](const std::function<void(PeerConfig&)>& change) {
    PeerConfig config = Lab::PskPeer(a_, b_);
    change(config);
    return absl::IsInvalidArgument(
        a_.core.UpsertPeer(lab_.now(), std::move(config)));
  };
  EXPECT_FALSE(refused([](PeerConfig&) {}));
  EXPECT_TRUE(refused([](PeerConfig& c) { c.identity.data.clear(); }));
  EXPECT_TRUE(refused([](PeerConfig& c) { c.ike_proposals.clear(); }));
  EXPECT_TRUE(refused([](PeerConfig& c) { c.child_proposals.clear(); }));
  EXPECT_TRUE(refused([](PeerConfig& c) { c.local_selectors.clear(); }));
  EXPECT_TRUE(refused([](PeerConfig& c) { c.remote_selectors.clear(); }));
  EXPECT_TRUE(refused([](PeerConfig& c) { c.auth = PskAuth{}; }));
  EXPECT_TRUE(refused([](PeerConfig& c) { c.auth = PublicKeyAuth{}; }));
  // A second peer of the same identity.
  EXPECT_TRUE(refused([](PeerConfig& c) { c.id = PeerId(99); }));
}

}  // namespace
}  // namespace espalier::ike::testing
