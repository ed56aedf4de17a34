#include "agent/ike/tunnels.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::ike {
namespace {

// The kernel may still hold packets that point at the old outbound SA.
constexpr absl::Duration kOutboundLinger = absl::Seconds(1);

// Whoever began a rekey deletes what it replaced. When that does not happen,
// so much later the other end does.
constexpr absl::Duration kReplacedPatience = absl::Minutes(1);

constexpr absl::Duration kAgainAfterFailure = absl::Seconds(5);

bool Due(const std::optional<base::Instant>& at, base::Instant now) {
  return at && *at <= now;
}

bool Live(const ChildSa& child) {
  return child.state != ChildSa::State::kRetired && !child.deleting;
}

void Earliest(std::optional<base::Instant>* result,
              const std::optional<base::Instant>& at) {
  if (at && (!*result || *at < **result)) *result = at;
}

}  // namespace

ChildSa& Tunnels::Begin(Context& ctx, IkeSaId owner, const ChildPlan& plan,
                        base::Reqid reqid, DatapathOpId* op) {
  auto child = std::make_unique<ChildSa>();
  child->id = ctx.NextChildSaId();
  child->owner = owner;
  child->initiated = plan.initiated;
  child->encapsulated = plan.encapsulated;
  child->mode = plan.mode;
  child->cpu = plan.cpu;
  child->inbound_spi = plan.inbound_spi;
  child->outbound_spi = plan.outbound_spi;
  child->suite = plan.suite;
  child->local_address = plan.path.local.address;
  child->remote_address = plan.path.remote.address;
  child->local = plan.local;
  child->remote = plan.remote;
  child->predecessor = plan.predecessor;
  // Made by an exchange that was under way when its IKE_SA lost.
  child->redundant = superseded_.contains(owner);
  child->held_outbound =
      std::make_unique<base::EspSa>(OutboundSa(plan, reqid, ctx.config));
  *op = ctx.InstallSa(owner, peer_, child->id,
                      InboundSa(plan, reqid, ctx.config));
  children_.push_back(std::move(child));
  return *children_.back();
}

void Tunnels::SetLifetimes(Context& ctx, ChildSa& child) {
  const base::SaLimits& limits = ctx.config.child_limits;
  child.established = ctx.now;
  if (limits.soft_time > absl::ZeroDuration()) {
    // The end that made it is a little earlier, so that both seldom rekey at
    // the same time.
    child.rekey_at =
        ctx.now + (child.initiated ? ctx.Jitter(limits.soft_time, 0.1)
                                   : limits.soft_time);
  }
  if (limits.hard_time > absl::ZeroDuration()) {
    child.expire_at = ctx.now + limits.hard_time;
  }
}

void Tunnels::Complete(Context& ctx, ChildSa& child) {
  SetLifetimes(ctx, child);
  ++ctx.counters.child_sas_established;
  child.state = ChildSa::State::kHeld;
  if (ChildSa* old = Find(child.predecessor)) {
    old->rekey_at = ctx.now + ctx.Jitter(kReplacedPatience, 0.5);
  }
  const bool sending = leftovers_ || Sends();
  // What still stands, besides this one, asks for proof that the peer has
  // switched before it goes.
  if (children_.size() > 1 || leftovers_) {
    ctx.Emit(WatchInbound{
        .peer = peer_, .child = child.id, .spi = child.inbound_spi});
  }
  if (child.initiated || !sending) Switch(ctx, child);
}

void Tunnels::Abort(Context& ctx, ChildSaId id) {
  if (ChildSa* child = Find(id)) Remove(ctx, *child);
}

InboundSpi Tunnels::AbortKeepingSpi(Context& ctx, ChildSa& child) {
  const base::Spi spi = child.inbound_spi;
  Remove(ctx, child);
  ctx.inbound_spis.emplace(spi, peer_);
  return InboundSpi(&ctx, spi);
}

