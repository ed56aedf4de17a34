// Two nodes: the real protocol core and the mesh of each, over a datapath in
// memory and a wire that loses nothing. Packets flow all the time.
#include <deque>

#include "agent/crypto/job.h"
#include "agent/datapath/fake/fake_datapath.h"
#include "agent/ike/core.h"
#include "agent/mesh/mesh.h"
#include "gmock/gmock.h"
#include "tests/support/manual_loop.h"
#include "tests/unit/ike/lab.h"
#include "tests/unit/mesh/fake_ike.h"

namespace espalier::mesh {
namespace {

using base::Direction;
using datapath::FakeDatapath;
using ::testing::HasSubstr;
using ::testing::SizeIs;

struct Datagram {
  ike::Path path;
  base::Bytes bytes;
};

class Side : public IkeControl, private ProbeLink {
 public:
  Side(testing::ManualLoop* loop, std::deque<Datagram>* wire,
       const std::string& name, int number)
      : loop_(loop), wire_(wire), number_(number) {
    node_.name = name;
    node_.identity = ike::Identity::Fqdn(name);
    node_.addresses = {Address(number)};
    node_.pod_cidrs = {Pods(number)};
  }

  static base::IpAddress Address(int number) {
    return *base::IpAddress::Parse("192.0.2." + std::to_string(number));
  }
  static base::IpPrefix Pods(int number) {
    return *base::IpPrefix::Parse("10.244." + std::to_string(number) + ".0/24");
  }

  // Also a restart after kill -9: the datapath stays as it is.
  void Start(Side& other) {
    other_ = &other;
    probes_.clear();
    mesh_.reset();
    core_.reset();
    random_ = std::make_unique<ike::testing::TestRandom>(
        static_cast<uint64_t>(100 * number_ + ++starts_));
    ike::CoreConfig config;
    config.identity = node_.identity;
    core_ = std::make_unique<ike::Core>(config, random_.get());
    mesh_ =
        std::make_unique<Mesh>(loop_, loop_, this, &fake, &network,
                               static_cast<ProbeLink*>(this), random_.get());
    PeerSpec peer;
    peer.name = other.node_.name;
    peer.identity = other.node_.identity;
    peer.addresses = other.node_.addresses;
    peer.pod_cidrs = other.node_.pod_cidrs;
    const std::string secret = "a secret of the mesh";
    peer.credential =
        std::make_shared<base::SecretBytes>(base::AsBytes(secret));
    Cluster cluster;
    cluster.node = node_;
    cluster.cluster_pod_cidrs = {*base::IpPrefix::Parse("10.244.0.0/16")};
    cluster.peers = {peer};
    cluster.on_demand = on_demand;
    cluster.per_cpu_sas = per_cpu_sas;
    cluster.node_traffic = node_traffic;
    cluster.idle_time = absl::Minutes(2);
    mesh_->SetCluster(cluster);
    fake.Connect();
  }

  // Does what is due; false when there was nothing.
  bool Step() {
    bool busy = false;
    const auto timeout = core_->NextTimeout();
    if (timeout && *timeout <= loop_->Now()) {
      core_->HandleTimeout(loop_->Now());
      busy = true;
    }
    while (std::optional<ike::Action> action = core_->PollAction()) {
      busy = true;
      if (auto* send = std::get_if<ike::SendDatagram>(&*action)) {
        wire_->push_back({send->path, std::move(send->bytes)});
      } else if (auto* run = std::get_if<ike::RunCrypto>(&*action)) {
        core_->HandleCryptoDone(loop_->Now(), run->id, crypto::Run(run->job));
      } else {
        mesh_->HandleIkeAction(*action);
      }
    }
    while (fake.RunOne()) busy = true;
    while (!probes_.empty()) {
      const Probe probe = std::move(probes_.front());
      probes_.pop_front();
      busy = true;
      if (Send(*other_) && other_->mesh_ != nullptr) {
        other_->mesh().HandleProbe(probe.remote, probe.local, probe.bytes);
      }
    }
    return busy;
  }

