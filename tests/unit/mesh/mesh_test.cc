#include "agent/mesh/mesh.h"

#include <iostream>

#include "agent/crypto/keys.h"
#include "agent/datapath/fake/fake_datapath.h"
#include "gmock/gmock.h"
#include "tests/support/manual_loop.h"
#include "tests/unit/mesh/fake_ike.h"

namespace espalier::mesh {
namespace {

using base::Direction;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}
base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}
ike::Identity Fqdn(const std::string& name) {
  return {ike::Identity::Type::kFqdn, base::Bytes(name.begin(), name.end())};
}

PeerSpec MakePeer(const std::string& name, int number) {
  PeerSpec peer;
  peer.name = name;
  peer.identity = Fqdn(name);
  peer.addresses = {
      *base::IpAddress::Parse("192.0.2." + std::to_string(number))};
  peer.pod_cidrs = {Net("10.244." + std::to_string(number) + ".0/24"),
                    Net("fd00:244:" + std::to_string(number) + "::/64")};
  const std::string secret = "a secret of the mesh";
  peer.credential = std::make_shared<base::SecretBytes>(base::AsBytes(secret));
  return peer;
}

Cluster MakeCluster(std::vector<PeerSpec> peers) {
  Cluster cluster;
  cluster.node = {.name = "node-b",
                  .identity = Fqdn("node-b"),
                  .addresses = {Ip("192.0.2.1"), Ip("2001:db8::1")},
                  .pod_cidrs = {Net("10.244.1.0/24"), Net("fd00:244:1::/64")},
                  .uplink_mtu = 1500};
  cluster.cluster_pod_cidrs = {Net("10.244.0.0/16"), Net("fd00:244::/32")};
  cluster.peers = std::move(peers);
  return cluster;
}

class MeshTest : public ::testing::Test {
 protected:
  MeshTest() { Start(); }

  void Start() {
    mesh_.reset();
    ike_ = std::make_unique<FakeIke>();
    mesh_ =
        std::make_unique<Mesh>(&loop_, &loop_, ike_.get(), &fake_, &network_);
  }
  void Connect() {
    fake_.Connect();
    fake_.Run();
  }
  // The usual: node-a begins towards us, we begin towards node-c.
  void StartUsual() {
    mesh_->SetCluster(
        MakeCluster({MakePeer("node-a", 2), MakePeer("node-c", 3)}));
    Connect();
  }
  ike::PeerId Id(const std::string& name) {
    for (const auto& [id, peer] : ike_->peers) {
      if (peer.name == name) return id;
    }
    ADD_FAILURE() << "no peer " << name;
    return {};
  }
  PeerStatus Status(const std::string& name) {
    for (const PeerStatus& status : mesh_->Peers()) {
      if (status.name == name) return status;
    }
    ADD_FAILURE() << "no peer " << name;
    return {};
  }

  // Has the core install one direction; returns what the datapath said.
  absl::Status Install(const std::string& name, uint64_t child,
                       Direction direction, uint32_t spi) {
    const ike::PeerConfig& peer = ike_->peers.at(Id(name));
    ike::InstallSa action;
    action.op = ike::DatapathOpId(++last_op_);
    action.peer = peer.id;
    action.child = ike::ChildSaId(child);
    base::EspSa& sa = action.sa;
    sa.direction = direction;
    sa.spi = base::Spi(spi);
    const bool in = direction == Direction::kInbound;
    sa.outer_source = in ? peer.remote.address : peer.local;
    sa.outer_destination = in ? peer.local : peer.remote.address;
    sa.reqid = peer.reqid;
    sa.local_selectors = peer.local_selectors;
    sa.remote_selectors = peer.remote_selectors;
    sa.encryption_key = base::SecretBytes(36);
    sa.encryption_key.mutable_span()[0] = static_cast<uint8_t>(spi);
    sa.encryption_key.mutable_span()[1] = static_cast<uint8_t>(spi >> 8);
    return Do(std::move(action));
  }
  absl::Status Remove(const std::string& name, uint64_t child,
                      Direction direction, uint32_t spi) {
    const ike::PeerConfig& peer = ike_->peers.at(Id(name));
    ike::RemoveSa action;
    action.op = ike::DatapathOpId(++last_op_);
    action.peer = peer.id;
    action.child = ike::ChildSaId(child);
    action.direction = direction;
    action.spi = base::Spi(spi);
    action.outer_destination =
        direction == Direction::kInbound ? peer.local : peer.remote.address;
    return Do(std::move(action));
  }
  template <typename T>
  absl::Status Do(T made) {
    ike::Action action = std::move(made);
    EXPECT_TRUE(mesh_->HandleIkeAction(action));
    fake_.Run();
    const auto found = ike_->done.find(ike::DatapathOpId(last_op_));
    if (found == ike_->done.end()) return absl::UnknownError("no answer");
    return found->second;
  }
  void InstallBoth(const std::string& name, uint64_t child, uint32_t spi) {
    EXPECT_TRUE(Install(name, child, Direction::kInbound, spi).ok());
    EXPECT_TRUE(Install(name, child, Direction::kOutbound, spi + 1).ok());
  }
  base::SaKey Inbound(uint32_t spi) {
    return {Direction::kInbound, Ip("192.0.2.1"), base::Spi(spi)};
  }
  std::vector<uint32_t> InstalledSpis() {
    std::vector<uint32_t> spis;
    for (const auto& [key, sa] : fake_.sas()) spis.push_back(key.spi.value());
    std::ranges::sort(spis);
    return spis;
  }