void Tunnels::Switch(Context& ctx, ChildSa& child) {
  if (child.state != ChildSa::State::kHeld || !child.held_outbound ||
      child.redundant) {
    return;
  }
  child.state = ChildSa::State::kSwitching;
  child.switch_order = ++switches_;
  child.outbound_op = ctx.InstallSa(IkeSaId(), peer_, child.id,
                                    std::move(*child.held_outbound));
  child.held_outbound.reset();
}

void Tunnels::SwitchHeld(Context& ctx) {
  for (const auto& child : children_) Switch(ctx, *child);
}

bool Tunnels::HandleDatapathDone(Context& ctx, DatapathOpId op,
                                 const absl::Status& status) {
  for (const auto& child : children_) {
    if (child->outbound_op != op) continue;
    child->outbound_op = DatapathOpId();
    OutboundInstalled(ctx, *child, status);
    return true;
  }
  return false;
}

void Tunnels::OutboundInstalled(Context& ctx, ChildSa& child,
                                const absl::Status& status) {
  if (child.state != ChildSa::State::kSwitching) return;
  if (!status.ok()) {
    // A key is installed once, ever: this CHILD_SA cannot be saved. One that
    // the peer made is rekeyed while the old one, which the peer is about to
    // delete, still carries the traffic.
    ctx.Report(Event::Kind::kProtocolError, peer_, child.owner, child.id,
               absl::StrCat("outbound SA not installed: ", status.message()));
    const IkeSaId owner = child.owner;
    const ChildSaId id = child.id;
    child.state = ChildSa::State::kHeld;
    if (owner == IkeSaId()) {
      Remove(ctx, child);
    } else if (!child.initiated && Sends()) {
      child.rekey_at = ctx.now + ctx.Jitter(absl::Seconds(30), 0.5);
      ctx.Notify(Notice::Kind::kRekeyChild, owner, id);
    } else {
      ctx.Notify(Notice::Kind::kDeleteChild, owner, id);
    }
    return;
  }
  child.state = ChildSa::State::kUp;
  for (const auto& other : children_) {
    if (other->state == ChildSa::State::kRetired && other->remove_outbound_at) {
      other->remove_outbound_at =
          std::min(*other->remove_outbound_at, ctx.now + kOutboundLinger);
    }
  }
  if (child.owner != IkeSaId()) {
    ctx.Notify(Notice::Kind::kSending, child.owner, child.id);
  }
  ChildSa* old = Find(child.predecessor);
  ctx.Report(
      old == nullptr ? Event::Kind::kChildSaUp : Event::Kind::kChildSaRekeyed,
      peer_, child.owner, child.id,
      child.cpu ? absl::StrCat(child.suite.ToString(), " cpu ", *child.cpu)
                : child.suite.ToString());
  // RFC 7296 2.8: who rekeys deletes the old one, once it can do without.
  if (old != nullptr && child.initiated && !old->deleting &&
      old->owner != IkeSaId()) {
    ctx.Notify(Notice::Kind::kDeleteChild, old->owner, old->id);
  }
}

void Tunnels::Confirm(Context& ctx, ChildSa& child) {
  if (child.confirmed) return;
  child.confirmed = true;
  leftovers_ = false;
  Switch(ctx, child);
  // Never sent on: it does no other's duty.
  if (child.redundant) return;
  // The peer sends on this one: CHILD_SAs that lost their IKE_SA have done
  // their duty.
  for (const auto& other : children_) {
    if (other->owner == IkeSaId() && other->state != ChildSa::State::kRetired &&
        other.get() != &child) {
      Retire(ctx, *other);
    }
  }
}

void Tunnels::PeerRequested(Context& ctx, IkeSaId owner) {
  for (const auto& child : children_) {
    if (child->owner != owner || child->initiated) continue;
    if (child->state == ChildSa::State::kInstalling) continue;
    Confirm(ctx, *child);
  }
}

void Tunnels::OwnExchangeEnded(Context& ctx, IkeSaId owner) {
  for (const auto& child : children_) {
    if (child->owner != owner || !child->initiated) continue;
    if (child->state == ChildSa::State::kUp) Confirm(ctx, *child);
  }
}