  void Receive(const Datagram& datagram) {
    const ike::Path path{datagram.path.remote, datagram.path.local};
    core_->HandleDatagram(loop_->Now(), path, datagram.bytes);
  }

  // One packet to the other side, by a CPU; false when it does not arrive.
  bool Send(Side& other, std::optional<uint32_t> cpu = std::nullopt) {
    const base::EspSa* const out =
        fake.Outbound(mesh().Peers().at(0).reqid, cpu);
    if (out == nullptr || !esp_passes ||
        (drops_protocol50 && !out->encapsulation)) {
      return false;
    }
    const base::SaKey sent{Direction::kOutbound, out->outer_destination,
                           out->spi};
    const base::SaKey received{Direction::kInbound, out->outer_destination,
                               out->spi};
    const auto found = other.fake.sas().find(received);
    if (found == other.fake.sas().end() ||
        !base::ConstantTimeEqual(found->second.encryption_key.span(),
                                 out->encryption_key.span())) {
      return false;
    }
    return fake.Pass(sent) && other.fake.Pass(received);
  }

  absl::Status UpsertPeer(ike::PeerConfig peer) override {
    return core_->UpsertPeer(loop_->Now(), std::move(peer));
  }
  void RemovePeer(ike::PeerId peer) override {
    core_->RemovePeer(loop_->Now(), peer);
  }
  void Establish(ike::PeerId peer, bool at_once) override {
    core_->Establish(loop_->Now(), peer, at_once);
  }
  void StopEstablishing(ike::PeerId peer) override {
    core_->StopEstablishing(loop_->Now(), peer);
  }
  void Delete(ike::PeerId peer) override { core_->Delete(loop_->Now(), peer); }
  void Reestablish(ike::PeerId peer) override {
    core_->Reestablish(loop_->Now(), peer);
  }
  void HandleInboundTraffic(base::Spi spi) override {
    core_->HandleInboundTraffic(loop_->Now(), spi);
  }
  void RekeyChildSa(ike::PeerId peer) override {
    core_->RekeyChildSa(loop_->Now(), peer);
  }
  void WantCpuSa(ike::PeerId peer, uint32_t cpu) override {
    core_->WantCpuSa(loop_->Now(), peer, cpu);
  }
  void HandleDatapathDone(ike::DatapathOpId op, absl::Status status) override {
    core_->HandleDatapathDone(loop_->Now(), op, std::move(status));
  }
  void HandleInboundSeen(base::Spi spi) override {
    core_->HandleInboundSeen(loop_->Now(), spi);
  }
  void HandleSaExpired(const base::SaKey& key, bool hard) override {
    core_->HandleSaExpired(loop_->Now(), key.direction, key.outer_destination,
                           key.spi, hard);
  }

  // ProbeLink
  void SetLocal(const std::vector<base::IpAddress>&) override {}
  absl::Status Send(const base::IpAddress& local, const base::IpAddress& remote,
                    base::ByteSpan bytes) override {
    probes_.push_back({local, remote, {bytes.begin(), bytes.end()}});
    return absl::OkStatus();
  }

  // Whether the wire lets this side's ESP through.
  bool esp_passes = true;
  bool drops_protocol50 = false;
  // Of the next Start.
  bool on_demand = false;
  uint32_t per_cpu_sas = 0;
  NodeTraffic node_traffic = NodeTraffic::kOff;

  Mesh& mesh() { return *mesh_; }
  ike::Core& core() { return *core_; }
  PeerStatus Peer() { return mesh().Peers().at(0); }

  FakeDatapath fake;
  FakeNetwork network;