  testing::ManualLoop loop_;
  datapath::FakeDatapath fake_;
  FakeNetwork network_;
  std::unique_ptr<FakeIke> ike_;
  std::unique_ptr<Mesh> mesh_;
  uint64_t last_op_ = 0;
};

TEST_F(MeshTest, ConfiguresPeersPoliciesAndRoutes) {
  StartUsual();
  ASSERT_THAT(ike_->peers, SizeIs(2));
  const ike::PeerConfig& a = ike_->peers.at(Id("node-a"));
  const ike::PeerConfig& c = ike_->peers.at(Id("node-c"));
  // The lower identity begins.
  EXPECT_FALSE(a.initiate);
  EXPECT_TRUE(c.initiate);
  EXPECT_EQ(a.remote.ToString(), "192.0.2.2:500");
  EXPECT_EQ(a.local, Ip("192.0.2.1"));
  EXPECT_NE(a.reqid, c.reqid);
  EXPECT_THAT(a.local_selectors, SizeIs(4));
  EXPECT_THAT(a.remote_selectors, SizeIs(3));
  EXPECT_THAT(ike_->established, Contains(Pair(Id("node-a"), false)));
  EXPECT_THAT(ike_->established, Contains(Pair(Id("node-c"), false)));

  ASSERT_THAT(fake_.policies(), SizeIs(2));
  const datapath::Policy& policy = fake_.policies().at(a.reqid);
  EXPECT_THAT(policy.remote,
              ElementsAre(Net("10.244.2.0/24"), Net("fd00:244:2::/64"),
                          Net("192.0.2.2/32")));
  EXPECT_EQ(policy.outer_destination, Ip("192.0.2.2"));

  const network::DesiredNetwork& desired = network_.desired;
  EXPECT_EQ(desired.tunnel_interface, "esp0");
  EXPECT_THAT(desired.tunnel_addresses,
              ElementsAre(Ip("10.244.1.1"), Ip("fd00:244:1::1")));
  EXPECT_THAT(desired.routes, SizeIs(6));
  EXPECT_THAT(desired.node_addresses, Contains(Ip("192.0.2.3")));
}

// RFC 9611, eagerly; not where nobody asked for it.
TEST_F(MeshTest, AsksForAnSaOfEachCpu) {
  StartUsual();
  EXPECT_THAT(ike_->cpus, IsEmpty());
  EXPECT_EQ(ike_->peers.at(Id("node-c")).max_cpu_sas, 0u);
  Cluster cluster = MakeCluster({MakePeer("node-c", 3)});
  cluster.per_cpu_sas = 2;
  mesh_->SetCluster(cluster);
  EXPECT_EQ(ike_->peers.at(Id("node-c")).max_cpu_sas, 2u);
  EXPECT_THAT(ike_->cpus,
              ElementsAre(Pair(Id("node-c"), 0u), Pair(Id("node-c"), 1u)));
}

