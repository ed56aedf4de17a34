// CHILD_SAs other than ESP in tunnel mode: CPUs' own (RFC 9611), transport mode
// (RFC 7296 1.3.1) and AH (RFC 4302); and that they are only given to peers
// configured for them.
#include "gtest/gtest.h"
#include "tests/unit/ike/insider.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

using wire::NotifyType;

class Kinds : public ::testing::Test {
 protected:
  using Change = std::function<void(PeerConfig&)>;

  // Both ends, each changed by what stands beside it.
  void Introduce(const Change& of_a, const Change& of_b) {
    PeerConfig a = Lab::PskPeer(a_, b_);
    PeerConfig b = Lab::PskPeer(b_, a_);
    if (of_a) of_a(a);
    if (of_b) of_b(b);
    ASSERT_TRUE(a_.core.UpsertPeer(lab_.now(), std::move(a)).ok());
    ASSERT_TRUE(b_.core.UpsertPeer(lab_.now(), std::move(b)).ok());
  }
  void Establish() {
    a_.core.Establish(lab_.now(), PeerId(2));
    b_.core.Establish(lab_.now(), PeerId(1));
    lab_.Run(absl::Seconds(1));
  }
  // CPUs of the outbound SAs, without the fallback.
  static std::multiset<uint32_t> CpusOf(const Node& node) {
    std::multiset<uint32_t> cpus;
    for (const auto& [key, sa] : node.sas) {
      if (key.first == base::Direction::kOutbound && sa.sa.cpu) {
        cpus.insert(*sa.sa.cpu);
      }
    }
    return cpus;
  }
  static size_t Fallbacks(const Node& node) {
    return node.CountSas(base::Direction::kOutbound) - CpusOf(node).size();
  }
  // Traffic on every inbound SA that is watched.
  void SeeAll() {
    for (Node* node : {&a_, &b_}) {
      for (base::Spi spi : std::exchange(node->watched, {})) {
        node->core.HandleInboundSeen(lab_.now(), spi);
      }
    }
    lab_.Drain();
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1, WithKeyLog());
  Node& b_ = lab_.Add("b", 2);
  Insider insider_{a_};
};

// --- RFC 9611 ---

void FourCpus(PeerConfig& config) { config.max_cpu_sas = 4; }
using Cpus = std::multiset<uint32_t>;

TEST_F(Kinds, CpusGetSasOfTheirOwnBesideTheFallback) {
  Introduce(FourCpus, FourCpus);
  Establish();
  EXPECT_EQ(CpusOf(a_), Cpus{});
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 2);
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 3);
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 3);
  lab_.Run(absl::Seconds(1));
  SeeAll();
  EXPECT_EQ(CpusOf(a_), (Cpus{2, 3}));
  // b's are the first of its own that had none.
  EXPECT_EQ(CpusOf(b_), (Cpus{0, 1}));
  EXPECT_EQ(Fallbacks(a_), 1u);
  EXPECT_EQ(Fallbacks(b_), 1u);
  // b has what it wants already, or makes what it has not.
  b_.core.WantCpuSa(lab_.now(), PeerId(1), 0);
  b_.core.WantCpuSa(lab_.now(), PeerId(1), 3);
  lab_.Run(absl::Seconds(1));
  SeeAll();
  EXPECT_EQ(CpusOf(b_), (Cpus{0, 1, 3}));
  EXPECT_EQ(CpusOf(a_), (Cpus{0, 2, 3}));
  // They stay: nobody takes them for twins of the fallback.
  lab_.Run(absl::Minutes(10));
  EXPECT_EQ(a_.sas.size(), 8u);
  EXPECT_EQ(b_.sas.size(), 8u);
  EXPECT_EQ(a_.Established().size(), 1u);
}

TEST_F(Kinds, TheResponderWaitsForProofWithACpusSaToo) {
  Introduce(FourCpus, FourCpus);
  Establish();
  lab_.hold_wire = true;
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 1);
  lab_.Drain();
  lab_.DeliverNext();
  lab_.Drain();
  // b can receive, a cannot yet.
  EXPECT_EQ(b_.CountSas(base::Direction::kInbound), 2u);
  EXPECT_EQ(CpusOf(b_), Cpus{});
  lab_.DeliverNext();
  lab_.Drain();
  EXPECT_EQ(CpusOf(a_), Cpus{1});
  SeeAll();
  EXPECT_EQ(CpusOf(b_), Cpus{0});
}

