#include "tests/sim/world.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/crypto/keys.h"

namespace espalier::sim {
namespace {

using base::IpAddress;

IpAddress NatAddress() { return IpAddress::V4({203, 0, 113, 1}); }

// Shared by all runs: making keys is not what is tested.
std::shared_ptr<const crypto::PrivateKey> KeyOf(int index) {
  static auto& keys =
      *new std::map<int, std::shared_ptr<const crypto::PrivateKey>>;
  auto& key = keys[index];
  if (key == nullptr) {
    key = crypto::PrivateKey::Generate(crypto::KeyType::kEd25519).value();
  }
  return key;
}

ike::Identity IdentityOf(int index) {
  // Of one length, so that they sort by index.
  return ike::Identity::Fqdn(absl::StrCat("node-", 1000 + index));
}

base::TrafficSelector PodsOf(int index, bool narrow) {
  const auto octet = static_cast<uint8_t>(index);
  return base::TrafficSelector::FromPrefix(
      base::IpPrefix::Make(IpAddress::V4({10, 1, octet, 0}), narrow ? 25 : 24)
          .value());
}

bool Established(const ike::IkeSaInfo& sa) { return sa.state == "established"; }

}  // namespace

ike::CoreConfig QuickCore() {
  ike::CoreConfig config;
  // Only what a test asks for is rekeyed.
  config.ike_soft_lifetime = absl::Hours(20);
  config.ike_hard_lifetime = absl::Hours(24);
  config.child_limits = {.soft_time = absl::Hours(20),
                         .hard_time = absl::Hours(24)};
  config.liveness_interval = absl::Seconds(5);
  config.retransmit_base = absl::Milliseconds(500);
  config.retransmit_max = absl::Seconds(4);
  config.retransmit_tries = 6;
  config.half_open_timeout = absl::Seconds(10);
  config.retry_base = absl::Milliseconds(500);
  config.retry_max = absl::Seconds(5);
  return config;
}

World::World(const WorldOptions& options)
    : options_(options),
      chance_(options.seed),
      record_(&scheduler_),
      network_(&scheduler_, &chance_, &record_),
      ledger_(&record_, options.hitless) {
  record_.set_trace(options.trace);
  network_.set_faults(options.network_faults);
  network_.set_max_datagrams_per_second(options.max_datagrams_per_second);
  if (options.nat) network_.PlaceBehindNat(AddressOf(0), NatAddress());
  const Node::Surroundings around = {&scheduler_, &chance_, &network_, &record_,
                                     &ledger_};
  for (int i = 0; i < options.nodes; ++i) {
    nodes_.push_back(std::make_unique<Node>(
        i, AddressOf(i), around, [this, i] { return ConfigOf(i); },
        [this, i](int other) { return PeerOf(i, other); }));
    nodes_.back()->set_faults(options.node_faults);
    nodes_.back()->set_sabotage(options.sabotage);
    nodes_.back()->set_drain_time(options.core.drain_time);
    nodes_.back()->set_on_demand(options.on_demand);
    nodes_.back()->set_cpus(options.cpus);
  }
}

IpAddress World::AddressOf(int index) const {
  return IpAddress::V4({192, 0, 2, static_cast<uint8_t>(index + 1)});
}

ike::CoreConfig World::ConfigOf(int index) const {
  ike::CoreConfig config = options_.core;
  config.identity = IdentityOf(index);
  if (options_.sabotage == Sabotage::kTellWrongHalfOpenLimit) {
    config.max_half_open = 100;
  }
  if (options_.public_keys) config.private_key = KeyOf(index);
  return config;
}

ike::PeerConfig World::PeerOf(int index, int other) const {
  ike::PeerConfig peer;
  peer.id = Node::PeerIdOf(other);
  peer.name = absl::StrCat("node-", other);
  peer.identity = IdentityOf(other);
  peer.local = AddressOf(index);
  const bool behind_nat = options_.nat && other == 0;
  peer.remote = {behind_nat ? NatAddress() : AddressOf(other), 500};
  if (options_.public_keys) {
    peer.auth = ike::PublicKeyAuth{{KeyOf(other)->public_key()}};
  } else {
    static const std::string kSecret = "a secret of the simulation";
    peer.auth = ike::PskAuth{base::SecretBytes(base::AsBytes(kSecret))};
  }
  Change change;
  if (const auto found = changes_.find({index, other});
      found != changes_.end()) {
    change = found->second;
  }
  peer.local_selectors = {PodsOf(index, change.narrow)};
  peer.remote_selectors = {PodsOf(other, change.narrow)};
  peer.force_encapsulation = change.force_encapsulation;
  peer.child_proposals.push_back({.key_bits = 128});
  if (change.other_cipher_first)
    std::reverse(peer.child_proposals.begin(), peer.child_proposals.end());
  peer.reqid =
      base::Reqid(base::kOwnedReqidFirst + static_cast<uint32_t>(other) + 1);
  peer.initiate = options_.both_initiate || index < other;
  peer.on_demand = options_.on_demand;
  peer.max_cpu_sas = options_.cpus;
  peer.grace = absl::Seconds(3);
  return peer;
}

void World::Reconfigure(int index, int other, const Change& change, bool anew) {
  changes_[{index, other}] = change;
  node(index).Reconfigure(other, anew);
}

void World::StartAll(absl::Duration spread) {
  for (int a = 0; a < size(); ++a) {
    for (int b = 0; b < size(); ++b) {
      if (a != b) node(a).Connect(b);
    }
    scheduler_.After(chance_.Between(absl::ZeroDuration(), spread),
                     [this, a] { node(a).Start(); });
  }
  if (!std::exchange(started_, true)) SendPackets();
}

void World::RunFor(absl::Duration time) {
  scheduler_.RunUntil(scheduler_.now() + time);
}

void World::Sometime(absl::Duration span, std::function<void()> what) {
  scheduler_.After(chance_.Between(absl::ZeroDuration(), span),
                   std::move(what));
}

void World::SendPackets() {
  for (int a = 0; a < size(); ++a) {
    for (int b = 0; b < size(); ++b) {
      if (a != b) SendPacket(a, b);
    }
  }
  CheckHalfOpen();
  scheduler_.After(options_.packet_interval, [this] { SendPackets(); });
}

void World::SendPacket(int from, int to) {
  const uint32_t cpu =
      options_.cpus == 0
          ? 0
          : static_cast<uint32_t>(chance_.Between(0, options_.cpus - 1));
  const auto packet = node(from).SendPacket(to, cpu);
  if (!packet.has_value()) {
    if (options_.hitless && sent_.contains({from, to})) {
      record_.Broken(Invariant::kNoGap,
                     absl::StrCat("from node ", from, " to node ", to));
    }
    return;
  }
  sent_.insert({from, to});
  const auto delay = network_.EspDelay(AddressOf(from), AddressOf(to));
  if (!delay.has_value()) return;
  ++packets_sent_;
  scheduler_.After(*delay, [this, from, to, packet = *packet] {
    if (node(to).ReceivePacket(from, packet)) {
      ++packets_received_;
      last_arrival_[{from, to}] = scheduler_.now();
    } else if (packet.early) {
      ++packets_early_;
    } else if (options_.hitless) {
      record_.Broken(Invariant::kNoPacketLost,
                     absl::StrCat("from node ", from, " to node ", to,
                                  " on SPI ", absl::Hex(packet.spi.value())));
    }
  });
}

void World::CheckHalfOpen() {
  for (const auto& node : nodes_) {
    if (!node->running()) continue;
    const uint64_t half_open = node->core()->counters().half_open;
    if (half_open > options_.core.max_half_open) {
      record_.Broken(Invariant::kBoundedHalfOpen,
                     absl::StrCat("node ", node->index(), " has ", half_open));
    }
  }
}

std::string World::Disagreement(int a, int b) {
  std::vector<ike::IkeSaInfo> sas[2];
  const int ends[2] = {a, b};
  for (int end = 0; end < 2; ++end) {
    if (!node(ends[end]).running()) {
      return absl::StrCat("node ", ends[end], " is down");
    }
    for (ike::IkeSaInfo& sa : node(ends[end]).core()->IkeSas()) {
      if (sa.peer == Node::PeerIdOf(ends[1 - end])) {
        sas[end].push_back(std::move(sa));
      }
    }
    if (sas[end].size() != 1 || !Established(sas[end][0])) {
      std::string states;
      for (const auto& sa : sas[end]) absl::StrAppend(&states, " ", sa.state);
      return absl::StrCat("node ", ends[end], " has ", sas[end].size(),
                          " IKE_SAs with node ", ends[1 - end], ":", states);
    }
  }
  const ike::IkeSaInfo& left = sas[0][0];
  const ike::IkeSaInfo& right = sas[1][0];
  if (left.initiator_spi != right.initiator_spi ||
      left.responder_spi != right.responder_spi ||
      left.initiator == right.initiator) {
    return "the ends have different IKE_SAs";
  }
  const auto mine = ChildrenOf(a, b), yours = ChildrenOf(b, a);
  const auto fallbacks = [](const auto& children) {
    return std::ranges::count(children, false,
                              [](const auto& c) { return c.second; });
  };
  if (fallbacks(mine) != 1 || fallbacks(yours) != 1 ||
      mine.size() != yours.size() || mine.size() < 1 + options_.cpus) {
    return absl::StrCat("CHILD_SAs: ", mine.size(), " and ", yours.size());
  }
  for (const auto& [spis, of_cpu] : mine) {
    const auto twin = yours.find({spis.second, spis.first});
    if (twin == yours.end() || twin->second != of_cpu) {
      return "the ends have different CHILD_SAs";
    }
  }
  return "";
}

std::map<std::pair<base::Spi, base::Spi>, bool> World::ChildrenOf(int index,
                                                                  int other) {
  std::map<std::pair<base::Spi, base::Spi>, bool> children;
  if (!node(index).running()) return children;
  for (const ike::IkeSaInfo& sa : node(index).core()->IkeSas()) {
    if (sa.peer != Node::PeerIdOf(other)) continue;
    for (const ike::ChildSaInfo& child : sa.children) {
      if (child.state == "draining") continue;
      children[{child.inbound_spi, child.outbound_spi}] = child.cpu.has_value();
    }
  }
  return children;
}

bool World::Draining() {
  for (int a = 0; a < size(); ++a) {
    for (int b = 0; b < size(); ++b) {
      const ike::PeerId peer = Node::PeerIdOf(b);
      if (a == b) continue;
      const size_t wanted = CountChildren(a, b);
      if (node(a).datapath().Inbound(peer).size() > wanted ||
          node(a).datapath().Outbound(peer).size() > wanted) {
        return true;
      }
    }
  }
  return false;
}

int World::Agreed() {
  int agreed = 0;
  for (int a = 0; a < size(); ++a) {
    for (int b = a + 1; b < size(); ++b) {
      if (Disagreement(a, b).empty()) ++agreed;
    }
  }
  return agreed;
}

void World::CheckDatapath(int a, int b) {
  for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
    const DatapathModel& datapath = node(from).datapath();
    const size_t inbound = datapath.Inbound(Node::PeerIdOf(to)).size();
    const size_t outbound = datapath.Outbound(Node::PeerIdOf(to)).size();
    const size_t wanted = CountChildren(from, to);
    if (inbound != wanted || outbound != wanted) {
      record_.Broken(
          Invariant::kNothingLeft,
          absl::StrCat("node ", from, " has ", inbound, " inbound and ",
                       outbound, " outbound SAs with node ", to));
    }
    const auto last = last_arrival_.find({from, to});
    if (last == last_arrival_.end() ||
        scheduler_.now() - last->second > absl::Seconds(2)) {
      record_.Broken(
          Invariant::kPacketsFlow,
          absl::StrCat("none from node ", from, " to node ", to, " of late"));
    }
  }
}