TEST_F(MeshTest, TransportModeIsBetweenTheNodesAlone) {
  PeerSpec peer = MakePeer("node-c", 3);
  peer.pod_cidrs.clear();
  peer.transport_mode = true;
  mesh_->SetCluster(MakeCluster({peer}));
  Connect();
  const ike::PeerConfig& config = ike_->peers.at(Id("node-c"));
  EXPECT_TRUE(config.transport_mode);
  EXPECT_THAT(
      config.local_selectors,
      ElementsAre(base::TrafficSelector::FromPrefix(Net("192.0.2.1/32"))));
  EXPECT_THAT(
      config.remote_selectors,
      ElementsAre(base::TrafficSelector::FromPrefix(Net("192.0.2.3/32"))));
  const datapath::Policy& policy = fake_.policies().at(config.reqid);
  EXPECT_EQ(policy.mode, base::SaMode::kTransport);
  EXPECT_THAT(policy.local, ElementsAre(Net("192.0.2.1/32")));
  EXPECT_THAT(policy.remote, ElementsAre(Net("192.0.2.3/32")));
  // Nothing is routed into the tunnels' interface for it.
  EXPECT_THAT(network_.desired.routes, IsEmpty());
  EXPECT_THAT(network_.desired.node_addresses, Contains(Ip("192.0.2.3")));
}

// What pods send finds no policy for AH, which would leave it readable.
TEST_F(MeshTest, AhIsForTheNodeItselfAlone) {
  PeerSpec peer = MakePeer("node-c", 3);
  ike::ChildProposal proposal;
  proposal.protocol = base::IpsecProtocol::kAh;
  proposal.integrity = base::EspIntegrity::kHmacSha2_256_128;
  peer.child_proposals = {proposal};
  Cluster cluster = MakeCluster({peer, MakePeer("node-d", 4)});
  cluster.node_traffic = NodeTraffic::kRequire;
  mesh_->SetCluster(cluster);
  Connect();
  const ike::PeerConfig& config = ike_->peers.at(Id("node-c"));
  const datapath::Policy& policy = fake_.policies().at(config.reqid);
  EXPECT_EQ(policy.protocol, base::IpsecProtocol::kAh);
  EXPECT_THAT(policy.local, Not(Contains(Net("10.244.1.0/24"))));
  EXPECT_THAT(policy.local, Contains(Net("10.244.1.1/32")));
  EXPECT_THAT(policy.local, Contains(Net("192.0.2.1/32")));
  const datapath::Policy& other =
      fake_.policies().at(ike_->peers.at(Id("node-d")).reqid);
  EXPECT_EQ(other.protocol, base::IpsecProtocol::kEsp);
  EXPECT_THAT(other.local, Contains(Net("10.244.1.0/24")));
  // Nor is it what encryptNodeTraffic asks for.
  for (const network::TunnelRoute& route : network_.desired.routes) {
    EXPECT_FALSE(route.node_only && route.destination == Net("192.0.2.3/32"));
  }
}

TEST_F(MeshTest, NothingIsEstablishedBeforeTheDatapathAnswers) {
  mesh_->SetCluster(MakeCluster({MakePeer("node-c", 3)}));
  EXPECT_THAT(ike_->established, IsEmpty());
  Connect();
  EXPECT_THAT(ike_->established, SizeIs(1));
}

TEST_F(MeshTest, ATunnelIsUpWithAnSaEachWay) {
  StartUsual();
  EXPECT_EQ(Status("node-c").state, TunnelState::kDown);
  EXPECT_TRUE(Install("node-c", 1, Direction::kInbound, 10).ok());
  EXPECT_EQ(Status("node-c").state, TunnelState::kDown);
  EXPECT_TRUE(Install("node-c", 1, Direction::kOutbound, 11).ok());
  EXPECT_EQ(Status("node-c").state, TunnelState::kUp);
  EXPECT_FALSE(Status("node-c").inbound_seen);
  fake_.Pass(Inbound(10), 1000);
  EXPECT_TRUE(Status("node-c").inbound_seen);
  mesh_->RefreshCounters([](const absl::Status&) {});
  fake_.Run();
  EXPECT_EQ(Status("node-c").inbound.bytes, 1000u);
  EXPECT_EQ(Status("node-a").state, TunnelState::kDown);

  EXPECT_TRUE(Remove("node-c", 1, Direction::kOutbound, 11).ok());
  EXPECT_TRUE(Remove("node-c", 1, Direction::kInbound, 10).ok());
  EXPECT_EQ(Status("node-c").state, TunnelState::kDown);
  EXPECT_EQ(Status("node-c").inbound.bytes, 1000u) << "counters went back";
  EXPECT_THAT(fake_.sas(), IsEmpty());
}