TEST_F(Kinds, TsMaxQueueEndsTheAsking) {
  Introduce(FourCpus, [](PeerConfig& config) { config.max_cpu_sas = 1; });
  Establish();
  int refused = 0;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    const auto payloads = insider_.Read(bytes);
    if (&from == &b_ && payloads &&
        wire::FindNotify(*payloads, NotifyType::kTsMaxQueue) != nullptr) {
      ++refused;
    }
    return true;
  };
  for (uint32_t cpu : {0u, 1u, 2u, 3u}) {
    a_.core.WantCpuSa(lab_.now(), PeerId(2), cpu);
  }
  lab_.Run(absl::Minutes(30));
  EXPECT_EQ(CpusOf(a_), Cpus{0});
  EXPECT_EQ(refused, 1);
  EXPECT_EQ(Fallbacks(a_), 1u);
  // Another IKE_SA may have other limits: it is asked once more.
  a_.core.Reestablish(lab_.now(), PeerId(2));
  lab_.Run(absl::Minutes(5));
  EXPECT_EQ(CpusOf(a_), Cpus{0});
  EXPECT_EQ(refused, 2);
}

// Each has asked for its last CPU when the other's request comes: that is no
// "full", which would leave both without.
TEST_F(Kinds, BothEndsAskForTheLastOneAtOnce) {
  const auto one_cpu = [](PeerConfig& config) { config.max_cpu_sas = 1; };
  Introduce(one_cpu, one_cpu);
  Establish();
  lab_.hold_wire = true;
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 0);
  b_.core.WantCpuSa(lab_.now(), PeerId(1), 0);
  lab_.Drain();
  ASSERT_EQ(lab_.wire.size(), 2u);
  lab_.hold_wire = false;
  lab_.Run(absl::Minutes(1));
  SeeAll();
  EXPECT_EQ(CpusOf(a_), Cpus{0});
  EXPECT_EQ(CpusOf(b_), Cpus{0});
  EXPECT_EQ(Fallbacks(a_), 1u);
}

// A timer that stays in the past would be asked for again and again.
TEST_F(Kinds, ACpuThatIsToBeTriedAgainWaitsForAnIkeSa) {
  Introduce(FourCpus, FourCpus);
  Establish();
  a_.hold_jobs = true;
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 1);
  lab_.Drain();
  ASSERT_EQ(a_.held_jobs.size(), 1u);
  const CryptoJobId job = a_.held_jobs.front().id;
  a_.held_jobs.clear();
  a_.hold_jobs = false;
  a_.core.HandleCryptoDone(lab_.now(), job, absl::InternalError("injected"));
  b_.core.Delete(lab_.now(), PeerId(1));
  lab_.Drain();
  ASSERT_TRUE(a_.Established().empty());
  lab_.filter = [](Node&, Node&, Path&, base::Bytes&) { return false; };
  lab_.Run(absl::Minutes(10));
  ASSERT_TRUE(a_.Established().empty());
  lab_.filter = nullptr;
  lab_.Run(absl::Minutes(10));
  EXPECT_EQ(CpusOf(a_), Cpus{1});
}

TEST_F(Kinds, APeerWithoutRfc9611IsNotAsked) {
  Introduce(FourCpus, nullptr);
  Establish();
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 1);
  lab_.Run(absl::Minutes(5));
  EXPECT_EQ(CpusOf(a_), Cpus{});
  EXPECT_EQ(a_.sas.size(), 2u);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

TEST_F(Kinds, NorIsOneBeyondOurOwnLimit) {
  Introduce(FourCpus, FourCpus);
  Establish();
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 4);
  lab_.Run(absl::Seconds(10));
  EXPECT_EQ(CpusOf(a_), Cpus{});
}

TEST_F(Kinds, RekeysKeepTheCpus) {
  Introduce(FourCpus, FourCpus);
  Establish();
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 2);
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 3);
  lab_.Run(absl::Seconds(1));
  SeeAll();
  const auto before = a_.sas.begin()->first;
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  lab_.Run(absl::Seconds(20));
  b_.core.RekeyIkeSa(lab_.now(), PeerId(1));
  lab_.Run(absl::Seconds(20));
  EXPECT_FALSE(a_.sas.contains(before));
  EXPECT_EQ(CpusOf(a_), (Cpus{2, 3}));
  EXPECT_EQ(CpusOf(b_), (Cpus{0, 1}));
  EXPECT_EQ(Fallbacks(a_), 1u);
  EXPECT_EQ(a_.sas.size(), 6u);
  EXPECT_EQ(b_.sas.size(), 6u);
}

