#include "agent/ike/collisions.h"

#include <algorithm>

namespace espalier::ike {
namespace {

using wire::ExchangeKind;
using wire::NotifyPayload;
using wire::NotifyType;

NotifyPayload TemporaryFailure() {
  return NotifyPayload::Of(NotifyType::kTemporaryFailure);
}

// An exchange of ours that creates, rekeys or closes a CHILD_SA.
bool ChangesChild(const IkeSa& sa) {
  if (!sa.own_task() || !sa.current()) return false;
  switch (sa.current()->kind) {
    case Wish::Kind::kDeleteChild:
    case Wish::Kind::kRekeyChild:
    case Wish::Kind::kCreateChild:
    case Wish::Kind::kCreateCpuChild:
      return true;
    case Wish::Kind::kDeleteIke:
    case Wish::Kind::kRekeyIke:
    case Wish::Kind::kLiveness:
      return false;
  }
  return false;
}

std::optional<NotifyPayload> RekeyChildCollision(IkeSa& sa,
                                                 const wire::Payloads& request,
                                                 ChildSaId* rekeyed) {
  const NotifyPayload* notify = wire::FindNotify(request, NotifyType::kRekeySa);
  const std::optional<base::Spi> spi =
      notify == nullptr ? std::nullopt : notify->EspSpi();
  // The peer names what it receives on: our outbound SA.
  const ChildSa* old = spi ? sa.peer()->tunnels.FindOutbound(*spi) : nullptr;
  if (old == nullptr || old->state == ChildSa::State::kRetired ||
      notify->protocol != ToWire(old->suite.protocol)) {
    NotifyPayload not_found = NotifyPayload::Of(NotifyType::kChildSaNotFound);
    if (notify != nullptr) {
      not_found.protocol = notify->protocol;
      not_found.spi = notify->spi;
    }
    return not_found;
  }
  // 2.25.1: being closed, or already replaced and about to be.
  // Or still the predecessor's of this IKE_SA, while both ends rekey that.
  if (old->owner != sa.id() || old->deleting ||
      sa.peer()->tunnels.Replaced(*old) ||
      old->state == ChildSa::State::kInstalling) {
    return TemporaryFailure();
  }
  // Rekeyed by us at the same time: as usual, then SettleChildCollision.
  *rekeyed = old->id;
  return std::nullopt;
}

}  // namespace

std::optional<NotifyPayload> Collision(IkeSa& sa, ExchangeKind kind,
                                       const wire::Payloads& request,
                                       ChildSaId* rekeyed) {
  const bool rekeying_ike =
      sa.own_task() && sa.own_task()->kind() == ExchangeKind::kRekeyIkeSa;
  switch (kind) {
    case ExchangeKind::kCreateChildSa:
      if (rekeying_ike || sa.peer_rekey) return TemporaryFailure();
      return std::nullopt;
    case ExchangeKind::kRekeyChildSa:
      if (rekeying_ike || sa.peer_rekey) return TemporaryFailure();
      return RekeyChildCollision(sa, request, rekeyed);
    case ExchangeKind::kRekeyIkeSa:
      if (ChangesChild(sa) || sa.peer_rekey) return TemporaryFailure();
      return std::nullopt;
    case ExchangeKind::kIkeSaInit:
    case ExchangeKind::kIkeAuth:
    case ExchangeKind::kInformational:
      return std::nullopt;
  }
  return std::nullopt;
}

bool DeletedEarly(const IkeSa& sa, const ChildSa& child) {
  return std::find(sa.early_deletes.begin(), sa.early_deletes.end(),
                   child.outbound_spi) != sa.early_deletes.end();
}

void SettleChildCollision(IkeSa& sa, ChildSa& child, ChildSaId old,
                          const base::Bytes& lower_nonce) {
  if (old == ChildSaId()) return;
  bool redundant = false, compared = false;
  const Tunnels& tunnels = sa.peer()->tunnels;
  for (const auto& other : tunnels.all()) {
    if (other.get() == &child || other->predecessor != old ||
        other->initiated) {
      continue;
    }
    // The peer has deleted it, with nothing in its place: it is no rival.
    if (other->state == ChildSa::State::kRetired && !tunnels.Replaced(*other)) {
      continue;
    }
    compared = true;
    if (lower_nonce < other->lower_nonce) {
      redundant = true;
    } else if (other->state != ChildSa::State::kRetired) {
      other->redundant = true;
    }
  }
  if (!compared) {
    // Our answer came so late that what the peer made of the old one has been
    // rekeyed itself, and is gone: its line stands.
    const ChildSa* replaced = sa.peer()->tunnels.Find(old);
    const bool line_went_on =
        replaced == nullptr || (replaced->state == ChildSa::State::kRetired &&
                                tunnels.Replaced(*replaced));
    redundant =
        line_went_on && std::any_of(tunnels.all().begin(), tunnels.all().end(),
                                    [&](const auto& c) {
                                      return c.get() != &child &&
                                             c->owner == sa.id() && c->sends();
                                    });
  }
  if (!redundant) return;
  // Ours: the peer's rekey stands, and the peer deletes the old one.
  child.redundant = true;
  child.predecessor = ChildSaId();
  sa.Want(Wish::Kind::kDeleteChild, child.id);
}

}  // namespace espalier::ike