void Tunnels::HandleInboundSeen(Context& ctx, base::Spi spi) {
  ChildSa* child = FindInbound(spi);
  if (child == nullptr || child->state == ChildSa::State::kInstalling ||
      child->state == ChildSa::State::kRetired) {
    return;
  }
  Confirm(ctx, *child);
}

void Tunnels::DeletedByPeer(Context& ctx, ChildSa& child) {
  // First: an older one, that is about to be deleted, may still be there.
  for (const auto& c : children_) {
    if (c->predecessor == child.id && !c->initiated) Switch(ctx, *c);
  }
  Retire(ctx, child);
}

void Tunnels::Retire(Context& ctx, ChildSa& child) {
  if (child.state == ChildSa::State::kRetired) return;
  if (child.state == ChildSa::State::kInstalling) return Remove(ctx, child);
  const bool was_up = child.sends();
  child.state = ChildSa::State::kRetired;
  child.held_outbound.reset();
  child.rekey_at.reset();
  const bool revived = !was_up && Revive(child);
  // The new one has to carry the traffic before the old one goes. What never
  // carried any, as the redundant one of two rekeys, proves nothing about it.
  if ((was_up || revived) && !Sends()) SwitchHeld(ctx);
  child.remove_at = ctx.now + ctx.config.drain_time;
  if (was_up && HasNewer(child)) {
    child.remove_outbound_at =
        ctx.now + std::min(kOutboundLinger, ctx.config.drain_time);
  } else if (was_up && !Sends() && HasLive(child.owner)) {
    // Another is being made. The peer drains, too: until then, but not as long
    // as it may do so, this is still the way.
    child.remove_outbound_at = ctx.now + ctx.config.drain_time / 2;
  } else if (was_up) {
    RemoveOutbound(ctx, child);
  }
  if (Replaced(child)) return;
  ctx.Report(Event::Kind::kChildSaDown, peer_, child.owner, child.id, "");
  // What it was to replace still is to be rekeyed.
  ChildSa* old = Find(child.predecessor);
  if (old != nullptr && old->rekey_at && !Replaced(*old)) {
    old->rekey_at =
        std::min(*old->rekey_at, ctx.now + ctx.Jitter(kAgainAfterFailure, 0.5));
  }
}

bool Tunnels::Revive(const ChildSa& failed) {
  if (failed.predecessor == ChildSaId() || !failed.initiated) return false;
  bool revived = false;
  for (const auto& child : children_) {
    if (child->predecessor == failed.predecessor && !child->initiated &&
        child->state != ChildSa::State::kRetired && child->redundant &&
        !superseded_.contains(child->owner)) {
      child->redundant = false;
      revived = true;
    }
  }
  return revived;
}

void Tunnels::RemoveAll(Context& ctx) {
  while (!children_.empty()) Remove(ctx, *children_.back());
}

void Tunnels::OwnerGone(Context& ctx, IkeSaId owner, bool keep) {
  superseded_.erase(owner);
  const std::vector<ChildSa*> owned = Of(owner);
  // Nothing has to be kept where another IKE_SA's is known to carry traffic.
  keep =
      keep &&
      std::none_of(children_.begin(), children_.end(), [owner](const auto& c) {
        return c->owner != owner && c->owner != IkeSaId() && c->confirmed &&
               c->state == ChildSa::State::kUp;
      });
  // Those that go with it are no way on for each other's traffic.
  for (ChildSa* child : owned) {
    if (!keep) child->held_outbound.reset();
  }
  for (ChildSa* child : owned) {
    if (child->state == ChildSa::State::kInstalling) {
      Remove(ctx, *child);
      continue;
    }
    if (!keep) Retire(ctx, *child);
    child->owner = IkeSaId();
    child->rekey_at.reset();
  }
}