 private:
  testing::ManualLoop* loop_;
  std::deque<Datagram>* wire_;
  int number_;
  Side* other_ = nullptr;
  struct Probe {
    base::IpAddress local, remote;
    base::Bytes bytes;
  };
  std::deque<Probe> probes_;
  int starts_ = 0;
  LocalNode node_;
  std::unique_ptr<ike::testing::TestRandom> random_;
  std::unique_ptr<ike::Core> core_;
  std::unique_ptr<Mesh> mesh_;
};

class MeshPairTest : public ::testing::Test {
 protected:
  void StartBoth() {
    a_.Start(b_);
    b_.Start(a_);
  }

  // Lets time pass; a packet each way in every hundredth of a second. Packets
  // go also between any two steps of the nodes, where a switch too early would
  // lose them.
  void Run(absl::Duration duration, bool traffic = true) {
    const base::Instant end = loop_.Now() + duration;
    while (true) {
      bool busy = true;
      while (busy) {
        busy = a_.Step();
        Traffic(traffic);
        busy = b_.Step() || busy;
        Traffic(traffic);
        if (!wire_.empty()) {
          const Datagram datagram = std::move(wire_.front());
          wire_.pop_front();
          Side& to = datagram.path.remote.address == Side::Address(1) ? a_ : b_;
          if (!cut_) to.Receive(datagram);
          busy = true;
        }
      }
      if (loop_.Now() >= end) return;
      loop_.Advance(absl::Milliseconds(10));
    }
  }
  void Traffic(bool on) {
    if (!on) return;
    for (const std::optional<uint32_t> cpu : cpus_) {
      (a_.Send(b_, cpu) ? arrived_ : lost_) += 1;
      (b_.Send(a_, cpu) ? arrived_ : lost_) += 1;
    }
  }
  void ExpectUp() {
    EXPECT_EQ(a_.Peer().state, TunnelState::kUp) << a_.Peer().last_problem;
    EXPECT_EQ(b_.Peer().state, TunnelState::kUp) << b_.Peer().last_problem;
    EXPECT_TRUE(a_.Send(b_));
    EXPECT_TRUE(b_.Send(a_));
    EXPECT_EQ(a_.fake.repeated_keys(), 0);
    EXPECT_EQ(b_.fake.repeated_keys(), 0);
  }
  void ExpectOnePair() {
    EXPECT_THAT(a_.fake.sas(), SizeIs(2));
    EXPECT_THAT(b_.fake.sas(), SizeIs(2));
  }