TEST_F(MeshTest, InboundCountersThatRiseAreASignOfLife) {
  StartUsual();
  InstallBoth("node-c", 1, 10);
  const auto alive = [&] {
    mesh_->RefreshCounters([](const absl::Status&) {});
    fake_.Run();
    return ike_->alive;
  };
  EXPECT_THAT(alive(), IsEmpty());
  fake_.Pass(Inbound(10));
  EXPECT_THAT(alive(), ElementsAre(Pair(10, 1)));
  EXPECT_THAT(alive(), ElementsAre(Pair(10, 1))) << "they stand still";
  // What goes out tells nothing about the peer.
  fake_.Pass({Direction::kOutbound, Ip("192.0.2.3"), base::Spi(11)});
  EXPECT_THAT(alive(), ElementsAre(Pair(10, 1)));
  // It is told of the SA that has carried it.
  InstallBoth("node-c", 2, 20);
  fake_.Pass(Inbound(20));
  EXPECT_THAT(alive(), ElementsAre(Pair(10, 1), Pair(20, 1)));
  EXPECT_TRUE(Remove("node-c", 1, Direction::kOutbound, 11).ok());
  EXPECT_TRUE(Remove("node-c", 1, Direction::kInbound, 10).ok());
  EXPECT_THAT(alive(), ElementsAre(Pair(10, 1), Pair(20, 1)));
}

TEST_F(MeshTest, TheRoutesMtuIsNoMoreThanPodsTake) {
  StartUsual();
  const auto mtu = [&] {
    for (const network::TunnelRoute& route : network_.desired.routes) {
      if (route.destination == Net("10.244.3.0/24")) return route.mtu;
    }
    return 0u;
  };
  const base::EspSuite suite;
  // The pods' interfaces fit whatever a pair may come to use.
  const size_t least = base::InnerMtu(suite, base::Family::kIpv6, true, 1500);
  EXPECT_EQ(mesh_->pod_mtu(), least);
  EXPECT_EQ(mtu(), least);
  InstallBoth("node-c", 1, 10);
  // This pair's own ESP would take more; a pod of the other end would not.
  EXPECT_LT(least, base::InnerMtu(suite, base::Family::kIpv4, false, 1500));
  EXPECT_EQ(mtu(), least);
  EXPECT_EQ(Status("node-c").mtu,
            base::InnerMtu(suite, base::Family::kIpv4, false, 1500));
}

TEST_F(MeshTest, TheCoreIsToldOfTheFirstInboundPacketOnce) {
  StartUsual();
  InstallBoth("node-c", 1, 10);
  ike::Action watch =
      ike::WatchInbound{Id("node-c"), ike::ChildSaId(1), base::Spi(10)};
  EXPECT_TRUE(mesh_->HandleIkeAction(watch));
  EXPECT_THAT(ike_->seen, IsEmpty());
  fake_.Pass(Inbound(10));
  fake_.Pass(Inbound(10));
  EXPECT_THAT(ike_->seen, ElementsAre(10));
  // Asked when it has long been seen: answered at once.
  ike::Action again =
      ike::WatchInbound{Id("node-c"), ike::ChildSaId(1), base::Spi(10)};
  mesh_->HandleIkeAction(again);
  EXPECT_THAT(ike_->seen, ElementsAre(10, 10));
}

TEST_F(MeshTest, AFailedInstallIsReportedAndNotRepeated) {
  StartUsual();
  fake_.FailCall(1, datapath::FakeDatapath::Failure::kAfter);
  const absl::Status status = Install("node-c", 1, Direction::kInbound, 10);
  EXPECT_FALSE(status.ok());
  loop_.Advance(absl::Seconds(1));
  fake_.Run();
  EXPECT_THAT(fake_.sas(), IsEmpty());
  EXPECT_EQ(fake_.repeated_keys(), 0);
  EXPECT_THAT(Status("node-c").last_problem, HasSubstr("not installed"));
  InstallBoth("node-c", 2, 20);
  EXPECT_EQ(Status("node-c").last_problem, "");
}

TEST_F(MeshTest, ExpiryAndLossReachTheCore) {
  StartUsual();
  InstallBoth("node-c", 1, 10);
  fake_.Expire(Inbound(10), /*hard=*/false);
  EXPECT_THAT(ike_->expired, ElementsAre(Pair(10, false)));
  fake_.Restart();
  fake_.Run();
  EXPECT_THAT(ike_->expired,
              ElementsAre(Pair(10, false), Pair(10, true), Pair(11, true)));
  EXPECT_EQ(Status("node-c").state, TunnelState::kDown);
  EXPECT_THAT(fake_.policies(), SizeIs(2));
  EXPECT_EQ(fake_.repeated_keys(), 0);
}