TEST_F(Kinds, AFallbackThatIsDeletedComesBackAndCpusAreNoSubstitute) {
  Introduce(FourCpus, FourCpus);
  Establish();
  base::Spi fallback = a_.NewestOutbound()->sa.spi;
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 2);
  lab_.Run(absl::Seconds(1));
  SeeAll();
  b_.core.HandleSaExpired(lab_.now(), base::Direction::kInbound, b_.address,
                          fallback, /*hard=*/true);
  lab_.Run(absl::Seconds(30));
  EXPECT_EQ(Fallbacks(a_), 1u);
  EXPECT_FALSE(a_.sas.contains({base::Direction::kOutbound, fallback}));
  EXPECT_EQ(CpusOf(a_), Cpus{2});
}

// Its request would end before it began, and be wanted again at once, for ever.
TEST_F(Kinds, ACpuWaitsWhileTheFallbackIsGone) {
  Introduce(FourCpus, FourCpus);
  Establish();
  const base::Spi fallback = a_.NewestOutbound()->sa.spi;
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 2);
  lab_.Run(absl::Seconds(1));
  SeeAll();
  b_.core.HandleSaExpired(lab_.now(), base::Direction::kInbound, b_.address,
                          fallback, /*hard=*/true);
  lab_.Drain();
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 3);
  EXPECT_EQ(CpusOf(a_), Cpus{2});
  lab_.Run(absl::Seconds(30));
  EXPECT_EQ(Fallbacks(a_), 1u);
  EXPECT_EQ(CpusOf(a_), (Cpus{2, 3}));
}

TEST_F(Kinds, ACpusSaThatThePeerDeletesIsNotMadeAgainUnlessWanted) {
  Introduce(FourCpus, FourCpus);
  Establish();
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 2);
  lab_.Run(absl::Seconds(1));
  SeeAll();
  const base::Spi spi = a_.NewestOutbound()->sa.spi;
  b_.core.HandleSaExpired(lab_.now(), base::Direction::kInbound, b_.address,
                          spi, /*hard=*/true);
  lab_.Run(absl::Minutes(10));
  EXPECT_EQ(CpusOf(a_), Cpus{});
  EXPECT_EQ(a_.sas.size(), 2u);
  a_.core.WantCpuSa(lab_.now(), PeerId(2), 2);
  lab_.Run(absl::Seconds(10));
  EXPECT_EQ(CpusOf(a_), Cpus{2});
}

// --- transport mode ---

void Transport(PeerConfig& config) {
  const auto host = [](const base::IpAddress& address) {
    return base::TrafficSelector::FromPrefix(base::IpPrefix::Host(address));
  };
  config.transport_mode = true;
  config.local_selectors = {host(config.local)};
  config.remote_selectors = {host(config.remote.address)};
}

void OnlyHosts(PeerConfig& config) {
  Transport(config);
  config.transport_mode = false;
}

TEST_F(Kinds, TransportModeWhereBothAreConfiguredForIt) {
  Introduce(Transport, Transport);
  Establish();
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  for (Node* node : {&a_, &b_}) {
    for (const auto& [key, sa] : node->sas) {
      EXPECT_EQ(sa.sa.mode, base::SaMode::kTransport);
    }
  }
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  lab_.Run(absl::Seconds(10));
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.NewestOutbound()->sa.mode, base::SaMode::kTransport);
  EXPECT_EQ(b_.NewestOutbound()->sa.mode, base::SaMode::kTransport);
}

TEST_F(Kinds, APeerThatIsNotConfiguredForItIsNotGivenTransportMode) {
  // As for every mesh peer: the request is answered with tunnel mode, which the
  // asking end must not keep.
  Introduce(Transport, OnlyHosts);
  bool asked = false, granted = false;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    const auto payloads = insider_.Read(bytes);
    if (payloads &&
        wire::FindNotify(*payloads, NotifyType::kUseTransportMode)) {
      (&from == &a_ ? asked : granted) = true;
    }
    return true;
  };
  Establish();
  EXPECT_TRUE(asked);
  EXPECT_FALSE(granted);
  for (const auto& [key, sa] : b_.sas) {
    EXPECT_EQ(sa.sa.mode, base::SaMode::kTunnel);
  }
  EXPECT_EQ(a_.CountSas(base::Direction::kOutbound), 0u);
  EXPECT_EQ(b_.CountSas(base::Direction::kOutbound), 0u);
}

