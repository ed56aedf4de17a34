// What the tunnels' counters and probes tell: that a peer is alive, that its
// wire drops protocol 50, that nobody has used its tunnel for long.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/mesh/mesh.h"
#include "agent/mesh/peer_state.h"

namespace espalier::mesh {
namespace {

using base::LogLevel;

// The higher identity of a pair leaves the other so much time to fall back:
// one end's doing is enough, and one end then has to be told to return.
constexpr absl::Duration kOthersTurn = absl::Seconds(10);
// More than the counters' age: what came before the probes failed is in them.
constexpr absl::Duration kQuiet = absl::Seconds(20);
// When the fallback's own IKE_SA came to nothing.
constexpr absl::Duration kFallBackAgain = absl::Minutes(1);

}  // namespace

void Mesh::HandleProbeVerdict(ike::PeerId id) {
  Work work(this);
  PeerState* const peer = Find(id);
  if (peer == nullptr) return;
  const bool says = prober_.Status(id).node_traffic;
  if (std::exchange(peer->node_traffic, says) != says) {
    base::Log(LogLevel::kInfo, "the node's own traffic",
              {{"peer", peer->spec.name},
               {"takes", says ? "the tunnel" : "no tunnel"}});
    network_changed_ = true;
  }
  const bool failing = prober_.Verdict(id) == ProbeVerdict::kFailing;
  if (!failing) {
    peer->failing_since.reset();
  } else if (!peer->failing_since) {
    peer->failing_since = clock_->Now();
    peer->quiet_since = clock_->Now();
    peer->quiet_inbound = peer->total_inbound;
  }
  UpdateState(peer);
  if (failing) JudgeFallback(peer);
}

void Mesh::JudgeFallback(PeerState* peer) {
  if (peer->spec.force_encapsulation || !peer->newest) return;
  const Child& child = peer->children.at(*peer->newest);
  if (child.encapsulated) return;
  const base::Instant now = clock_->Now();
  if (peer->fell_back_at) {
    if (now - *peer->fell_back_at < kFallBackAgain) return;
  } else {
    const bool first = cluster_.node.identity < peer->spec.identity;
    if (!first && now - *peer->failing_since < kOthersTurn) return;
    // A peer whose packets come in, but who does not answer: not the wire's
    // way to here. If it drops those to there, the peer notices.
    if (peer->total_inbound != peer->quiet_inbound) {
      peer->quiet_inbound = peer->total_inbound;
      peer->quiet_since = now;
    }
    if (child.seen && now - peer->quiet_since < kQuiet) return;
  }
  peer->fell_back_at = now;
  ++fallbacks_;
  base::Log(LogLevel::kWarning,
            "protocol 50 does not pass, falling back to UDP 4500",
            {{"peer", peer->spec.name},
             {"return", absl::StrCat("kubectl-espalier rekey ", peer->spec.name,
                                     " --protocol50")}});
  // Never a change on a live SA (DESIGN 4): a new IKE_SA that both ends take
  // for one through a NAT (RFC 7296 2.23).
  ConfigurePeer(peer);
  ike_->Reestablish(peer->id);
}

absl::Status Mesh::ReturnToProtocol50(ike::PeerId id) {
  Work work(this);
  PeerState* const peer = Find(id);
  if (peer == nullptr) return absl::NotFoundError("there is no such peer");
  if (peer->spec.force_encapsulation) {
    return absl::FailedPreconditionError(
        absl::StrCat("the configuration has forceEncapsulation for ",
                     peer->spec.name, ": set it to false"));
  }
  if (!peer->fell_back_at) {
    return absl::FailedPreconditionError(absl::StrCat(
        "this node did not fall back to UDP 4500 for ", peer->spec.name,
        "; if ESP goes in UDP the peer did, or there is a NAT: ask on ",
        peer->spec.name));
  }
  peer->fell_back_at.reset();
  base::Log(LogLevel::kInfo, "trying protocol 50 again",
            {{"peer", peer->spec.name}});
  ConfigurePeer(peer);
  ike_->Reestablish(id);
  return absl::OkStatus();
}

void Mesh::HandleRefreshed() {
  Work work(this);
  const base::Instant now = clock_->Now();
  for (const auto& [id, peer] : peers_) {
    uint64_t in = peer->retired_inbound.packets;
    uint64_t out = peer->retired_outbound.packets;
    const auto add = [&](const base::SaKey& key) {
      const auto found = tracker_.sas().find(key);
      if (found == tracker_.sas().end()) return uint64_t{0};
      const uint64_t packets = found->second.counters.packets;
      (key.direction == base::Direction::kInbound ? in : out) += packets;
      return packets;
    };
    for (auto& [child_id, child] : peer->children) {
      if (child.outbound) add(*child.outbound);
      if (!child.inbound) continue;
      const uint64_t before =
          std::exchange(child.packets_in, add(*child.inbound));
      if (child.packets_in > before) {
        ike_->HandleInboundTraffic(child.inbound->spi);
      }
    }
    for (const base::SaKey& key : peer->left_over) add(key);
    peer->total_inbound = in;
    NoteTraffic(peer.get(), in, out, now);
  }
}

void Mesh::NoteTraffic(PeerState* peer, uint64_t in, uint64_t out,
                       base::Instant now) {
  // Probes are no use of the tunnel. One that a counter has and the prober has
  // not yet counts for a packet once.
  const ProbeStatus probe = prober_.Status(peer->id);
  const auto others = [](uint64_t all, uint64_t probes) {
    return all > probes ? all - probes : 0;
  };
  const uint64_t used_in = others(in, probe.packets_in);
  const uint64_t used_out = others(out, probe.packets_out);
  if (used_in > peer->used_inbound || used_out > peer->used_outbound) {
    peer->last_used = now;
  }
  peer->used_inbound = std::max(used_in, peer->used_inbound);
  peer->used_outbound = std::max(used_out, peer->used_outbound);
  if (!cluster_.on_demand || !peer->installed() || !peer->last_used ||
      now - *peer->last_used < cluster_.idle_time) {
    return;
  }
  base::Log(LogLevel::kInfo, "idle tunnel is closed",
            {{"peer", peer->spec.name}});
  peer->last_used.reset();
  ike_->StopEstablishing(peer->id);
  ike_->Delete(peer->id);
  const std::set<base::SaKey> left = peer->left_over;
  for (const base::SaKey& key : left) {
    Retire(peer, key);
    tracker_.RemoveSa(key, nullptr);
  }
  UpdateState(peer);
}

void Mesh::Wish(PeerState* peer, bool at_once) {
  peer->wanted = true;
  ike_->Establish(peer->id, at_once);
}

void Mesh::HandleAcquire(base::Reqid reqid) {
  Work work(this);
  PeerState* const peer = FindByReqid(reqid);
  if (peer == nullptr || !peer->configured ||
      peer->spec.initiate == Initiate::kNever) {
    return;
  }
  Wish(peer, /*at_once=*/false);
  UpdateState(peer);
}

}  // namespace espalier::mesh