TEST_F(MeshTest, ARemovedPeerLeavesNothing) {
  StartUsual();
  InstallBoth("node-c", 1, 10);
  InstallBoth("node-a", 2, 20);
  const ike::PeerId id = Id("node-c");
  mesh_->SetCluster(MakeCluster({MakePeer("node-a", 2)}));
  fake_.Run();
  EXPECT_THAT(ike_->removed, ElementsAre(id));
  EXPECT_THAT(InstalledSpis(), ElementsAre(20, 21));
  EXPECT_THAT(fake_.policies(), SizeIs(1));
  EXPECT_THAT(network_.desired.routes, SizeIs(3));
  EXPECT_EQ(Status("node-a").state, TunnelState::kUp);
  // The core's own removals of that peer's SAs come after: all is well.
  ike::RemoveSa late;
  late.op = ike::DatapathOpId(++last_op_);
  late.peer = id;
  late.direction = Direction::kInbound;
  late.spi = base::Spi(10);
  late.outer_destination = Ip("192.0.2.1");
  EXPECT_TRUE(Do(late).ok());
  // And an install that was under way is refused.
  ike::InstallSa install;
  install.op = ike::DatapathOpId(++last_op_);
  install.peer = id;
  EXPECT_FALSE(Do(std::move(install)).ok());
  EXPECT_THAT(InstalledSpis(), ElementsAre(20, 21));
}

TEST_F(MeshTest, TheSameClusterAgainChangesNothing) {
  StartUsual();
  InstallBoth("node-c", 1, 10);
  const int upserts = ike_->upserts;
  const uint64_t calls = fake_.calls();
  const network::DesiredNetwork before = network_.desired;
  mesh_->SetCluster(
      MakeCluster({MakePeer("node-c", 3), MakePeer("node-a", 2)}));
  fake_.Run();
  EXPECT_EQ(ike_->upserts, upserts);
  EXPECT_EQ(fake_.calls(), calls);
  EXPECT_EQ(network_.desired, before);
  EXPECT_THAT(ike_->removed, IsEmpty());
}

TEST_F(MeshTest, AChangedPeerIsConfiguredAnewUnderItsOwnNumber) {
  StartUsual();
  InstallBoth("node-c", 1, 10);
  const base::Reqid reqid = Status("node-c").reqid;
  PeerSpec changed = MakePeer("node-c", 3);
  changed.pod_cidrs = {Net("10.244.33.0/24")};
  mesh_->SetCluster(MakeCluster({MakePeer("node-a", 2), changed}));
  fake_.Run();
  EXPECT_EQ(Status("node-c").reqid, reqid);
  EXPECT_EQ(Status("node-c").state, TunnelState::kUp);
  EXPECT_THAT(fake_.policies().at(reqid).remote,
              ElementsAre(Net("10.244.33.0/24"), Net("192.0.2.3/32")));
}

TEST_F(MeshTest, PlaintextBlocksAreReachedByThePathThatIsSet) {
  PeerSpec peer = MakePeer("node-c", 3);
  peer.plaintext_blocks = {Net("10.244.3.240/28"), Net("fd00:244:3::f0/124")};
  Cluster cluster = MakeCluster({peer});
  mesh_->SetCluster(cluster);
  Connect();
  EXPECT_THAT(network_.desired.plain_routes, IsEmpty());

  // On the link: by an address of the same family, and node-c has IPv4 only.
  cluster.plaintext_path = PlaintextPath::kDirect;
  mesh_->SetCluster(cluster);
  EXPECT_THAT(network_.desired.plain_routes,
              ElementsAre(network::PlainRoute{Net("10.244.3.240/28"),
                                              Ip("192.0.2.3")}));
  EXPECT_FALSE(network_.desired.vxlan.has_value());

  // In the VXLAN both families go to whatever address there is.
  cluster.plaintext_path = PlaintextPath::kVxlan;
  mesh_->SetCluster(cluster);
  EXPECT_THAT(
      network_.desired.plain_routes,
      ElementsAre(
          network::PlainRoute{Net("10.244.3.240/28"), Ip("192.0.2.3")},
          network::PlainRoute{Net("fd00:244:3::f0/124"), Ip("192.0.2.3")}));
  EXPECT_EQ(network_.desired.vxlan,
            (network::Vxlan{.id = 69,
                            .port = 4790,
                            .mtu = 1500 - 56,
                            .address = Ip("10.244.1.1")}));
  EXPECT_THAT(network_.desired.node_exceptions,
              Contains(network::DesiredNetwork::Port{17, 4790}));
}