void Tunnels::Supersede(Context& ctx, IkeSaId owner) {
  superseded_.insert(owner);
  const bool another_carries =
      std::any_of(children_.begin(), children_.end(), [this](const auto& c) {
        return c->state == ChildSa::State::kUp && c->owner != IkeSaId() &&
               !superseded_.contains(c->owner);
      });
  for (ChildSa* child : Of(owner)) {
    child->redundant = true;
    if (!another_carries || !child->sends()) continue;
    // The peer ends what it receives on a drain time after our Delete, whose
    // answers may be lost for longer.
    if (HasNewer(*child) && !child->cpu) {
      child->remove_outbound_at = ctx.now + kOutboundLinger;
    } else {
      RemoveOutbound(ctx, *child);
    }
    child->state = ChildSa::State::kHeld;
  }
}

void Tunnels::Inherit(IkeSaId from, IkeSaId to) {
  for (const auto& child : children_) {
    if (child->owner == from) child->owner = to;
  }
}

std::vector<ChildSaId> Tunnels::OlderTwins(ChildSaId id) const {
  std::vector<ChildSaId> twins;
  const auto self = std::find_if(children_.begin(), children_.end(),
                                 [id](const auto& c) { return c->id == id; });
  if (self == children_.end()) return twins;
  const ChildSa& child = **self;
  for (const auto& c : children_) {
    // RFC 9611: those of single CPUs are meant to be alike.
    if (c->owner != child.owner || !(c->id < id) || c->deleting || c->cpu ||
        child.cpu || c->state == ChildSa::State::kRetired ||
        c->state == ChildSa::State::kInstalling || c->id == child.predecessor ||
        c->local != child.local || c->remote != child.remote) {
      continue;
    }
    const bool collided =
        child.predecessor != ChildSaId() && c->predecessor == child.predecessor;
    if (!collided) twins.push_back(c->id);
  }
  return twins;
}

bool Tunnels::Replaced(const ChildSa& child) const {
  return std::any_of(children_.begin(), children_.end(), [&](const auto& c) {
    // Ids rise along a line of rekeys, so this ends.
    if (c->predecessor != child.id || !(child.id < c->id) || c->redundant ||
        c->state == ChildSa::State::kInstalling) {
      return false;
    }
    return c->state != ChildSa::State::kRetired || Replaced(*c);
  });
}

bool Tunnels::SuccessorSends(const ChildSa& child) const {
  return std::any_of(children_.begin(), children_.end(), [&](const auto& c) {
    return c->predecessor == child.id && !c->redundant &&
           c->state == ChildSa::State::kUp;
  });
}

bool Tunnels::IsUp(IkeSaId owner) const {
  return std::any_of(children_.begin(), children_.end(), [&](const auto& c) {
    return c->owner == owner && c->state == ChildSa::State::kUp;
  });
}

bool Tunnels::Sends() const {
  return std::any_of(children_.begin(), children_.end(),
                     [](const auto& c) { return c->sends(); });
}

bool Tunnels::HasNewer(const ChildSa& child) const {
  return std::any_of(children_.begin(), children_.end(), [&](const auto& c) {
    return c->sends() && c->switch_order > child.switch_order;
  });
}

void Tunnels::RemoveOutbound(Context& ctx, ChildSa& child) {
  child.remove_outbound_at.reset();
  if (child.switch_order == 0) return;
  child.switch_order = 0;
  ctx.RemoveSa(peer_, child.id, base::Direction::kOutbound, child.outbound_spi,
               child.remote_address);
}

void Tunnels::Remove(Context& ctx, ChildSa& child) {
  RemoveOutbound(ctx, child);
  ctx.RemoveSa(peer_, child.id, base::Direction::kInbound, child.inbound_spi,
               child.local_address);
  ctx.ReleaseInboundSpi(child.inbound_spi);
  if (child.state != ChildSa::State::kInstalling &&
      child.state != ChildSa::State::kRetired) {
    ctx.Report(Event::Kind::kChildSaDown, peer_, child.owner, child.id, "");
  }
  std::erase_if(children_, [&](const auto& c) { return c.get() == &child; });
}

