// From the cluster that is wanted to peers, policies and routes.
#include <netinet/in.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/keys.h"
#include "agent/mesh/mesh.h"
#include "agent/mesh/peer_state.h"

namespace espalier::mesh {
namespace {

// RFC 7296 2; the core floats to 4500 by itself.
constexpr uint16_t kIkePort = 500;
// IPv6, UDP and VXLAN-GPE headers (RFC 7348 5, without the inner Ethernet).
constexpr uint32_t kVxlanOverhead = 40 + 8 + 8;

// Both ends of the outer path: the first of the peer's addresses that this
// node has the family of.
struct OuterPath {
  base::IpAddress local;
  base::IpAddress remote;
};
absl::StatusOr<OuterPath> OuterPathTo(const LocalNode& node,
                                      const PeerSpec& peer) {
  for (const base::IpAddress& remote : peer.addresses) {
    for (const base::IpAddress& local : node.addresses) {
      if (local.family() == remote.family()) return OuterPath{local, remote};
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat("peer ", peer.name,
                   ": no address family that both it and this node have"));
}

// Whether a public key is trusted no more.
bool LosesKey(const PeerSpec& before, const PeerSpec& after) {
  using Keys = std::vector<std::shared_ptr<const crypto::PublicKey>>;
  const Keys* had = std::get_if<Keys>(&before.credential);
  if (had == nullptr) return false;
  const Keys* has = std::get_if<Keys>(&after.credential);
  return std::ranges::any_of(*had, [&](const auto& key) {
    return has == nullptr || std::ranges::none_of(*has, [&](const auto& other) {
             return *other == *key;
           });
  });
}

std::vector<base::IpPrefix> PrefixesOf(
    const std::vector<base::IpPrefix>& pod_cidrs,
    const std::vector<base::IpAddress>& addresses) {
  std::vector<base::IpPrefix> prefixes = pod_cidrs;
  for (const base::IpAddress& address : addresses) {
    prefixes.push_back(base::IpPrefix::Host(address));
  }
  return prefixes;
}

// What the pair's SAs are for, at either end.
struct Ends {
  std::vector<base::IpPrefix> local;
  std::vector<base::IpPrefix> remote;
};
Ends EndsOf(const LocalNode& node, const PeerSpec& peer,
            const OuterPath& path) {
  if (peer.transport_mode) {
    return {{base::IpPrefix::Host(path.local)},
            {base::IpPrefix::Host(path.remote)}};
  }
  Ends ends{PrefixesOf(node.pod_cidrs, node.addresses),
            PrefixesOf(peer.pod_cidrs, peer.addresses)};
  if (peer.ah()) {
    // The node's own packets; what pods send finds no policy, and goes nowhere.
    ends.local = PrefixesOf({}, node.addresses);
    for (const base::IpAddress& address : TunnelAddresses(node.pod_cidrs)) {
      ends.local.push_back(base::IpPrefix::Host(address));
    }
  }
  return ends;
}

std::vector<base::TrafficSelector> SelectorsOf(
    const std::vector<base::IpPrefix>& prefixes) {
  std::vector<base::TrafficSelector> selectors;
  for (const base::IpPrefix& prefix : prefixes) {
    selectors.push_back(base::TrafficSelector::FromPrefix(prefix));
  }
  return selectors;
}

base::EspSuite SuiteOf(const ike::ChildProposal& proposal) {
  return {.cipher = proposal.cipher,
          .key_bits = proposal.key_bits,
          .integrity = proposal.integrity,
          .esn = proposal.esn,
          .protocol = proposal.protocol};
}

// The smallest over all suites that may be chosen, encapsulated.
uint32_t WorstMtu(const std::vector<ike::ChildProposal>& proposals,
                  base::Family outer, uint32_t uplink_mtu) {
  size_t mtu = std::numeric_limits<uint32_t>::max();
  for (const ike::ChildProposal& proposal : proposals) {
    mtu = std::min(mtu, base::InnerMtu(SuiteOf(proposal), outer, /*udp=*/true,
                                       uplink_mtu));
  }
  return static_cast<uint32_t>(mtu);
}

// IPv6 needs it of every link (RFC 8200 5); below it the interface loses
// IPv6 altogether.
constexpr uint32_t kLeastMtu = 1280;

}  // namespace

void Mesh::SetCluster(Cluster cluster) {
  Work work(this);
  const bool node_changed = !in_sync_ || !(cluster.node == cluster_.node) ||
                            cluster.grace != cluster_.grace ||
                            cluster.on_demand != cluster_.on_demand ||
                            cluster.per_cpu_sas != cluster_.per_cpu_sas;
  std::vector<PeerSpec> wanted = std::exchange(cluster.peers, {});
  cluster_ = std::move(cluster);
  prober_.SetLocal(TunnelAddresses(cluster_.node.pod_cidrs));
  prober_.SetNodeTraffic(cluster_.node_traffic != NodeTraffic::kOff);

  std::vector<ike::Identity> identities;
  for (const PeerSpec& spec : wanted) identities.push_back(spec.identity);
  std::map<ike::Identity, PeerState*> known;
  for (const auto& [id, peer] : peers_) known[peer->spec.identity] = peer.get();

  std::set<ike::Identity> kept(identities.begin(), identities.end());
  std::vector<ike::PeerId> gone;
  for (const auto& [id, peer] : peers_) {
    if (!kept.contains(peer->spec.identity)) gone.push_back(id);
  }
  for (const ike::PeerId id : gone) RemovePeer(Find(id));
  reqids_.SetPeers(identities);

  for (PeerSpec& spec : wanted) {
    const auto found = known.find(spec.identity);
    if (found != known.end()) {
      PeerState* const peer = found->second;
      if (!node_changed && peer->spec == spec && peer->configured) continue;
      if (peer->spec.force_encapsulation != spec.force_encapsulation) {
        peer->fell_back_at.reset();
      }
      if (LosesKey(peer->spec, spec)) {
        peer->key_withdrawn = true;
        DropLeftOvers(peer);
      }
      peer->spec = std::move(spec);
      ConfigurePeer(peer);
      continue;
    }
    auto peer = std::make_unique<PeerState>();
    peer->id = ike::PeerId(++last_peer_id_);
    peer->reqid = reqids_.Get(spec.identity);
    peer->state_since = clock_->Now();
    peer->spec = std::move(spec);
    peer->key_withdrawn = distrusted_.contains(peer->spec.name);
    PeerState* const added = peer.get();
    by_reqid_[added->reqid] = added;
    known[added->spec.identity] = added;
    peers_[added->id] = std::move(peer);
    ConfigurePeer(added);
  }

  distrusted_.clear();
  in_sync_ = true;
  ApplyPolicies();
  tracker_.SetInSync();
  Adopt();
  if (tracker_.ready()) {
    for (const auto& [id, peer] : peers_) {
      if (!cluster_.on_demand && peer->configured &&
          peer->spec.initiate != Initiate::kNever) {
        Wish(peer.get(), /*at_once=*/false);
      }
    }
  }
  network_changed_ = true;
}

absl::StatusOr<ike::PeerConfig> Mesh::ConfigOf(const PeerState& peer) const {
  const PeerSpec& spec = peer.spec;
  if (spec.identity == cluster_.node.identity) {
    return absl::InvalidArgumentError(
        absl::StrCat("peer ", spec.name, ": it has this node's own identity"));
  }
  ESPALIER_ASSIGN_OR_RETURN(const OuterPath path,
                            OuterPathTo(cluster_.node, spec));
  ike::PeerConfig config;
  config.id = peer.id;
  config.name = spec.name;
  config.identity = spec.identity;
  config.remote = {path.remote, kIkePort};
  config.local = path.local;
  using Psk = std::shared_ptr<const base::SecretBytes>;
  if (const Psk* psk = std::get_if<Psk>(&spec.credential)) {
    if (*psk == nullptr || (*psk)->empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("peer ", spec.name, ": its pre-shared key is empty"));
    }
    config.auth = ike::PskAuth{(*psk)->Clone()};
  } else {
    config.auth = ike::PublicKeyAuth{std::get<1>(spec.credential)};
  }
  if (!spec.ike_proposals.empty()) config.ike_proposals = spec.ike_proposals;
  if (!spec.child_proposals.empty()) {
    config.child_proposals = spec.child_proposals;
  }
  const Ends ends = EndsOf(cluster_.node, spec, path);
  config.local_selectors = SelectorsOf(ends.local);
  config.remote_selectors = SelectorsOf(ends.remote);
  config.transport_mode = spec.transport_mode;
  config.max_cpu_sas = cluster_.per_cpu_sas;
  config.reqid = peer.reqid;
  config.force_encapsulation = spec.force_encapsulation || peer.fell_back_at;
  config.on_demand = cluster_.on_demand;
  config.passive = spec.initiate == Initiate::kNever;
  config.grace = cluster_.grace;
  config.initiate = spec.initiate == Initiate::kAlways ||
                    (spec.initiate == Initiate::kAuto &&
                     cluster_.node.identity < spec.identity);
  return config;
}

void Mesh::ConfigurePeer(PeerState* peer) {
  absl::StatusOr<ike::PeerConfig> config = ConfigOf(*peer);
  const absl::Status status =
      config.ok() ? ike_->UpsertPeer(*std::move(config)) : config.status();
  peer->configured = status.ok();
  if (!status.ok()) {
    peer->problem = std::string(status.message());
    base::Log(base::LogLevel::kError, "peer not configured",
              {{"peer", peer->spec.name}, {"error", status}});
  }
  for (uint32_t cpu = 0; status.ok() && cpu < cluster_.per_cpu_sas; ++cpu) {
    ike_->WantCpuSa(peer->id, cpu);
  }
  // In transport mode there is no tunnel's address to ask.
  const bool probed =
      status.ok() && peer->spec.probe && !peer->spec.transport_mode;
  prober_.SetPeer(peer->id, probed ? TunnelAddresses(peer->spec.pod_cidrs)
                                   : std::vector<base::IpAddress>());
  if (peer->installed()) prober_.Start(peer->id);
  UpdateState(peer);
}

void Mesh::RemovePeer(PeerState* peer) {
  base::Log(base::LogLevel::kInfo, "peer removed", {{"peer", peer->spec.name}});
  // Before the SAs: its Deletes still go out, and it asks for the removal of
  // its own. What an earlier agent left nobody else would remove.
  ike_->RemovePeer(peer->id);
  prober_.RemovePeer(peer->id);
  std::vector<base::SaKey> keys;
  for (const auto& [key, sa] : tracker_.sas()) {
    if (sa.reqid == peer->reqid) keys.push_back(key);
  }
  by_reqid_.erase(peer->reqid);
  peers_.erase(peer->id);
  for (const base::SaKey& key : keys) tracker_.RemoveSa(key, nullptr);
}

void Mesh::ApplyPolicies() {
  std::vector<datapath::Policy> policies;
  for (const auto& [id, peer] : peers_) {
    const absl::StatusOr<OuterPath> path =
        OuterPathTo(cluster_.node, peer->spec);
    if (!path.ok() || !peer->configured) continue;
    Ends ends = EndsOf(cluster_.node, peer->spec, *path);
    policies.push_back({.reqid = peer->reqid,
                        .local = std::move(ends.local),
                        .remote = std::move(ends.remote),
                        .outer_source = path->local,
                        .outer_destination = path->remote,
                        .protocol = peer->spec.ah() ? base::IpsecProtocol::kAh
                                                    : base::IpsecProtocol::kEsp,
                        .mode = peer->spec.transport_mode
                                    ? base::SaMode::kTransport
                                    : base::SaMode::kTunnel});
  }
  tracker_.SetPolicies(policies);
}

uint32_t Mesh::MtuOf(const PeerState& peer) const {
  if (peer.newest) {
    const Child& child = peer.children.at(*peer.newest);
    return static_cast<uint32_t>(base::InnerMtu(child.suite, child.outer_family,
                                                child.encapsulated,
                                                cluster_.node.uplink_mtu));
  }
  const absl::StatusOr<OuterPath> path = OuterPathTo(cluster_.node, peer.spec);
  const base::Family outer =
      path.ok() ? path->remote.family() : base::Family::kIpv6;
  const ike::PeerConfig defaults;
  return WorstMtu(peer.spec.child_proposals.empty() ? defaults.child_proposals
                                                    : peer.spec.child_proposals,
                  outer, cluster_.node.uplink_mtu);
}

uint32_t Mesh::pod_mtu() const {
  const bool v6 = std::ranges::any_of(
      cluster_.node.addresses,
      [](const base::IpAddress& address) { return address.is_v6(); });
  const base::Family outer = v6 ? base::Family::kIpv6 : base::Family::kIpv4;
  const ike::PeerConfig defaults;
  uint32_t mtu =
      WorstMtu(defaults.child_proposals, outer, cluster_.node.uplink_mtu);
  for (const auto& [id, peer] : peers_) {
    if (peer->spec.child_proposals.empty()) continue;
    mtu = std::min(mtu, WorstMtu(peer->spec.child_proposals, outer,
                                 cluster_.node.uplink_mtu));
  }
  return std::max(mtu, std::min(kLeastMtu, cluster_.node.uplink_mtu));
}

// Whether that address of the peer's may be sent into the tunnel: always,
// until the peer has agreed to selectors without it (gateways of other makers
// protect what is behind them, not themselves).
bool Mesh::ReachesNode(const PeerState& peer,
                       const base::IpAddress& address) const {
  if (!peer.newest) return true;
  return std::ranges::any_of(peer.children.at(*peer.newest).remote_selectors,
                             [&](const base::TrafficSelector& selector) {
                               return selector.Contains(address);
                             });
}

bool Mesh::Sealed(const PeerState& peer) const {
  if (peer.spec.ah() || peer.spec.transport_mode) return false;
  return cluster_.node_traffic == NodeTraffic::kRequire ||
         (cluster_.node_traffic == NodeTraffic::kConfirm && peer.node_traffic);
}

void Mesh::AddNodeRoute(const PeerState& peer, const base::IpAddress& address,
                        uint32_t mtu, network::DesiredNetwork* desired) const {
  const bool up =
      peer.state == TunnelState::kUp || peer.state == TunnelState::kAdopted;
  if (cluster_.node_traffic == NodeTraffic::kOff || peer.spec.ah() ||
      (!Sealed(peer) && !up)) {
    return;
  }
  for (const base::IpAddress& own : cluster_.node.addresses) {
    if (own.family() != address.family()) continue;
    if (Sealed(peer)) desired->sealed_nodes.push_back(address);
    desired->routes.push_back({.destination = base::IpPrefix::Host(address),
                               .mtu = mtu,
                               .node_only = true,
                               .source = own});
  }
}

void Mesh::AddPlainRoutes(const PeerState& peer,
                          network::DesiredNetwork* desired) const {
  if (cluster_.plaintext_path == PlaintextPath::kNone) return;
  const absl::StatusOr<OuterPath> path = OuterPathTo(cluster_.node, peer.spec);
  for (const base::IpPrefix& block : peer.spec.plaintext_blocks) {
    if (cluster_.plaintext_path == PlaintextPath::kVxlan) {
      if (path.ok()) desired->plain_routes.push_back({block, path->remote});
      continue;
    }
    for (const base::IpAddress& address : peer.spec.addresses) {
      if (address.family() == block.family()) {
        desired->plain_routes.push_back({block, address});
      }
    }
  }
}

void Mesh::ApplyNetwork() {
  if (!in_sync_) return;
  network::DesiredNetwork desired;
  desired.tunnel_interface = tracker_.tunnel_interface();
  desired.own_pod_cidrs = cluster_.node.pod_cidrs;
  desired.cluster_pod_cidrs = cluster_.cluster_pod_cidrs;
  desired.node_cidrs = cluster_.node_cidrs;
  desired.node_addresses = cluster_.node.addresses;
  desired.tunnel_addresses = TunnelAddresses(cluster_.node.pod_cidrs);
  const uint32_t least_mtu = pod_mtu();
  for (const auto& [id, peer] : peers_) {
    if (!peer->configured) continue;
    // No more than pods take at the other end: what a node sends them in one
    // piece would end there, with an ICMP error that quotes it and goes from
    // node to node in plaintext.
    const uint32_t mtu = std::min(MtuOf(*peer), least_mtu);
    for (const base::IpPrefix& cidr : peer->spec.pod_cidrs) {
      desired.routes.push_back({.destination = cidr, .mtu = mtu});
    }
    for (const base::IpAddress& address : peer->spec.addresses) {
      desired.node_addresses.push_back(address);
      // Its policy stands on the uplink.
      if (peer->spec.transport_mode) continue;
      if (ReachesNode(*peer, address)) {
        desired.routes.push_back({.destination = base::IpPrefix::Host(address),
                                  .mtu = mtu,
                                  .pods_only = true});
        AddNodeRoute(*peer, address, mtu, &desired);
      }
    }
  }
  for (const auto& [id, peer] : peers_) {
    if (!peer->configured) continue;
    AddPlainRoutes(*peer, &desired);
  }
  desired.node_exceptions = cluster_.node_traffic_exceptions;
  if (cluster_.plaintext_path == PlaintextPath::kVxlan) {
    desired.vxlan = {.id = cluster_.vxlan.id,
                     .port = cluster_.vxlan.port,
                     .mtu = cluster_.node.uplink_mtu - kVxlanOverhead};
    for (const base::IpAddress& address : desired.tunnel_addresses) {
      if (address.is_v4()) desired.vxlan->address = address;
    }
    // What is around plaintext by design is no node's traffic to protect.
    desired.node_exceptions.push_back({IPPROTO_UDP, cluster_.vxlan.port});
  }
  std::ranges::sort(desired.routes);
  std::ranges::sort(desired.plain_routes);
  std::ranges::sort(desired.sealed_nodes);
  network_->SetDesired(std::move(desired));
}

}  // namespace espalier::mesh