TEST_F(MeshTest, APeerThatCannotBeConfiguredDoesNotHinderTheOthers) {
  PeerSpec other_family = MakePeer("node-d", 4);
  other_family.addresses = {};
  ike_->refused = "node-e";
  mesh_->SetCluster(MakeCluster(
      {MakePeer("node-c", 3), other_family, MakePeer("node-e", 5)}));
  Connect();
  EXPECT_THAT(ike_->peers, SizeIs(1));
  EXPECT_THAT(fake_.policies(), SizeIs(1));
  EXPECT_THAT(Status("node-d").last_problem, HasSubstr("address family"));
  EXPECT_THAT(Status("node-e").last_problem, HasSubstr("refused"));
}

TEST_F(MeshTest, ARestartedAgentLosesNoSaAndBeginsAtOnce) {
  StartUsual();
  InstallBoth("node-a", 1, 10);
  Start();  // kill -9 and start again: SAs and policies stay where they are
  StartUsual();
  // Although node-a has the lower identity.
  EXPECT_THAT(ike_->established, Contains(Pair(Id("node-a"), true)));
  EXPECT_THAT(ike_->established, Not(Contains(Pair(Id("node-c"), true))));
  EXPECT_EQ(Status("node-a").state, TunnelState::kAdopted);
  EXPECT_THAT(InstalledSpis(), ElementsAre(10, 11));
  loop_.Advance(absl::Minutes(10));
  fake_.Run();
  EXPECT_THAT(InstalledSpis(), ElementsAre(10, 11));

  // The new pair: outbound switches, the old inbound waits for the peer.
  InstallBoth("node-a", 5, 50);
  EXPECT_EQ(Status("node-a").state, TunnelState::kUp);
  EXPECT_EQ(fake_.Outbound(Status("node-a").reqid)->spi, base::Spi(51));
  loop_.Advance(absl::Seconds(6));
  fake_.Run();
  EXPECT_THAT(InstalledSpis(), ElementsAre(10, 50, 51));
  EXPECT_TRUE(fake_.Pass(Inbound(10)));
  fake_.Pass(Inbound(50));
  EXPECT_THAT(InstalledSpis(), ElementsAre(10, 50, 51));
  loop_.Advance(absl::Seconds(6));
  fake_.Run();
  EXPECT_THAT(InstalledSpis(), ElementsAre(50, 51));
}

TEST_F(MeshTest, NothingIsSweptBeforeTheClusterIsKnown) {
  StartUsual();
  InstallBoth("node-a", 1, 10);
  Start();
  Connect();
  loop_.Advance(absl::Minutes(10));
  fake_.Run();
  EXPECT_THAT(InstalledSpis(), ElementsAre(10, 11));
  EXPECT_THAT(fake_.policies(), SizeIs(2));
  // Now it is, and node-a is not part of it.
  mesh_->SetCluster(MakeCluster({MakePeer("node-c", 3)}));
  fake_.Run();
  EXPECT_THAT(fake_.sas(), IsEmpty());
  EXPECT_THAT(fake_.policies(), SizeIs(1));
}

TEST_F(MeshTest, AnSaThatLeadsElsewhereIsNotAdopted) {
  StartUsual();
  InstallBoth("node-a", 1, 10);
  Start();
  PeerSpec moved = MakePeer("node-a", 2);
  moved.addresses = {Ip("192.0.2.77")};
  mesh_->SetCluster(MakeCluster({moved}));
  Connect();
  EXPECT_THAT(fake_.sas(), IsEmpty());
  EXPECT_EQ(Status("node-a").state, TunnelState::kDown);
}