TEST_F(Kinds, TunnelModeIsNotTakenForTransportMode) {
  Introduce(OnlyHosts, Transport);
  Establish();
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_TRUE(b_.sas.empty());
  EXPECT_GE(a_.Count(Event::Kind::kNoProposalChosen), 1);
}

TEST_F(Kinds, TransportModeIsOnlyForThePeersThemselves) {
  const auto wide = [](PeerConfig& config) { config.transport_mode = true; };
  Introduce(wide, wide);
  Establish();
  EXPECT_EQ(a_.Established().size(), 1u);
  EXPECT_TRUE(a_.sas.empty());
  EXPECT_TRUE(b_.sas.empty());
}

// --- AH ---

void Ah(PeerConfig& config) {
  config.child_proposals = {{.integrity = base::EspIntegrity::kHmacSha2_256_128,
                             .protocol = base::IpsecProtocol::kAh}};
}

TEST_F(Kinds, AhWhereBothAreConfiguredForIt) {
  Introduce(Ah, Ah);
  Establish();
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  const base::EspSa& sa = a_.NewestOutbound()->sa;
  EXPECT_TRUE(sa.suite.ah());
  EXPECT_EQ(sa.encryption_key.size(), 0u);
  EXPECT_EQ(sa.integrity_key.size(), 32u);
  // Rekeyed from either end, and what was replaced is deleted by its protocol.
  for (Node* node : {&a_, &b_}) {
    node->core.RekeyChildSa(lab_.now(), PeerId(node == &a_ ? 2 : 1));
    lab_.Run(absl::Seconds(10));
    EXPECT_TRUE(lab_.PassBoth(a_, b_));
    EXPECT_EQ(a_.sas.size(), 2u);
    EXPECT_EQ(b_.sas.size(), 2u);
  }
}

TEST_F(Kinds, AhInTransportMode) {
  const auto both = [](PeerConfig& config) {
    Ah(config);
    Transport(config);
  };
  Introduce(both, both);
  Establish();
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  EXPECT_EQ(a_.NewestOutbound()->sa.mode, base::SaMode::kTransport);
}

TEST_F(Kinds, AhIsNotGivenToAPeerWithEsp) {
  for (bool ours : {true, false}) {
    Introduce(ours ? Kinds::Change(Ah) : nullptr,
              ours ? nullptr : Kinds::Change(Ah));
    Establish();
    EXPECT_EQ(a_.Established().size(), 1u);
    EXPECT_TRUE(a_.sas.empty());
    EXPECT_TRUE(b_.sas.empty());
    a_.core.Delete(lab_.now(), PeerId(2));
    lab_.Run(absl::Seconds(1));
  }
}

TEST_F(Kinds, ADeleteOfTheOtherProtocolDeletesNothing) {
  Introduce(nullptr, nullptr);
  Establish();
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  const base::Spi spi = b_.NewestOutbound()->sa.spi;
  bool changed = false;
  lab_.filter = [&](Node& from, Node&, Path&, base::Bytes& bytes) {
    if (&from != &a_ || IsResponse(bytes) || !insider_.Read(bytes)) return true;
    insider_.Rewrite({wire::Payload::Of(wire::DeletePayload{
                         .protocol = wire::ProtocolId::kAh, .spis = {spi}})},
                     &bytes);
    changed = true;
    return true;
  };
  lab_.Run(absl::Minutes(1));
  EXPECT_TRUE(changed);
  EXPECT_TRUE(lab_.PassBoth(a_, b_));
}

// --- refused by configuration ---

TEST_F(Kinds, ConfigurationsThatCannotWorkAreRefused) {
  const std::pair<const char*, Change> kCases[] = {
      {"AH needs an integrity algorithm",
       [](PeerConfig& c) {
         Ah(c);
         c.child_proposals[0].integrity = base::EspIntegrity::kNone;
       }},
      {"AH cannot be encapsulated",
       [](PeerConfig& c) {
         Ah(c);
         c.force_encapsulation = true;
       }},
      {"ESP and for AH",
       [](PeerConfig& c) {
         Ah(c);
         c.child_proposals.push_back({});
       }},
      {"max_cpu_sas", [](PeerConfig& c) { c.max_cpu_sas = 100000; }},
  };
  for (const auto& [text, change] : kCases) {
    PeerConfig config = Lab::PskPeer(a_, b_);
    change(config);
    const absl::Status status =
        a_.core.UpsertPeer(lab_.now(), std::move(config));
    EXPECT_NE(status.message().find(text), absl::string_view::npos)
        << text << ": " << status;
  }
}

}  // namespace
}  // namespace espalier::ike::testing
