// What the core does with peers: beginning, ending and choosing between their
// IKE_SAs (RFC 7296 2.4, 2.8.2; DESIGN 3).
#include <algorithm>
#include <utility>

#include "agent/base/status_macros.h"
#include "agent/ike/core_impl.h"
#include "agent/ike/tasks/ike_sa_init.h"

namespace espalier::ike {
namespace {

// A superfluous IKE_SA that the other end should delete, and does not.
constexpr absl::Duration kSuperfluous = absl::Seconds(30);
// The same where its successor carries the traffic already.
constexpr absl::Duration kSecondToDelete = absl::Seconds(3);

constexpr size_t kMaxIkeSasPerPeer = 6;

void Earliest(std::optional<base::Instant>* result,
              const std::optional<base::Instant>& at) {
  if (at && (!*result || *at < **result)) *result = at;
}

// Whether what authenticated the peer is no longer trusted.
bool Withdrawn(const PeerConfig& config, const IkeSa& sa) {
  if (sa.peer_key() == nullptr) return false;
  const auto* keys = std::get_if<PublicKeyAuth>(&config.auth);
  if (keys == nullptr) return true;
  return std::none_of(keys->peer_keys.begin(), keys->peer_keys.end(),
                      [&](const auto& key) { return *key == *sa.peer_key(); });
}

bool SameSelectors(const PeerConfig& a, const PeerConfig& b) {
  return a.local_selectors == b.local_selectors &&
         a.remote_selectors == b.remote_selectors;
}

}  // namespace

// --- commands ---

absl::Status Core::Impl::UpsertPeer(PeerConfig config) {
  const PeerId id = config.id;
  Peer* known = peers_.Find(id);
  const std::shared_ptr<const PeerConfig> before =
      known == nullptr || known->removed ? nullptr : known->config;
  ESPALIER_RETURN_IF_ERROR(peers_.Upsert(std::move(config)));
  Touch(id);
  if (before == nullptr) return absl::OkStatus();
  Peer& peer = *peers_.Find(id);
  bool withdrawn = false;
  for (IkeSaId sa_id : std::vector<IkeSaId>(peer.established)) {
    IkeSa* sa = Find(sa_id);
    if (sa != nullptr && Withdrawn(*peer.config, *sa)) withdrawn = true;
  }
  if (withdrawn) {
    // A withdrawn key ends everything that it proved, at once (DESIGN 7).
    peer.tunnels.RemoveAll(ctx_);
    DeleteIkeSas(peer);
  } else if (!SameSelectors(*before, *peer.config)) {
    for (IkeSaId sa_id : std::vector<IkeSaId>(peer.established)) {
      Touch(sa_id);
      for (ChildSa* child : peer.tunnels.Of(sa_id)) {
        ctx_.Notify(Notice::Kind::kRekeyChild, sa_id, child->id);
      }
    }
  }
  return absl::OkStatus();
}

void Core::Impl::DeleteIkeSas(Peer& peer) {
  Touch(peer.id);
  for (IkeSaId id : std::exchange(peer.attempts, {})) {
    Touch(id);
    if (IkeSa* sa = Find(id)) sa->Close(IkeSa::Ending::kSilent, "given up");
  }
  for (IkeSaId id : std::exchange(peer.established, {})) {
    Touch(id);
    peer.tunnels.Supersede(ctx_, id);
    if (IkeSa* sa = Find(id)) sa->Want(Wish::Kind::kDeleteIke);
  }
}

void Core::Impl::RemovePeer(Peer& peer) {
  peer.establishing.Stop();
  DeleteIkeSas(peer);
  peer.tunnels.RemoveAll(ctx_);
  peers_.Remove(peer);
}

void Core::Impl::Establish(Peer& peer, bool at_once) {
  Touch(peer.id);
  peer.establishing.Want(ctx_, *peer.config, at_once);
  if (at_once) peer.tunnels.ExpectLeftovers();
  RunPeerTimers(peer);
}

void Core::Impl::Reestablish(Peer& peer) {
  Touch(peer.id);
  peer.establishing.Replace(ctx_);
  RunPeerTimers(peer);
}

bool Core::Impl::Replacing(const Peer& peer) {
  const auto before = peer.establishing.replace_before();
  if (!before) return false;
  // One that lost against another, which was under way before, does not do.
  return std::none_of(
      peer.established.begin(), peer.established.end(), [&](IkeSaId id) {
        const IkeSa* sa = Find(id);
        return sa != nullptr && *before < sa->begun() && !sa->superfluous();
      });
}

void Core::Impl::EnsureReplaced(Peer& peer) {
  if (!peer.removed && Replacing(peer) && peer.attempts.empty() &&
      !peer.established.empty() && !peer.establishing.attempt_at()) {
    peer.establishing.ReplaceAgain(ctx_);
  }
}

void Core::Impl::StartAttempt(Peer& peer) {
  const PeerConfig& config = *peer.config;
  // Port 500 talks to port 500; any other is behind the non-ESP marker.
  const uint16_t local_port = config.remote.port == 500 ? 500 : 4500;
  const Path path = {.local = {config.local, local_port},
                     .remote = config.remote};
  IkeSa& sa = Adopt(std::make_unique<IkeSa>(ctx_, &peer, /*initiator=*/true,
                                            ctx_.NewIkeSpi(), path));
  peer.attempts.push_back(sa.id());
  peer.establishing.Started();
  sa.Begin(std::make_unique<InitInitiator>());
}

void Core::Impl::RunPeerTimers(Peer& peer) {
  peer.tunnels.HandleTimeout(ctx_);
  const auto attempt_at = peer.establishing.attempt_at();
  if (attempt_at && *attempt_at <= ctx_.now) {
    peer.establishing.Started();
    if (peer.attempts.empty() &&
        (peer.established.empty() || Replacing(peer))) {
      StartAttempt(peer);
    }
  }
  if (peer.child_at && *peer.child_at <= ctx_.now) {
    peer.child_at.reset();
    for (IkeSaId id : std::vector<IkeSaId>(peer.established)) {
      IkeSa* sa = Find(id);
      if (sa == nullptr || sa->stage() != IkeSa::Stage::kEstablished) continue;
      if (peer.tunnels.HasLive(id)) {
        peer.child_failures = 0;
        continue;
      }
      Touch(id);
      sa->Want(Wish::Kind::kCreateChild);
    }
  }
}

std::optional<base::Instant> Core::Impl::PeerTimeout(const Peer& peer) const {
  std::optional<base::Instant> next = peer.tunnels.NextTimeout();
  Earliest(&next, peer.establishing.attempt_at());
  Earliest(&next, peer.child_at);
  if (!peer.cpus.wanted.empty()) Earliest(&next, peer.cpus.retry_at);
  return next;
}

// --- after every call ---

void Core::Impl::Settle() {
  while (true) {
    if (!ctx_.spawned.empty()) {
      for (auto& sa : std::exchange(ctx_.spawned, {})) {
        IkeSa& adopted = Adopt(std::move(sa));
        adopted.peer()->established.push_back(adopted.id());
      }
    } else if (!ctx_.notices.empty()) {
      const Notice notice = ctx_.notices.front();
      ctx_.notices.pop_front();
      HandleNotice(notice);
    } else if (!touched_sas_.empty()) {
      const IkeSaId id = *touched_sas_.begin();
      touched_sas_.erase(touched_sas_.begin());
      IkeSa* sa = Find(id);
      if (sa == nullptr) continue;
      if (sa->peer() != nullptr) Touch(sa->peer()->id);
      if (sa->dead()) {
        Bury(id);
      } else {
        Schedule(/*peer=*/false, id.value(), sa->NextTimeout());
      }
    } else if (!touched_peers_.empty()) {
      const PeerId id = *touched_peers_.begin();
      touched_peers_.erase(touched_peers_.begin());
      if (Peer* peer = peers_.Find(id)) {
        EnsureReplaced(*peer);
        PruneTwins(*peer);
        EnsureChild(*peer);
        EnsureCpuChildren(*peer);
        Schedule(/*peer=*/true, id.value(), PeerTimeout(*peer));
        ForgetIfUnused(id);
      }
    } else {
      break;
    }
  }
  ctx_.counters.half_open = half_open_.size();
}

void Core::Impl::HandleNotice(const Notice& notice) {
  IkeSa* sa = Find(notice.ike_sa);
  if (sa == nullptr || sa->dead()) return;
  Touch(sa->id());
  switch (notice.kind) {
    case Notice::Kind::kEstablished:
      return OnEstablished(*sa);
    case Notice::Kind::kRekeyChild:
      return sa->Want(Wish::Kind::kRekeyChild, notice.child);
    case Notice::Kind::kDeleteChild:
      return sa->Want(Wish::Kind::kDeleteChild, notice.child);
    case Notice::Kind::kChildMissing:
      return OnChildMissing(*sa);
    case Notice::Kind::kSending:
      return OnSending(*sa);
    case Notice::Kind::kPathChanged:
      return OnPathChanged(*sa);
    case Notice::Kind::kDeleteIke:
      return sa->Want(Wish::Kind::kDeleteIke);
    case Notice::Kind::kSuperfluous:
      return EndSuperfluous(*sa);
    case Notice::Kind::kChildDeleted:
      return OnChildDeleted(*sa);
    case Notice::Kind::kReestablish:
      if (!sa->peer()->removed) Reestablish(*sa->peer());
      return;
    case Notice::Kind::kAwaitDelete:
      sa->set_stage(IkeSa::Stage::kReplaced);
      return sa->set_close_at(ctx_.now + kSuperfluous);
  }
}

// --- one IKE_SA a pair ---

void Core::Impl::OnEstablished(IkeSa& sa) {
  if (auto at = half_open_keys_.find(sa.id()); at != half_open_keys_.end()) {
    half_open_.erase(at->second);
    half_open_keys_.erase(at);
  }
  Peer& peer = *sa.peer();
  if (peer.removed) return sa.Want(Wish::Kind::kDeleteIke);
  if (Withdrawn(*peer.config, sa)) {
    // While it was being made: what the key proved ends all the same.
    for (const ChildSa* child : peer.tunnels.Of(sa.id())) {
      peer.tunnels.Abort(ctx_, child->id);
    }
    return sa.Want(Wish::Kind::kDeleteIke);
  }
  // The old SAs of a restarted agent are let go by the peer only when it has
  // proof that this end has switched: a request after IKE_AUTH is one.
  const bool prove = peer.establishing.at_once() && sa.initiator();
  // On demand, whoever began it: while its SAs stand a lost peer is tried.
  peer.establishing.Succeeded(peer.config->on_demand && !peer.config->passive);
  std::erase(peer.attempts, sa.id());
  // First of all: what is displaced by it is no loss of the peer.
  peer.established.push_back(sa.id());
  if (sa.initial_contact()) Displace(peer, sa);
  ResolveCrossing(peer, sa);
  BoundEstablished(peer);
  AbandonAttempts(peer);
  if (prove) sa.Want(Wish::Kind::kLiveness);
}

void Core::Impl::Displace(Peer& peer, IkeSa& sa) {
  // Only those that were complete before this one began: of two that cross,
  // both carry INITIAL_CONTACT.
  for (IkeSaId id : std::vector<IkeSaId>(peer.established)) {
    IkeSa* other = Find(id);
    if (other == nullptr || other == &sa ||
        other->established() >= sa.created()) {
      continue;
    }
    std::erase(peer.established, id);
    Touch(id);
    other->Close(IkeSa::Ending::kLost, "the peer has restarted");
  }
}

void Core::Impl::ResolveCrossing(Peer& peer, IkeSa& sa) {
  const bool lower = peer.LocalIdentity(ctx_.config) < peer.config->identity;
  for (IkeSaId id : std::vector<IkeSaId>(peer.established)) {
    IkeSa* other = Find(id);
    if (other == nullptr || other == &sa || other->dead()) continue;
    Touch(id);
    // Initiated by the lower identity: that one stays. Two that the same end
    // began do not cross: the newer replaces the older.
    const bool crossing = other->established() >= sa.created() &&
                          other->initiator() != sa.initiator();
    IkeSa& winner = !crossing || sa.initiator() == lower ? sa : *other;
    IkeSa& loser = &winner == &sa ? *other : sa;
    // The ends may differ about which it is, where messages were late. So the
    // higher identity is quicker, and the other asks again whether there still
    // is one too many.
    loser.set_delete_at(ctx_.now + (lower ? kSuperfluous : kSuperfluous / 2));
    if (winner.initiator() && (crossing || &winner == &sa)) {
      // Whoever initiated the winner knows that it stands at both ends, and
      // deletes the other once the winner carries its traffic.
      loser.superseded_by = winner.id();
      if (peer.tunnels.IsUp(winner.id())) EndSuperseded(peer, loser);
    }
  }
}

void Core::Impl::BoundEstablished(Peer& peer) {
  // A peer that begins one IKE_SA after another fills no memory.
  while (peer.established.size() > kMaxIkeSasPerPeer) {
    const IkeSaId oldest = peer.established.front();
    peer.established.erase(peer.established.begin());
    Touch(oldest);
    if (IkeSa* sa = Find(oldest)) {
      sa->Close(IkeSa::Ending::kSilent, "too many IKE_SAs of this peer");
    }
  }
}

void Core::Impl::EndSuperseded(Peer& peer, IkeSa& sa) {
  if (peer.LocalIdentity(ctx_.config) < peer.config->identity) {
    // The other end is quicker, should it see this the other way round.
    return sa.set_delete_at(ctx_.now + kSecondToDelete);
  }
  peer.tunnels.Supersede(ctx_, sa.id());
  sa.Want(Wish::Kind::kDeleteIke);
}

void Core::Impl::OnSending(IkeSa& sa) {
  Peer& peer = *sa.peer();
  for (IkeSaId id : std::vector<IkeSaId>(peer.established)) {
    IkeSa* other = Find(id);
    if (other == nullptr || other->superseded_by != sa.id()) continue;
    Touch(id);
    EndSuperseded(peer, *other);
  }
}

void Core::Impl::PruneTwins(Peer& peer) {
  // One CHILD_SA a pair: both ends may have made one where there was none, or
  // where those of a rekeyed IKE_SA were still to come. The lower identity
  // deletes the older.
  if (peer.removed || peer.tunnels.all().size() < 2 ||
      !(peer.LocalIdentity(ctx_.config) < peer.config->identity)) {
    return;
  }
  for (const auto& child : peer.tunnels.all()) {
    if (child->state != ChildSa::State::kUp || child->owner == IkeSaId()) {
      continue;
    }
    IkeSa* sa = Find(child->owner);
    if (sa == nullptr || sa->stage() != IkeSa::Stage::kEstablished) continue;
    for (ChildSaId older : peer.tunnels.OlderTwins(child->id)) {
      if (sa->Wants(Wish::Kind::kDeleteChild, older)) continue;
      ctx_.Notify(Notice::Kind::kDeleteChild, sa->id(), older);
    }
  }
}

void Core::Impl::EndSuperfluous(IkeSa& sa) {
  for (IkeSaId id : std::vector<IkeSaId>(sa.peer()->established)) {
    IkeSa* other = Find(id);
    if (other == nullptr || other == &sa || other->superfluous() ||
        other->stage() != IkeSa::Stage::kEstablished) {
      continue;
    }
    if (other->proven()) {
      sa.peer()->tunnels.Supersede(ctx_, sa.id());
      return sa.Want(Wish::Kind::kDeleteIke);
    }
    // The peer may never have got the end of its IKE_AUTH, or of its rekey.
    // Nothing else may ask it while ESP comes in.
    Touch(id);
    other->Want(Wish::Kind::kLiveness);
    sa.set_delete_at(ctx_.now + kSuperfluous / 2);
  }
}

void Core::Impl::AbandonAttempts(Peer& peer) {
  // Before its IKE_AUTH the peer does not know whose attempt it is; from then
  // on it may be complete there, and has to be gone through with.
  for (IkeSaId id : std::vector<IkeSaId>(peer.attempts)) {
    IkeSa* sa = Find(id);
    if (sa == nullptr || !sa->initiator() ||
        sa->stage() != IkeSa::Stage::kInit) {
      continue;
    }
    std::erase(peer.attempts, id);
    Touch(id);
    sa->Close(IkeSa::Ending::kSilent, "the peer was first");
  }
}

void Core::Impl::OnChildMissing(IkeSa& sa) {
  Peer& peer = *sa.peer();
  if (peer.removed || peer.child_at || !peer.establishing.wanted() ||
      sa.stage() != IkeSa::Stage::kEstablished) {
    return;
  }
  absl::Duration wait = ctx_.config.retry_base;
  for (int i = 0; i < peer.child_failures && wait < ctx_.config.retry_max; ++i)
    wait *= 2;
  ++peer.child_failures;
  if (!peer.config->initiate) wait += peer.config->grace;
  peer.child_at = ctx_.now + ctx_.Jitter(wait, 0.25);
}

void Core::Impl::OnChildDeleted(IkeSa& sa) {
  Peer& peer = *sa.peer();
  if (!peer.config->on_demand) return OnChildMissing(sa);
  // The peer has no use for the tunnel, and there is none for the IKE_SA.
  peer.establishing.Stop();
  sa.Want(Wish::Kind::kDeleteIke);
}

void Core::Impl::EnsureChild(Peer& peer) {
  // However it came to that: an exchange refused, a job or an install failed.
  for (IkeSaId id : peer.established) {
    IkeSa* sa = Find(id);
    if (sa != nullptr && sa->stage() == IkeSa::Stage::kEstablished &&
        sa->Idle() && !peer.tunnels.HasLive(id)) {
      OnChildMissing(*sa);
    }
  }
}

void Core::Impl::EnsureCpuChildren(Peer& peer) {
  Peer::Cpus& cpus = peer.cpus;
  if (cpus.retry_at && ctx_.now < *cpus.retry_at) return;
  cpus.retry_at.reset();  // also where nothing can be done now
  if (cpus.wanted.empty() || peer.established.empty()) return;
  IkeSa* sa = Find(peer.established.back());
  if (sa == nullptr || sa->stage() != IkeSa::Stage::kEstablished ||
      !sa->cpu_sas || sa->cpu_sas_exhausted || !peer.tunnels.IsUp(sa->id()) ||
      !peer.tunnels.HasLive(sa->id())) {
    return;  // RFC 9611 2: first the one for all CPUs, which may be gone alone
  }
  // One after the other: each may be the one for which there is no room.
  if (!sa->Idle() ||
      peer.tunnels.CountCpus(sa->id()) >= peer.config->max_cpu_sas) {
    return;
  }
  for (uint32_t cpu : cpus.wanted) {
    if (peer.tunnels.HasLive(sa->id(), cpu)) continue;
    Touch(sa->id());
    return sa->Want({Wish::Kind::kCreateCpuChild, {}, cpu});
  }
}

void Core::Impl::OnPathChanged(IkeSa& sa) {
  // ESP has to follow (2.23): with new SAs, since none is ever changed.
  for (ChildSa* child : sa.peer()->tunnels.Of(sa.id())) {
    if (child->encapsulated) {
      sa.Want(Wish::Kind::kRekeyChild, child->id);
    }
  }
}

// --- the end of an IKE_SA ---

void Core::Impl::Bury(IkeSaId id) {
  auto at = sas_.find(id);
  const std::unique_ptr<IkeSa> sa = std::move(at->second);
  sas_.erase(at);
  ctx_.ike_spis.erase(sa->local_spi());
  Schedule(/*peer=*/false, id.value(), std::nullopt);
  if (auto key = half_open_keys_.find(id); key != half_open_keys_.end()) {
    half_open_.erase(key->second);
    half_open_keys_.erase(key);
  }
  Peer* peer = sa->peer();
  if (peer == nullptr) return;
  const bool attempt = std::erase(peer->attempts, id) > 0;
  std::erase(peer->established, id);
  if (!peer->removed && peer->attempts.empty() &&
      !peer->establishing.attempt_at()) {
    const bool last = peer->established.empty();
    if (attempt && sa->initiator()) {
      if (last || Replacing(*peer)) {
        peer->establishing.Failed(ctx_, *peer->config,
                                  !peer->tunnels.Of(IkeSaId()).empty());
      }
    } else if (last) {
      peer->establishing.Lost(ctx_, *peer->config, !sa->lost());
    }
  }
  Touch(peer->id);
}

void Core::Impl::ForgetIfUnused(PeerId id) {
  Peer* peer = peers_.Find(id);
  if (peer == nullptr || !peer->removed) return;
  const bool used = std::any_of(sas_.begin(), sas_.end(), [&](const auto& sa) {
    return sa.second->peer() == peer;
  });
  if (used) return;
  peer->tunnels.RemoveAll(ctx_);
  Schedule(/*peer=*/true, id.value(), std::nullopt);
  peers_.Erase(id);
}

}  // namespace espalier::ike