// DESIGN 7: a withdrawn key ends what it proved at once, kept old SAs too.
TEST_F(MeshTest, AWithdrawnKeyTakesWhatAnEarlierAgentLeftAlong) {
  using Keys = std::vector<std::shared_ptr<const crypto::PublicKey>>;
  const auto key = [] {
    return (*crypto::PrivateKey::Generate(crypto::KeyType::kEd25519))
        ->public_key();
  };
  const Keys both = {key(), key()};
  PeerSpec peer = MakePeer("node-a", 2);
  peer.credential = both;
  const PeerSpec bystander = MakePeer("node-c", 3);
  mesh_->SetCluster(MakeCluster({peer, bystander}));
  Connect();
  InstallBoth("node-a", 1, 10);
  InstallBoth("node-c", 2, 20);
  Start();
  mesh_->SetCluster(MakeCluster({peer, bystander}));
  Connect();
  EXPECT_THAT(InstalledSpis(), ElementsAre(10, 11, 20, 21));

  // The control: one more takes nothing away.
  peer.credential = Keys{both[0], both[1], key()};
  mesh_->SetCluster(MakeCluster({peer, bystander}));
  fake_.Run();
  EXPECT_THAT(InstalledSpis(), ElementsAre(10, 11, 20, 21));

  peer.credential = Keys{both[1]};
  mesh_->SetCluster(MakeCluster({peer, bystander}));
  fake_.Run();
  EXPECT_THAT(InstalledSpis(), ElementsAre(20, 21));
  EXPECT_EQ(Status("node-a").state, TunnelState::kDown);
  EXPECT_EQ(Status("node-c").state, TunnelState::kAdopted);
}

TEST_F(MeshTest, SasOfAKeyThatWasWithdrawnMeanwhileAreNotAdopted) {
  StartUsual();
  InstallBoth("node-a", 1, 10);
  InstallBoth("node-c", 2, 20);
  Start();
  mesh_->DistrustLeftOvers({"node-a"});
  StartUsual();
  EXPECT_THAT(InstalledSpis(), ElementsAre(20, 21));
  // What is negotiated from here on stands.
  InstallBoth("node-a", 3, 30);
  StartUsual();
  EXPECT_THAT(InstalledSpis(), ElementsAre(20, 21, 30, 31));
}

TEST_F(MeshTest, AnAdoptedSaThatDiesIsRemoved) {
  StartUsual();
  InstallBoth("node-a", 1, 10);
  Start();
  StartUsual();
  fake_.Expire(Inbound(10), /*hard=*/true);
  fake_.Run();
  EXPECT_THAT(InstalledSpis(), ElementsAre(11));
  EXPECT_EQ(Status("node-a").state, TunnelState::kDown);
  EXPECT_THAT(ike_->expired, IsEmpty()) << "the core knows nothing of it";
}

TEST_F(MeshTest, AnAcquireEstablishes) {
  StartUsual();
  ike_->established.clear();
  fake_.Acquire(Status("node-c").reqid);
  fake_.Acquire(base::Reqid(base::kOwnedReqidFirst + 1));
  EXPECT_THAT(ike_->established, ElementsAre(Pair(Id("node-c"), false)));
}

TEST_F(MeshTest, APeerThatNeverIsCalledIsNotCalled) {
  PeerSpec peer = MakePeer("node-c", 3);
  peer.initiate = Initiate::kNever;
  mesh_->SetCluster(MakeCluster({peer}));
  Connect();
  EXPECT_THAT(ike_->established, IsEmpty());
  EXPECT_FALSE(ike_->peers.at(Id("node-c")).initiate);
  fake_.Acquire(Status("node-c").reqid);
  EXPECT_THAT(ike_->established, IsEmpty());
}

TEST_F(MeshTest, AGatewayThatDoesNotProtectItselfIsReachedOutside) {
  StartUsual();
  const network::TunnelRoute to_node{.destination = Net("192.0.2.3/32"),
                                     .mtu = mesh_->pod_mtu(),
                                     .pods_only = true};
  const auto destinations = [&] {
    std::vector<base::IpPrefix> result;
    for (const auto& route : network_.desired.routes) {
      result.push_back(route.destination);
    }
    return result;
  };
  EXPECT_THAT(destinations(), Contains(to_node.destination));
  ike_->peers.at(Id("node-c")).remote_selectors = {
      base::TrafficSelector::FromPrefix(Net("10.244.3.0/24"))};
  InstallBoth("node-c", 1, 10);
  EXPECT_THAT(destinations(), Not(Contains(to_node.destination)));
  EXPECT_THAT(destinations(), Contains(Net("192.0.2.2/32")));
}