  testing::ManualLoop loop_;
  std::deque<Datagram> wire_;
  Side a_{&loop_, &wire_, "node-a", 1};
  Side b_{&loop_, &wire_, "node-b", 2};
  bool cut_ = false;
  // Those that send; nullopt has no SA of its own.
  std::vector<std::optional<uint32_t>> cpus_ = {std::nullopt};
  uint64_t arrived_ = 0, lost_ = 0;
};

TEST_F(MeshPairTest, BothStartAndPacketsPass) {
  StartBoth();
  Run(absl::Seconds(2));
  ExpectUp();
  ExpectOnePair();
  EXPECT_TRUE(a_.Peer().inbound_seen);
  arrived_ = lost_ = 0;
  Run(absl::Seconds(20));
  EXPECT_EQ(lost_, 0u);
  EXPECT_GT(arrived_, 1000u);
}

TEST_F(MeshPairTest, UpMeansThatPacketsPassBothWays) {
  b_.esp_passes = false;
  StartBoth();
  Run(absl::Seconds(2));
  // IKE is up, and the datapaths have their SAs.
  EXPECT_THAT(a_.core().IkeSas(), SizeIs(1));
  ExpectOnePair();
  EXPECT_EQ(a_.Peer().state, TunnelState::kProbing);
  Run(absl::Seconds(10), /*traffic=*/false);
  // What a sends arrives; that alone is up for neither.
  EXPECT_EQ(a_.Peer().state, TunnelState::kNoPackets);
  EXPECT_EQ(b_.Peer().state, TunnelState::kNoPackets);
  EXPECT_THAT(a_.Peer().last_problem, HasSubstr("no answer to"));
  b_.esp_passes = true;
  Run(absl::Seconds(10));
  ExpectUp();
  EXPECT_EQ(a_.Peer().last_problem, "");
  // And it is noticed while it runs.
  a_.esp_passes = false;
  Run(absl::Seconds(30), /*traffic=*/false);
  EXPECT_EQ(a_.Peer().state, TunnelState::kNoPackets);
  EXPECT_EQ(b_.Peer().state, TunnelState::kNoPackets);
}

TEST_F(MeshPairTest, FallsBackToUdpWhereProtocol50IsDropped) {
  for (const bool too_early : {true, false}) {
    a_.drops_protocol50 = b_.drops_protocol50 = true;
    StartBoth();
    Run(absl::Seconds(15));
    ExpectUp();
    ExpectOnePair();
    // Once, and by the lower identity alone: one end has to be told to return.
    EXPECT_EQ(a_.mesh().fallbacks() + b_.mesh().fallbacks(), 1u);
    EXPECT_TRUE(a_.Peer().fell_back);
    EXPECT_FALSE(b_.Peer().fell_back);
    EXPECT_TRUE(a_.Peer().sas.at(0).encapsulated);
    // The other end learns that it is not its to undo.
    EXPECT_THAT(b_.mesh().ReturnToProtocol50(b_.Peer().id).ToString(),
                HasSubstr("did not fall back"));
    // Told too early, it falls back again; told in time, it returns.
    if (too_early) {
      ASSERT_TRUE(a_.mesh().ReturnToProtocol50(a_.Peer().id).ok());
      Run(absl::Seconds(60));
      ExpectUp();
      EXPECT_EQ(a_.mesh().fallbacks(), 2u);
    }
    a_.drops_protocol50 = b_.drops_protocol50 = false;
    lost_ = 0;
    ASSERT_TRUE(a_.mesh().ReturnToProtocol50(a_.Peer().id).ok());
    Run(absl::Seconds(30));
    EXPECT_EQ(lost_, 0u);
    ExpectUp();
    ExpectOnePair();
    EXPECT_FALSE(a_.Peer().sas.at(0).encapsulated);
    EXPECT_FALSE(a_.Peer().fell_back);
  }
}

TEST_F(MeshPairTest, OneWayThatIsDroppedIsEnoughToFallBack) {
  a_.drops_protocol50 = true;  // b sees nothing of a, a all of b
  StartBoth();
  Run(absl::Seconds(40), /*traffic=*/false);
  ExpectUp();
  EXPECT_EQ(a_.mesh().fallbacks(), 0u);
  EXPECT_EQ(b_.mesh().fallbacks(), 1u);
}

TEST_F(MeshPairTest, AWireThatBeginsToDropProtocol50IsNoticed) {
  StartBoth();
  Run(absl::Seconds(30));
  ExpectUp();
  a_.drops_protocol50 = b_.drops_protocol50 = true;
  Run(absl::Minutes(2));
  ExpectUp();
  EXPECT_EQ(a_.mesh().fallbacks() + b_.mesh().fallbacks(), 1u);
}

TEST_F(MeshPairTest, WhatDropsAllEspIsNoReasonToFallBackTwice) {
  a_.esp_passes = b_.esp_passes = false;
  StartBoth();
  Run(absl::Seconds(50));
  EXPECT_EQ(a_.Peer().state, TunnelState::kNoPackets);
  EXPECT_EQ(a_.mesh().fallbacks(), 1u);
  a_.esp_passes = b_.esp_passes = true;
  Run(absl::Seconds(10));
  ExpectUp();
}

TEST_F(MeshPairTest, ARestartStaysInUdp) {
  a_.drops_protocol50 = b_.drops_protocol50 = true;
  StartBoth();
  Run(absl::Seconds(20));
  ExpectUp();
  for (Side* side : {&a_, &b_}) {
    lost_ = 0;
    side->Start(side == &a_ ? b_ : a_);
    Run(absl::Seconds(40));
    EXPECT_EQ(lost_, 0u);
    ExpectUp();
    EXPECT_TRUE(side->Peer().fell_back);
  }
}

TEST_F(MeshPairTest, OnDemandTheFirstPacketMakesTheTunnel) {
  a_.on_demand = b_.on_demand = true;
  StartBoth();
  Run(absl::Minutes(1), /*traffic=*/false);
  EXPECT_EQ(a_.Peer().state, TunnelState::kIdle);
  EXPECT_THAT(a_.core().IkeSas(), SizeIs(0));
  // The datapath reports traffic at the higher identity, which begins too.
  b_.fake.Acquire(b_.Peer().reqid);
  Run(absl::Seconds(2));
  ExpectUp();
  // Used, it stays; probes are no use.
  Run(absl::Minutes(10));
  ExpectUp();
  Run(absl::Minutes(3), /*traffic=*/false);
  EXPECT_EQ(a_.Peer().state, TunnelState::kIdle) << a_.Peer().last_problem;
  EXPECT_EQ(b_.Peer().state, TunnelState::kIdle);
  EXPECT_THAT(a_.fake.sas(), SizeIs(0));
  EXPECT_THAT(b_.fake.sas(), SizeIs(0));
  Run(absl::Minutes(5), /*traffic=*/false);
  EXPECT_THAT(a_.core().IkeSas(), SizeIs(0));
  a_.fake.Acquire(a_.Peer().reqid);
  Run(absl::Seconds(2));
  ExpectUp();
  ExpectOnePair();
}

TEST_F(MeshPairTest, OnDemandARestartKeepsTheTunnelThatIsInUse) {
  a_.on_demand = b_.on_demand = true;
  StartBoth();
  Run(absl::Seconds(1), /*traffic=*/false);
  a_.fake.Acquire(a_.Peer().reqid);
  Run(absl::Seconds(20));
  ExpectUp();
  for (Side* side : {&a_, &b_}) {
    lost_ = 0;
    side->Start(side == &a_ ? b_ : a_);
    Run(absl::Seconds(40));
    EXPECT_EQ(lost_, 0u);
    ExpectUp();
    ExpectOnePair();
  }
  // And one that is not goes, whoever made it.
  a_.Start(b_);
  Run(absl::Minutes(4), /*traffic=*/false);
  EXPECT_THAT(a_.fake.sas(), SizeIs(0));
  EXPECT_THAT(b_.fake.sas(), SizeIs(0));
}

TEST_F(MeshPairTest, PassingEspSparesTheLivenessChecks) {
  StartBoth();
  Run(absl::Seconds(20));
  const uint64_t before =
      a_.core().counters().datagrams_out + b_.core().counters().datagrams_out;
  Run(absl::Minutes(10));
  EXPECT_EQ(
      a_.core().counters().datagrams_out + b_.core().counters().datagrams_out,
      before);
  // The control: without ESP they are what is left.
  a_.esp_passes = b_.esp_passes = false;
  Run(absl::Minutes(2));
  EXPECT_GT(
      a_.core().counters().datagrams_out + b_.core().counters().datagrams_out,
      before);
}

TEST_F(MeshPairTest, ARekeyLosesNoPacket) {
  StartBoth();
  Run(absl::Seconds(2));
  for (int i = 0; i < 4; ++i) {
    Side& side = i % 2 == 0 ? a_ : b_;
    const auto before = a_.Peer().sas;
    lost_ = 0;
    side.core().RekeyChildSa(loop_.Now(), side.Peer().id);
    Run(absl::Seconds(20));
    EXPECT_EQ(lost_, 0u) << i;
    ExpectUp();
    ExpectOnePair();
    EXPECT_NE(before.at(0).key, a_.Peer().sas.at(0).key) << "no rekey";
  }
}

// RFC 9611: beside the fallback SA one for each CPU, and none of their packets
// is lost over rekeys and restarts.
TEST_F(MeshPairTest, EachCpuHasItsOwnSa) {
  a_.per_cpu_sas = b_.per_cpu_sas = 2;
  StartBoth();
  Run(absl::Seconds(2));
  // The end that answered sends by a CPU's SA once the other end did.
  cpus_ = {std::nullopt, 0, 1};
  lost_ = 0;
  Run(absl::Seconds(10));
  EXPECT_EQ(lost_, 0u);
  ExpectUp();
  const auto expect_all = [&](const char* when) {
    for (Side* side : {&a_, &b_}) {
      EXPECT_THAT(side->fake.sas(), SizeIs(6)) << when;
      const base::Reqid reqid = side->Peer().reqid;
      std::set<base::Spi> spis;
      for (const std::optional<uint32_t> cpu :
           std::vector<std::optional<uint32_t>>{std::nullopt, 0, 1}) {
        const base::EspSa* const sa = side->fake.Outbound(reqid, cpu);
        ASSERT_NE(sa, nullptr) << when;
        EXPECT_EQ(sa->cpu, cpu) << when;
        spis.insert(sa->spi);
      }
      EXPECT_THAT(spis, SizeIs(3)) << when;
      // What is no CPU of them takes the fallback.
      EXPECT_EQ(side->fake.Outbound(reqid, 7), side->fake.Outbound(reqid));
      EXPECT_EQ(std::ranges::count_if(
                    side->Peer().sas,
                    [](const SaStatus& sa) { return sa.cpu.has_value(); }),
                4)
          << when;
    }
  };
  expect_all("at first");
  a_.core().RekeyChildSa(loop_.Now(), a_.Peer().id);
  Run(absl::Seconds(20));
  EXPECT_EQ(lost_, 0u);
  expect_all("after a rekey");
  b_.Start(a_);
  Run(absl::Seconds(40));
  EXPECT_EQ(lost_, 0u);
  ExpectUp();
  expect_all("after a restart");
  // The fallback alone makes the tunnel: without the others it is up.
  for (const SaStatus& sa : a_.Peer().sas) {
    if (sa.cpu) a_.fake.RemoveByHand(sa.key);
  }
  Run(absl::Seconds(2), /*traffic=*/false);
  ExpectUp();
}

// A peer is held to its word: from when its agent says that its node uses the
// tunnel, until it says otherwise.
TEST_F(MeshPairTest, NodeTrafficIsConfirmedPeerByPeer) {
  a_.node_traffic = NodeTraffic::kConfirm;
  StartBoth();
  Run(absl::Seconds(20));
  ExpectUp();
  EXPECT_FALSE(a_.Peer().sealed);
  EXPECT_THAT(a_.network.desired.sealed_nodes, SizeIs(0));
  EXPECT_TRUE(b_.Peer().probe.node_traffic) << "a says it";
  EXPECT_FALSE(b_.Peer().sealed) << "b is off";
  b_.node_traffic = NodeTraffic::kSend;
  b_.Start(a_);
  Run(absl::Seconds(40));
  EXPECT_TRUE(a_.Peer().sealed);
  EXPECT_THAT(a_.network.desired.sealed_nodes,
              ::testing::ElementsAre(Side::Address(2)));
  EXPECT_FALSE(b_.Peer().sealed) << "to send is not to require";
  // Also while packets do not pass.
  a_.esp_passes = b_.esp_passes = false;
  Run(absl::Minutes(1), /*traffic=*/false);
  EXPECT_NE(a_.Peer().state, TunnelState::kUp);
  EXPECT_TRUE(a_.Peer().sealed);
  a_.esp_passes = b_.esp_passes = true;
  b_.node_traffic = NodeTraffic::kOff;
  b_.Start(a_);
  Run(absl::Minutes(1));
  EXPECT_FALSE(a_.Peer().sealed);
}

TEST_F(MeshPairTest, SasPerCpuAreOnlyMadeWhereBothEndsHaveThem) {
  a_.per_cpu_sas = 2;
  StartBoth();
  Run(absl::Seconds(10));
  ExpectUp();
  ExpectOnePair();
}

TEST_F(MeshPairTest, AnAgentsRestartLosesNoPacket) {
  for (const bool lower : {true, false}) {
    StartBoth();
    Run(absl::Seconds(20));
    ExpectUp();
    Side& dies = lower ? a_ : b_;
    Side& stays = lower ? b_ : a_;
    lost_ = arrived_ = 0;
    const auto before = stays.Peer().sas.at(0).key;
    dies.Start(stays);
    Run(absl::Seconds(30));
    EXPECT_EQ(lost_, 0u) << lower;
    EXPECT_GT(arrived_, 1000u);
    ExpectUp();
    ExpectOnePair();
    EXPECT_NE(stays.Peer().sas.at(0).key, before);
  }
}

TEST_F(MeshPairTest, BothAgentsRestartAtOnceAndLoseNoPacket) {
  StartBoth();
  Run(absl::Seconds(20));
  ExpectUp();
  lost_ = arrived_ = 0;
  StartBoth();
  Run(absl::Minutes(2));
  EXPECT_EQ(lost_, 0u);
  ExpectUp();
  ExpectOnePair();
}

TEST_F(MeshPairTest, AnAgentThatIsAwayForThreeMinutesCostsNothing) {
  StartBoth();
  Run(absl::Seconds(10));
  lost_ = 0;
  cut_ = true;  // the others' liveness checks meet silence
  Run(absl::Minutes(3));
  EXPECT_EQ(lost_, 0u);
  b_.Start(a_);
  cut_ = false;
  Run(absl::Minutes(2));
  EXPECT_EQ(lost_, 0u);
  ExpectUp();
  ExpectOnePair();
}

TEST_F(MeshPairTest, ALostDatapathIsNegotiatedAnew) {
  StartBoth();
  Run(absl::Seconds(10));
  for (Side* side : {&a_, &b_}) {
    side->fake.Restart();
    EXPECT_FALSE(a_.Send(b_) && b_.Send(a_));
    Run(absl::Seconds(60));
    ExpectUp();
    ExpectOnePair();
  }
}

TEST_F(MeshPairTest, AnSaRemovedByHandIsNegotiatedAnew) {
  StartBoth();
  Run(absl::Seconds(10));
  for (const Direction direction :
       {Direction::kInbound, Direction::kOutbound}) {
    for (Side* side : {&a_, &b_}) {
      for (const SaStatus& sa : side->Peer().sas) {
        if (sa.key.direction == direction) side->fake.RemoveByHand(sa.key);
      }
      EXPECT_FALSE(a_.Send(b_) && b_.Send(a_));
      Run(absl::Seconds(60));
      ExpectUp();
      ExpectOnePair();
    }
  }
}

TEST_F(MeshPairTest, EachDatapathCallFailsOnceAndTheTunnelComesUp) {
  for (const auto how :
       {FakeDatapath::Failure::kBefore, FakeDatapath::Failure::kAfter}) {
    for (const bool lower : {true, false}) {
      for (uint64_t n = 1; n <= 6; ++n) {
        SCOPED_TRACE(n);
        wire_.clear();
        a_.fake = FakeDatapath();
        b_.fake = FakeDatapath();
        (lower ? a_ : b_).fake.FailCall(n, how);
        StartBoth();
        Run(absl::Minutes(2), /*traffic=*/true);
        ExpectUp();
        ExpectOnePair();
        if (HasFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace espalier::mesh