void World::Settle(absl::Duration time) {
  record_.Trace("the faults are over");
  network_.set_faults({});
  for (int a = 0; a < size(); ++a) {
    node(a).set_faults({});
    node(a).set_deaf(options_.sabotage == Sabotage::kDeafAfterwards);
    if (!node(a).running()) node(a).Start();
    for (int b = a + 1; b < size(); ++b) {
      network_.Cut(AddressOf(a), AddressOf(b), false);
    }
  }
  const int pairs = size() * (size() - 1) / 2;
  // An end that is about to give up the other may still look agreed.
  RunFor(absl::Seconds(20));
  const base::Instant deadline = scheduler_.now() + time;
  do {
    RunFor(absl::Seconds(1));
  } while (Agreed() < pairs && scheduler_.now() < deadline);
  record_.Trace("the pairs have agreed, or never will");
  // What was replaced drains; and it must stay as it is.
  RunFor(2 * options_.core.drain_time + absl::Seconds(5));
  // A rekey that had failed may be tried again just now.
  for (int i = 0; i < 10 && Draining(); ++i) RunFor(absl::Seconds(2));
  for (int a = 0; a < size(); ++a) {
    for (int b = a + 1; b < size(); ++b) {
      const std::string disagreement = Disagreement(a, b);
      if (!disagreement.empty()) {
        record_.Broken(
            disagreement.starts_with("CHILD") ||
                    disagreement.ends_with("CHILD_SAs")
                ? Invariant::kOneChildSa
                : Invariant::kOneIkeSa,
            absl::StrCat("nodes ", a, " and ", b, ": ", disagreement));
      }
      CheckDatapath(a, b);
    }
  }
}

}  // namespace espalier::sim
