#include "agent/mesh/mesh.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/mesh/peer_state.h"

namespace espalier::mesh {
namespace {

using base::Direction;
using base::LogLevel;
using base::SaKey;
using datapath::TrackedSa;

SaKey KeyOf(const base::EspSa& sa) {
  return {sa.direction, sa.outer_destination, sa.spi};
}

void Add(const base::SaCounters& from, base::SaCounters* to) {
  to->packets += from.packets;
  to->bytes += from.bytes;
  to->replayed += from.replayed;
  to->bad_icv += from.bad_icv;
  to->selector_mismatch += from.selector_mismatch;
  to->send_errors += from.send_errors;
}

const char* EventText(ike::Event::Kind kind) {
  using Kind = ike::Event::Kind;
  switch (kind) {
    case Kind::kIkeSaUp:
      return "IKE_SA up";
    case Kind::kIkeSaDown:
      return "IKE_SA down";
    case Kind::kIkeSaRekeyed:
      return "IKE_SA rekeyed";
    case Kind::kChildSaUp:
      return "CHILD_SA up";
    case Kind::kChildSaDown:
      return "CHILD_SA down";
    case Kind::kChildSaRekeyed:
      return "CHILD_SA rekeyed";
    case Kind::kAuthenticationFailed:
      return "authentication failed";
    case Kind::kNoProposalChosen:
      return "no proposal chosen";
    case Kind::kTsUnacceptable:
      return "traffic selectors unacceptable";
    case Kind::kPeerUnreachable:
      return "peer unreachable";
    case Kind::kProtocolError:
      return "protocol error";
  }
  return "event";
}

bool IsProblem(ike::Event::Kind kind) {
  using Kind = ike::Event::Kind;
  return kind == Kind::kAuthenticationFailed ||
         kind == Kind::kNoProposalChosen || kind == Kind::kTsUnacceptable ||
         kind == Kind::kPeerUnreachable || kind == Kind::kProtocolError;
}

}  // namespace

const char* TunnelStateName(TunnelState state) {
  switch (state) {
    case TunnelState::kDown:
      return "down";
    case TunnelState::kProbing:
      return "probing";
    case TunnelState::kUp:
      return "up";
    case TunnelState::kNoPackets:
      return "no-packets";
    case TunnelState::kIdle:
      return "idle";
    case TunnelState::kAdopted:
      return "adopted";
  }
  return "";
}

Mesh::Mesh(base::EventLoop* loop, base::Clock* clock, IkeControl* ike,
           datapath::Datapath* datapath, network::NodeNetwork* network,
           ProbeLink* probes, base::RandomSource* random)
    : loop_(loop),
      clock_(clock),
      ike_(ike),
      network_(network),
      tracker_(loop, clock, datapath),
      prober_(loop, clock, random, probes,
              [this](ike::PeerId id) { HandleProbeVerdict(id); }) {
  datapath::Tracker::TrackerEvents events;
  events.ready = [this] { HandleReady(); };
  events.expired = [this](const SaKey& key, bool hard) {
    HandleExpired(key, hard);
  };
  events.inbound_seen = [this](const SaKey& key) { HandleInboundSeen(key); };
  events.acquire = [this](base::Reqid reqid) { HandleAcquire(reqid); };
  events.refreshed = [this] { HandleRefreshed(); };
  events.vanished = [this](const TrackedSa& sa) { HandleVanished(sa); };
  tracker_.SetEvents(std::move(events));
}

Mesh::~Mesh() {
  for (const auto timer : timers_) loop_->CancelTimer(timer);
}

void Mesh::Drain() {
  while (!waiting_.empty() || network_changed_) {
    if (waiting_.empty()) {
      network_changed_ = false;
      ApplyNetwork();
      continue;
    }
    ike::Action action = std::move(waiting_.front());
    waiting_.pop_front();
    if (auto* install = std::get_if<ike::InstallSa>(&action)) {
      Execute(std::move(*install));
    } else if (const auto* remove = std::get_if<ike::RemoveSa>(&action)) {
      Execute(*remove);
    } else if (const auto* watch = std::get_if<ike::WatchInbound>(&action)) {
      Execute(*watch);
    } else if (const auto* event = std::get_if<ike::Event>(&action)) {
      Execute(*event);
    }
  }
}

bool Mesh::HandleIkeAction(ike::Action& action) {
  if (!std::holds_alternative<ike::InstallSa>(action) &&
      !std::holds_alternative<ike::RemoveSa>(action) &&
      !std::holds_alternative<ike::WatchInbound>(action) &&
      !std::holds_alternative<ike::Event>(action)) {
    return false;
  }
  Work work(this);
  waiting_.push_back(std::move(action));
  return true;
}

Mesh::PeerState* Mesh::Find(ike::PeerId id) {
  const auto found = peers_.find(id);
  return found == peers_.end() ? nullptr : found->second.get();
}

Mesh::PeerState* Mesh::FindByReqid(base::Reqid reqid) {
  const auto found = by_reqid_.find(reqid);
  return found == by_reqid_.end() ? nullptr : found->second;
}

Mesh::PeerState* Mesh::OwnerOf(const SaKey& key) {
  const auto tracked = tracker_.sas().find(key);
  return tracked == tracker_.sas().end() ? nullptr
                                         : FindByReqid(tracked->second.reqid);
}

Mesh::Child* Mesh::FindChild(PeerState* peer, const SaKey& key) {
  for (auto& [id, child] : peer->children) {
    if (child.inbound == key || child.outbound == key) return &child;
  }
  return nullptr;
}

void Mesh::Execute(ike::InstallSa action) {
  if (Find(action.peer) == nullptr) {
    ike_->HandleDatapathDone(action.op,
                             absl::NotFoundError("the peer was removed"));
    return;
  }
  base::EspSa sa = std::move(action.sa);
  // What is needed once it is installed, without the keys.
  base::EspSa shape;
  shape.direction = sa.direction;
  shape.spi = sa.spi;
  shape.outer_source = sa.outer_source;
  shape.outer_destination = sa.outer_destination;
  shape.encapsulation = sa.encapsulation;
  shape.suite = sa.suite;
  shape.cpu = sa.cpu;
  shape.remote_selectors = sa.remote_selectors;
  auto context = std::make_shared<std::pair<ike::InstallSa, base::EspSa>>(
      std::move(action), std::move(shape));
  tracker_.InstallSa(std::move(sa), [this, context](absl::Status status) {
    Work work(this);
    HandleInstalled(context->first, context->second, std::move(status));
  });
}

void Mesh::HandleInstalled(const ike::InstallSa& action, const base::EspSa& sa,
                           absl::Status status) {
  PeerState* const peer = Find(action.peer);
  const SaKey key = KeyOf(sa);
  if (peer == nullptr) {
    if (status.ok()) tracker_.RemoveSa(key, nullptr);
    status = absl::NotFoundError("the peer was removed");
  } else if (!status.ok()) {
    peer->problem = absl::StrCat("SA not installed: ", status.ToString());
  } else {
    Child& child = peer->children[action.child];
    child.suite = sa.suite;
    child.cpu = sa.cpu;
    child.encapsulated = sa.encapsulation.has_value();
    child.outer_family = sa.outer_destination.family();
    child.remote_selectors = sa.remote_selectors;
    if (sa.direction == Direction::kInbound) {
      child.inbound = key;
      tracker_.WatchInbound(key);
    } else {
      child.outbound = key;
      // Of the fallback alone depends what the tunnel is.
      if (!child.cpu) peer->newest = action.child;
      // Installing it was the switch: what went out before is idle.
      DropLeftOversLater(peer, /*inbound=*/false);
      network_changed_ = true;  // the exact MTU
      prober_.Start(peer->id);
    }
    UpdateState(peer);
  }
  ike_->HandleDatapathDone(action.op, std::move(status));
}

void Mesh::Execute(const ike::RemoveSa& action) {
  const SaKey key{action.direction, action.outer_destination, action.spi};
  PeerState* const peer = Find(action.peer);
  if (peer != nullptr) {
    Retire(peer, key);
    UpdateState(peer);
  }
  tracker_.RemoveSa(key, [this, op = action.op](absl::Status status) {
    Work work(this);
    ike_->HandleDatapathDone(op, std::move(status));
  });
}

void Mesh::Execute(const ike::WatchInbound& action) {
  PeerState* const peer = Find(action.peer);
  if (peer == nullptr) return;
  const auto found = peer->children.find(action.child);
  if (found == peer->children.end()) return;
  if (found->second.seen) {
    ike_->HandleInboundSeen(action.spi);
  } else {
    found->second.core_asks = true;
  }
}

void Mesh::Execute(const ike::Event& event) {
  PeerState* const peer = Find(event.peer);
  const std::string name = peer == nullptr ? "" : peer->spec.name;
  base::Log(IsProblem(event.kind) ? LogLevel::kWarning : LogLevel::kInfo,
            EventText(event.kind), {{"peer", name}, {"detail", event.detail}});
  if (peer == nullptr) return;
  if (IsProblem(event.kind)) {
    peer->problem = event.detail.empty() ? EventText(event.kind)
                                         : absl::StrCat(EventText(event.kind),
                                                        ": ", event.detail);
  }
}

void Mesh::Retire(PeerState* peer, const SaKey& key) {
  peer->left_over.erase(key);
  const auto tracked = tracker_.sas().find(key);
  if (tracked != tracker_.sas().end()) {
    Add(tracked->second.counters, key.direction == Direction::kInbound
                                      ? &peer->retired_inbound
                                      : &peer->retired_outbound);
  }
  for (auto it = peer->children.begin(); it != peer->children.end();) {
    Child& child = it->second;
    if (child.inbound == key) child.inbound.reset();
    if (child.outbound == key) child.outbound.reset();
    if (!child.inbound && !child.outbound) {
      if (peer->newest == it->first) peer->newest.reset();
      it = peer->children.erase(it);
    } else {
      ++it;
    }
  }
}

TunnelState Mesh::StateOf(const PeerState& peer) const {
  bool left_in = false, left_out = false;
  for (const SaKey& key : peer.left_over) {
    (key.direction == Direction::kInbound ? left_in : left_out) = true;
  }
  const TunnelState before =
      left_in && left_out ? TunnelState::kAdopted : TunnelState::kDown;
  if (!peer.installed()) {
    const bool idle = cluster_.on_demand && !peer.wanted && peer.configured;
    return before == TunnelState::kDown && idle ? TunnelState::kIdle : before;
  }
  switch (prober_.Verdict(peer.id)) {
    case ProbeVerdict::kOff:
    case ProbeVerdict::kPassing:
      return TunnelState::kUp;
    case ProbeVerdict::kFailing:
      return TunnelState::kNoPackets;
    case ProbeVerdict::kWaiting:
      break;
  }
  return before == TunnelState::kAdopted ? before : TunnelState::kProbing;
}

void Mesh::UpdateState(PeerState* peer) {
  if (!peer->installed()) {
    prober_.Stop(peer->id);
    peer->last_used.reset();
  } else {
    peer->wanted = false;
    peer->key_withdrawn = false;
    if (!peer->last_used) peer->last_used = clock_->Now();
  }
  const TunnelState state = StateOf(*peer);
  if (state == TunnelState::kUp || state == TunnelState::kIdle) {
    peer->problem.clear();
  }
  if (state == TunnelState::kNoPackets) {
    peer->problem = prober_.Status(peer->id).reason;
  }
  if (state == peer->state) return;
  peer->state = state;
  peer->state_since = clock_->Now();
  base::Log(LogLevel::kInfo, "tunnel",
            {{"peer", peer->spec.name},
             {"state", TunnelStateName(state)},
             {"reqid", peer->reqid.value()}});
  if (state == TunnelState::kNoPackets) {
    base::Log(LogLevel::kWarning, "packets do not pass",
              {{"peer", peer->spec.name}, {"why", peer->problem}});
  }
  network_changed_ = true;
}

void Mesh::HandleReady() {
  Work work(this);
  Adopt();
  for (const auto& [id, peer] : peers_) {
    if (!cluster_.on_demand && peer->configured &&
        peer->spec.initiate != Initiate::kNever) {
      Wish(peer.get(), /*at_once=*/false);
    }
  }
  network_changed_ = true;  // the interface may have a name only now
}

void Mesh::Adopt() {
  if (!in_sync_ || !tracker_.ready()) return;
  std::vector<TrackedSa> adopted;
  for (const auto& [key, sa] : tracker_.sas()) {
    if (sa.state == TrackedSa::State::kAdopted) adopted.push_back(sa);
  }
  std::set<PeerState*> found;
  for (const TrackedSa& sa : adopted) {
    PeerState* const peer = FindByReqid(sa.reqid);
    const base::IpAddress& far = sa.key.direction == Direction::kInbound
                                     ? sa.outer_source
                                     : sa.key.outer_destination;
    if (peer == nullptr || !peer->configured || sa.expired ||
        std::ranges::find(peer->spec.addresses, far) ==
            peer->spec.addresses.end()) {
      base::Log(LogLevel::kInfo, "leftover SA removed",
                {{"sa", sa.key.ToString()}});
      tracker_.RemoveSa(sa.key, nullptr);
      continue;
    }
    if (FindChild(peer, sa.key) != nullptr) continue;
    if (peer->key_withdrawn) {
      base::Log(LogLevel::kInfo, "leftover SA of a withdrawn key removed",
                {{"peer", peer->spec.name}, {"sa", sa.key.ToString()}});
      tracker_.RemoveSa(sa.key, nullptr);
      continue;
    }
    if (peer->left_over.insert(sa.key).second) {
      found.insert(peer);
    }
  }
  for (PeerState* peer : found) {
    UpdateState(peer);
    if (peer->installed()) continue;
    base::Log(LogLevel::kInfo, "SAs adopted",
              {{"peer", peer->spec.name}, {"count", peer->left_over.size()}});
    // A restart must not undo a fallback: for seconds nothing would pass.
    const bool in_udp = std::ranges::any_of(
        peer->left_over,
        [&](const SaKey& key) { return tracker_.sas().at(key).encapsulated; });
    if (in_udp && !peer->spec.force_encapsulation && !peer->fell_back_at) {
      base::Log(LogLevel::kInfo, "ESP stays in UDP, as before this start",
                {{"peer", peer->spec.name}});
      peer->fell_back_at = clock_->Now();
      ConfigurePeer(peer);
    }
    if (peer->spec.initiate == Initiate::kNever) continue;
    Wish(peer, /*at_once=*/true);
  }
}

void Mesh::DropLeftOvers(PeerState* peer) {
  for (const SaKey& key : std::set<SaKey>(peer->left_over)) {
    base::Log(LogLevel::kInfo, "leftover SA of a withdrawn key removed",
              {{"peer", peer->spec.name}, {"sa", key.ToString()}});
    Retire(peer, key);
    tracker_.RemoveSa(key, nullptr);
  }
}

void Mesh::HandleInboundSeen(const SaKey& key) {
  Work work(this);
  PeerState* const peer = OwnerOf(key);
  Child* const child = peer == nullptr ? nullptr : FindChild(peer, key);
  if (child == nullptr) return;
  child->seen = true;
  DropLeftOversLater(peer, /*inbound=*/true);
  if (std::exchange(child->core_asks, false)) {
    ike_->HandleInboundSeen(key.spi);
  }
}

// The peer sends on the new SA, or this node does: packets under way on the
// old ones still have the drain time.
void Mesh::DropLeftOversLater(PeerState* peer, bool inbound) {
  std::vector<SaKey> keys;
  for (const SaKey& key : peer->left_over) {
    if ((key.direction == Direction::kInbound) == inbound) keys.push_back(key);
  }
  if (keys.empty()) return;
  auto timer = std::make_shared<base::EventLoop::TimerId>(0);
  *timer =
      loop_->RunAfter(cluster_.drain_time, [this, timer, id = peer->id, keys] {
        Work work(this);
        timers_.erase(*timer);
        PeerState* const alive = Find(id);
        if (alive == nullptr) return;
        for (const SaKey& key : keys) {
          if (!alive->left_over.contains(key)) continue;
          Retire(alive, key);
          tracker_.RemoveSa(key, nullptr);
        }
        UpdateState(alive);
      });
  timers_.insert(*timer);
}

void Mesh::HandleExpired(const SaKey& key, bool hard) {
  Work work(this);
  PeerState* const peer = OwnerOf(key);
  if (peer == nullptr) return;
  if (FindChild(peer, key) != nullptr) {
    ike_->HandleSaExpired(key, hard);
  } else if (hard && peer->left_over.contains(key)) {
    Retire(peer, key);
    tracker_.RemoveSa(key, nullptr);
    UpdateState(peer);
  }
}

void Mesh::HandleVanished(const TrackedSa& sa) {
  Work work(this);
  PeerState* const peer = FindByReqid(sa.reqid);
  if (peer == nullptr) return;
  const bool of_core = FindChild(peer, sa.key) != nullptr;
  if (!of_core && !peer->left_over.contains(sa.key)) return;
  Retire(peer, sa.key);
  peer->problem =
      absl::StrCat("SA ", sa.key.ToString(), " vanished from the datapath");
  UpdateState(peer);
  // As at a hard limit: it is dead, and another key has to be negotiated.
  if (of_core) ike_->HandleSaExpired(sa.key, /*hard=*/true);
}

std::vector<PeerStatus> Mesh::Peers() const {
  std::vector<PeerStatus> result;
  for (const auto& [id, peer] : peers_) {
    PeerStatus status{.id = id,
                      .name = peer->spec.name,
                      .identity = peer->spec.identity,
                      .reqid = peer->reqid,
                      .addresses = peer->spec.addresses,
                      .pod_cidrs = peer->spec.pod_cidrs,
                      .state = peer->state,
                      .state_since = peer->state_since,
                      .probe = prober_.Status(id),
                      .sealed = Sealed(*peer),
                      .fell_back = peer->fell_back_at.has_value(),
                      .mtu = MtuOf(*peer),
                      .last_problem = peer->problem,
                      .inbound = peer->retired_inbound,
                      .outbound = peer->retired_outbound};
    if (peer->newest) {
      status.inbound_seen = peer->children.at(*peer->newest).seen;
    }
    const auto add = [&](const SaKey& key, bool left_over,
                         std::optional<uint32_t> cpu = std::nullopt) {
      const auto found = tracker_.sas().find(key);
      if (found == tracker_.sas().end()) return;
      const TrackedSa& sa = found->second;
      status.sas.push_back({.key = key,
                            .suite = sa.suite,
                            .encapsulated = sa.encapsulated,
                            .left_over = left_over,
                            .cpu = cpu,
                            .counters = sa.counters});
      Add(sa.counters, key.direction == Direction::kInbound ? &status.inbound
                                                            : &status.outbound);
    };
    for (const auto& [child_id, child] : peer->children) {
      if (child.inbound) add(*child.inbound, false, child.cpu);
      if (child.outbound) add(*child.outbound, false, child.cpu);
    }
    for (const SaKey& key : peer->left_over) add(key, true);
    result.push_back(std::move(status));
  }
  std::ranges::sort(result, {}, &PeerStatus::name);
  return result;
}

void Mesh::RefreshCounters(std::function<void(absl::Status)> done) {
  tracker_.Refresh(std::move(done));
}

}  // namespace espalier::mesh