TEST_F(MeshTest, EachDatapathCallFailsOnceAndTheStateIsTheSame) {
  for (const auto how : {datapath::FakeDatapath::Failure::kBefore,
                         datapath::FakeDatapath::Failure::kAfter}) {
    for (uint64_t n = 1; n <= 14; ++n) {
      fake_ = datapath::FakeDatapath();
      Start();
      fake_.FailCall(n, how);
      StartUsual();
      // The core, in short: a pair that does not get installed is removed, and
      // another is negotiated.
      uint32_t spi = 100;
      uint64_t child = 1;
      for (int attempt = 0; attempt < 3; ++attempt) {
        ++child;
        spi += 10;
        if (Install("node-c", child, Direction::kInbound, spi).ok() &&
            Install("node-c", child, Direction::kOutbound, spi + 1).ok()) {
          break;
        }
        Remove("node-c", child, Direction::kInbound, spi).IgnoreError();
      }
      mesh_->SetCluster(MakeCluster({MakePeer("node-c", 3)}));
      for (int i = 0; i < 10; ++i) {
        fake_.Run();
        loop_.Advance(absl::Seconds(1));
      }
      EXPECT_EQ(Status("node-c").state, TunnelState::kUp) << n;
      EXPECT_THAT(InstalledSpis(), ElementsAre(spi, spi + 1)) << n;
      EXPECT_THAT(fake_.policies(), SizeIs(1)) << n;
      EXPECT_EQ(fake_.repeated_keys(), 0) << n;
    }
  }
}

TEST_F(MeshTest, NodeTrafficTakesTheTunnelByItsStage) {
  const auto node_routes = [&] {
    std::vector<std::string> routes;
    for (const network::TunnelRoute& route : network_.desired.routes) {
      if (!route.node_only) continue;
      EXPECT_EQ(route.source, Ip("192.0.2.1"));
      routes.push_back(route.destination.ToString());
    }
    return routes;
  };
  StartUsual();
  InstallBoth("node-c", 1, 100);
  EXPECT_THAT(node_routes(), IsEmpty());
  Cluster cluster = MakeCluster({MakePeer("node-a", 2), MakePeer("node-c", 3)});
  cluster.node_traffic = NodeTraffic::kSend;
  mesh_->SetCluster(cluster);
  EXPECT_THAT(node_routes(), ElementsAre("192.0.2.3/32"));
  // Only while the tunnel is up.
  Remove("node-c", 1, Direction::kOutbound, 101).IgnoreError();
  EXPECT_THAT(node_routes(), IsEmpty());
  cluster.node_traffic = NodeTraffic::kRequire;
  mesh_->SetCluster(cluster);
  EXPECT_THAT(node_routes(), ElementsAre("192.0.2.2/32", "192.0.2.3/32"));
}

// What a large mesh costs the loop: a figure for people, no assertion on time.
TEST_F(MeshTest, AThousandPeersComeUpAndGo) {
  constexpr int kPeers = 1000;
  std::vector<PeerSpec> peers;
  for (int i = 0; i < kPeers; ++i) {
    PeerSpec peer = MakePeer("node-" + std::to_string(10'000 + i), 2);
    peer.addresses = {base::IpAddress::V4(
        {198, 18, static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)})};
    peer.pod_cidrs = {base::IpPrefix::Host(base::IpAddress::V4(
        {10, 244, static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)}))};
    peers.push_back(std::move(peer));
  }
  const auto timed = [](const char* what, const std::function<void()>& work) {
    const absl::Time start = absl::Now();
    work();
    std::cout << what << ": " << absl::Now() - start << "\n";
  };
  timed("1,000 peers configured", [&] {
    mesh_->SetCluster(MakeCluster(peers));
    Connect();
  });
  const int before = network_.calls;
  timed("1,000 tunnels installed", [&] {
    for (int i = 0; i < kPeers; ++i) {
      InstallBoth("node-" + std::to_string(10'000 + i), 1,
                  0x1000 + 2 * static_cast<uint32_t>(i));
    }
  });
  std::cout << "  with " << network_.calls - before << " of the network\n";
  timed("2,000 SA events", [&] {
    for (const auto& [key, sa] : fake_.sas()) fake_.Expire(key, false);
  });
  EXPECT_THAT(ike_->expired, SizeIs(2 * kPeers));
  timed("2,000 SAs vanish", [&] {
    fake_.Restart();
    fake_.Run();
  });
  EXPECT_THAT(ike_->expired, SizeIs(4 * kPeers));
}

}  // namespace
}  // namespace espalier::mesh