void Tunnels::HandleExpired(Context& ctx, ChildSa& child, bool hard) {
  if (child.state == ChildSa::State::kRetired) return;
  if (!hard) {
    if (child.owner != IkeSaId() && !Replaced(child)) {
      ctx.Notify(Notice::Kind::kRekeyChild, child.owner, child.id);
    }
    return;
  }
  child.expire_at.reset();
  if (child.owner == IkeSaId()) {
    SwitchHeld(ctx);
    Remove(ctx, child);
    return;
  }
  ctx.Notify(Notice::Kind::kDeleteChild, child.owner, child.id);
}

void Tunnels::CheckSoftLifetime(Context& ctx, ChildSa& child) {
  // Comes again unless the rekey, or the Delete, succeeds.
  child.rekey_at = ctx.now + ctx.Jitter(absl::Seconds(30), 0.5);
  if (!Replaced(child)) return HandleExpired(ctx, child, /*hard=*/false);
  if (child.owner != IkeSaId() && !child.deleting && SuccessorSends(child)) {
    ctx.Notify(Notice::Kind::kDeleteChild, child.owner, child.id);
  }
}

void Tunnels::HandleTimeout(Context& ctx) {
  std::vector<ChildSaId> ids;
  ids.reserve(children_.size());
  for (const auto& child : children_) ids.push_back(child->id);
  for (ChildSaId id : ids) {
    ChildSa* child = Find(id);
    if (child == nullptr) continue;
    if (Due(child->remove_outbound_at, ctx.now)) RemoveOutbound(ctx, *child);
    if (Due(child->remove_at, ctx.now)) {
      Remove(ctx, *child);
      continue;
    }
    if (Due(child->rekey_at, ctx.now)) CheckSoftLifetime(ctx, *child);
    if (Due(child->expire_at, ctx.now)) {
      HandleExpired(ctx, *child, /*hard=*/true);
    }
  }
}

std::optional<base::Instant> Tunnels::NextTimeout() const {
  std::optional<base::Instant> next;
  for (const auto& child : children_) {
    Earliest(&next, child->remove_outbound_at);
    Earliest(&next, child->remove_at);
    if (child->state == ChildSa::State::kRetired) continue;
    Earliest(&next, child->rekey_at);
    Earliest(&next, child->expire_at);
  }
  return next;
}

ChildSa* Tunnels::Find(ChildSaId id) {
  if (id == ChildSaId()) return nullptr;
  for (const auto& child : children_) {
    if (child->id == id) return child.get();
  }
  return nullptr;
}

ChildSa* Tunnels::FindInbound(base::Spi spi) {
  for (const auto& child : children_) {
    if (child->inbound_spi == spi) return child.get();
  }
  return nullptr;
}

ChildSa* Tunnels::FindOutbound(base::Spi spi, IkeSaId owner) {
  for (const auto& child : children_) {
    if (child->outbound_spi == spi &&
        (owner == IkeSaId() || child->owner == owner)) {
      return child.get();
    }
  }
  return nullptr;
}

std::vector<ChildSa*> Tunnels::Of(IkeSaId owner) {
  std::vector<ChildSa*> result;
  for (const auto& child : children_) {
    if (child->owner == owner) result.push_back(child.get());
  }
  return result;
}

bool Tunnels::HasLive(IkeSaId owner) const {
  return std::any_of(children_.begin(), children_.end(), [&](const auto& c) {
    return c->owner == owner && !c->cpu && Live(*c);
  });
}

bool Tunnels::HasLive(IkeSaId owner, uint32_t cpu) const {
  return std::any_of(children_.begin(), children_.end(), [&](const auto& c) {
    return c->owner == owner && c->cpu == cpu && Live(*c);
  });
}

size_t Tunnels::CountCpus(IkeSaId owner) const {
  std::set<uint32_t> cpus;
  for (const auto& c : children_) {
    if (c->owner == owner && c->cpu && Live(*c)) cpus.insert(*c->cpu);
  }
  return cpus.size();
}

}  // namespace espalier::ike
