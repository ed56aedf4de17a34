#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "agent/crypto/key_exchange.h"
#include "agent/ike/child_negotiation.h"
#include "agent/ike/collisions.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/tasks/create_child.h"
#include "agent/ike/tasks/informational.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;

class CreateChildInitiator : public Task {
 public:
  CreateChildInitiator(wire::ExchangeKind kind, ChildSaId rekeyed,
                       std::optional<uint32_t> cpu)
      : Task(kind), rekeyed_(rekeyed), cpu_(cpu) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleResponse(IkeSa& sa, const wire::Payloads& payloads) override;
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) override;
  Progress HandleDatapath(IkeSa& sa, const absl::Status& status) override;

 private:
  struct Generating {};
  struct Asked {
    std::shared_ptr<crypto::KeyExchangeKey> key;
  };
  struct Agreed {
    NegotiatedChild child;
    base::Bytes nonce_r;
  };
  struct Installing {
    ChildSaId child;
  };

  ChildSa* Old(IkeSa& sa) const { return sa.peer()->tunnels.Find(rekeyed_); }
  Progress Ask(IkeSa& sa, crypto::KeyExchangeGenerated key);
  Progress Refused(IkeSa& sa, const NotifyPayload& error);
  Progress Install(IkeSa& sa, NegotiatedChild child, base::ByteSpan nonce_r,
                   base::ByteSpan secret);
  // The peer has a CHILD_SA that we cannot use.
  Progress Undo(IkeSa& sa, const std::string& why, InboundSpi spi);
  Progress End(IkeSa& sa);

  // Our exchange failed for a reason that may pass, or may not.
  Wish Again() const;

  const ChildSaId rekeyed_;
  std::optional<uint32_t> cpu_;  // RFC 9611
  std::variant<Generating, Asked, Agreed, Installing> state_;
  std::optional<crypto::Group> group_;
  base::Bytes nonce_;
  base::Bytes lower_nonce_;
  InboundSpi inbound_;
  int rounds_ = 0;
};

// So long the peer may not have a CHILD_SA that it asked for: our answer was
// lost and its request is repeated (RFC 7296 2.1). Proof that it has may never
// come where no traffic passes, so afterwards a rekey is tried; a peer that has
// not got it yet answers CHILD_SA_NOT_FOUND, and is asked again later.
constexpr absl::Duration kPeerMayStillAsk = absl::Seconds(5);

// Until a CPU's own CHILD_SA is asked for again.
constexpr absl::Duration kCpuRetry = absl::Seconds(20);

std::optional<crypto::Group> PreferredGroup(const PeerConfig& config) {
  for (const ChildProposal& proposal : config.child_proposals) {
    if (!proposal.groups.empty()) return proposal.groups.front();
  }
  return std::nullopt;
}

bool Offers(const PeerConfig& config, uint16_t group) {
  return std::any_of(config.child_proposals.begin(),
                     config.child_proposals.end(), [&](const ChildProposal& p) {
                       return std::any_of(
                           p.groups.begin(), p.groups.end(), [&](auto g) {
                             return static_cast<uint16_t>(g) == group;
                           });
                     });
}

Task::Progress CreateChildInitiator::Start(IkeSa& sa) {
  if (rekeyed_ != ChildSaId()) {
    ChildSa* old = Old(sa);
    if (old == nullptr || old->owner != sa.id() || old->deleting ||
        old->state == ChildSa::State::kRetired ||
        sa.peer()->tunnels.Replaced(*old) || old->redundant) {
      return Progress::kDone;
    }
    if (!old->initiated && !old->confirmed &&
        sa.ctx().now < old->established + kPeerMayStillAsk) {
      sa.RetryLater(Wish::Kind::kRekeyChild, rekeyed_);
      return Progress::kDone;
    }
    old->rekeying = true;
    cpu_ = old->cpu;
  } else if (cpu_ ? !sa.peer()->tunnels.HasLive(sa.id()) ||
                        sa.peer()->tunnels.HasLive(sa.id(), *cpu_)
                  : sa.peer()->tunnels.HasLive(sa.id())) {
    // The peer was first.
    return Progress::kDone;
  }
  nonce_ = sa.ctx().NewNonce();
  group_ = PreferredGroup(*sa.peer()->config);
  if (!group_) return Ask(sa, {});
  Await(sa.RunCrypto(crypto::GenerateKeyExchange{*group_}));
  return Progress::kRunning;
}

Task::Progress CreateChildInitiator::Ask(IkeSa& sa,
                                         crypto::KeyExchangeGenerated key) {
  const PeerConfig& config = *sa.peer()->config;
  wire::Payloads payloads;
  if (rekeyed_ != ChildSaId()) {
    const ChildSa* old = Old(sa);
    // Deleted while the key was being made.
    if (old == nullptr || old->state == ChildSa::State::kRetired) {
      return End(sa);
    }
    NotifyPayload rekey =
        NotifyPayload::OfEsp(NotifyType::kRekeySa, old->inbound_spi);
    rekey.protocol = ToWire(old->suite.protocol);
    payloads.push_back(Payload::Of(std::move(rekey)));
  }
  inbound_ = sa.ctx().NewInboundSpi(sa.peer_id());
  wire::Payloads between;
  between.push_back(Payload::Of(wire::NoncePayload{.nonce = nonce_}));
  if (group_) {
    between.push_back(
        Payload::Of(wire::KePayload{.group = static_cast<uint16_t>(*group_),
                                    .data = std::move(key.public_value)}));
  }
  AppendChildOffer(config, inbound_.value(), /*groups=*/true, cpu_, &payloads,
                   between);
  state_ = Asked{std::move(key.key)};
  sa.SendRequest(wire::ExchangeType::kCreateChildSa, payloads);
  return Progress::kRunning;
}

Task::Progress CreateChildInitiator::End(IkeSa& sa) {
  if (ChildSa* old = Old(sa)) old->rekeying = false;
  if (cpu_ && rekeyed_ == ChildSaId() &&
      !sa.peer()->tunnels.HasLive(sa.id(), *cpu_)) {
    // However it came to that, not at once again.
    sa.peer()->cpus.retry_at = sa.ctx().now + sa.ctx().Jitter(kCpuRetry, 0.5);
  }
  return Progress::kDone;
}

Wish CreateChildInitiator::Again() const {
  if (rekeyed_ != ChildSaId()) return {Wish::Kind::kRekeyChild, rekeyed_};
  if (cpu_) return {Wish::Kind::kCreateCpuChild, {}, *cpu_};
  return {Wish::Kind::kCreateChild, {}};
}

Task::Progress CreateChildInitiator::HandleResponse(
    IkeSa& sa, const wire::Payloads& payloads) {
  auto* asked = std::get_if<Asked>(&state_);
  if (asked == nullptr) return Progress::kRunning;
  if (wire::IsRefusal(kind(), payloads)) {
    return Refused(sa, *wire::FindError(payloads));
  }
  const auto* ke = wire::Find<wire::KePayload>(payloads);
  const auto* nonce = wire::Find<wire::NoncePayload>(payloads);
  std::optional<NegotiatedChild> child =
      AcceptChildAnswer(sa, payloads, inbound_.value(), /*groups=*/true);
  if (!child || nonce == nullptr || child->group != group_) {
    return Undo(sa, "the answer is no subset of our offer",
                std::move(inbound_));
  }
  NoteCpuSas(sa, payloads);
  lower_nonce_ = std::min(nonce_, nonce->nonce);
  if (!group_) return Install(sa, *std::move(child), nonce->nonce, {});
  if (ke == nullptr || ke->group != static_cast<uint16_t>(*group_) ||
      ke->data.size() != crypto::PublicValueSize(*group_)) {
    return Undo(sa, "the answer's KE payload is not of our group",
                std::move(inbound_));
  }
  Await(sa.RunCrypto(crypto::ComputeSharedSecret{.key = std::move(asked->key),
                                                 .peer_public = ke->data}));
  state_ = Agreed{*std::move(child), nonce->nonce};
  return Progress::kRunning;
}

Task::Progress CreateChildInitiator::Refused(IkeSa& sa,
                                             const NotifyPayload& error) {
  const PeerConfig& config = *sa.peer()->config;
  const std::optional<uint16_t> wanted =
      error.type == NotifyType::kInvalidKePayload ? error.DataU16()
                                                  : std::nullopt;
  if (wanted && ++rounds_ <= 2 && Offers(config, *wanted) &&
      group_ != static_cast<crypto::Group>(*wanted)) {
    // RFC 7296 1.3: a new request with the group that is wanted.
    group_ = static_cast<crypto::Group>(*wanted);
    state_ = Generating{};
    Await(sa.RunCrypto(crypto::GenerateKeyExchange{*group_}));
    return Progress::kRunning;
  }
  ChildSa* old = Old(sa);
  const bool replaced = old == nullptr || sa.peer()->tunnels.Replaced(*old) ||
                        old->state == ChildSa::State::kRetired;
  if (rekeyed_ != ChildSaId() && replaced) return End(sa);
  if (error.type == NotifyType::kTemporaryFailure) {
    sa.RetryLater(Again());
    return End(sa);
  }
  if (cpu_ && rekeyed_ == ChildSaId()) {
    // RFC 9611 5.2: TS_MAX_QUEUE ends it for these selectors; so does a peer
    // that has no room at all. The fallback SA carries the traffic.
    sa.cpu_sas_exhausted = error.type == NotifyType::kTsMaxQueue ||
                           error.type == NotifyType::kNoAdditionalSas;
    return End(sa);
  }
  ReportChildRefused(sa, error.type, /*by_us=*/false);
  if (error.type == NotifyType::kNoAdditionalSas) {
    // RFC 7296 1.3, 4: never on this IKE_SA; a new one brings its own.
    if (old != nullptr) old->rekey_at.reset();
    sa.ctx().Notify(Notice::Kind::kReestablish, sa.id());
    return End(sa);
  }
  if (error.type == NotifyType::kChildSaNotFound && old != nullptr &&
      !old->initiated && !old->confirmed) {
    // The peer may still be asking for it, our answer being lost: it is not
    // known yet, which is not gone.
    old->rekey_at = sa.ctx().now + sa.ctx().Jitter(absl::Seconds(10), 0.5);
    return End(sa);
  }
  if (error.type == NotifyType::kChildSaNotFound && old != nullptr) {
    // RFC 7296 2.25: the peer has lost it; a new one takes its place.
    sa.peer()->tunnels.Retire(sa.ctx(), *old);
    sa.Continue(MakeCreateChild(ChildSaId()));
    return End(sa);
  }
  if (rekeyed_ == ChildSaId()) {
    sa.ctx().Notify(Notice::Kind::kChildMissing, sa.id());
  }
  return End(sa);
}

Task::Progress CreateChildInitiator::Undo(IkeSa& sa, const std::string& why,
                                          InboundSpi spi) {
  sa.ctx().Report(Event::Kind::kProtocolError, sa.peer_id(), sa.id(), {},
                  absl::StrCat("new CHILD_SA given up: ", why));
  sa.Continue(MakeDeleteSpi(ProtocolOf(*sa.peer()->config), std::move(spi)));
  return End(sa);
}

Task::Progress CreateChildInitiator::HandleCrypto(IkeSa& sa,
                                                  crypto::Result result) {
  if (std::holds_alternative<Generating>(state_)) {
    auto* key = result.ok()
                    ? std::get_if<crypto::KeyExchangeGenerated>(&*result)
                    : nullptr;
    if (key == nullptr) return End(sa);
    return Ask(sa, std::move(*key));
  }
  auto* agreed = std::get_if<Agreed>(&state_);
  if (agreed == nullptr) return End(sa);
  auto* secret =
      result.ok() ? std::get_if<crypto::SharedSecret>(&*result) : nullptr;
  if (secret == nullptr) {
    return Undo(sa, "key exchange failed", std::move(inbound_));
  }
  Agreed done = std::move(*agreed);
  return Install(sa, std::move(done.child), done.nonce_r,
                 secret->secret.span());
}

Task::Progress CreateChildInitiator::Install(IkeSa& sa, NegotiatedChild child,
                                             base::ByteSpan nonce_r,
                                             base::ByteSpan secret) {
  child.plan.keys = DeriveChildKeys(sa.suite().prf, sa.keys().sk_d.span(),
                                    secret, nonce_, nonce_r, child.plan.suite);
  child.plan.predecessor = rekeyed_;
  child.plan.cpu = cpu_;
  DatapathOpId op;
  const ChildSa& made = sa.peer()->tunnels.Begin(sa.ctx(), sa.id(), child.plan,
                                                 sa.peer()->config->reqid, &op);
  inbound_.Take();
  state_ = Installing{made.id};
  Await(op);
  return Progress::kRunning;
}

Task::Progress CreateChildInitiator::HandleDatapath(
    IkeSa& sa, const absl::Status& status) {
  const auto* installing = std::get_if<Installing>(&state_);
  Tunnels& tunnels = sa.peer()->tunnels;
  ChildSa* child =
      installing == nullptr ? nullptr : tunnels.Find(installing->child);
  if (child == nullptr) return End(sa);
  if (!status.ok()) {
    return Undo(sa,
                absl::StrCat("inbound SA not installed: ", status.message()),
                tunnels.AbortKeepingSpi(sa.ctx(), *child));
  }
  if (DeletedEarly(sa, *child)) {
    tunnels.Abort(sa.ctx(), child->id);
    if (!tunnels.HasLive(sa.id())) {
      sa.ctx().Notify(Notice::Kind::kChildMissing, sa.id());
    }
    return End(sa);
  }
  SettleChildCollision(sa, *child, rekeyed_, lower_nonce_);
  tunnels.Complete(sa.ctx(), *child);
  return End(sa);
}

}  // namespace

std::unique_ptr<Task> MakeCreateChild(ChildSaId rekeyed) {
  return std::make_unique<CreateChildInitiator>(
      rekeyed == ChildSaId() ? wire::ExchangeKind::kCreateChildSa
                             : wire::ExchangeKind::kRekeyChildSa,
      rekeyed, /*cpu=*/std::nullopt);
}

std::unique_ptr<Task> MakeCreateCpuChild(uint32_t cpu) {
  return std::make_unique<CreateChildInitiator>(
      wire::ExchangeKind::kCreateChildSa, ChildSaId(), cpu);
}

}  // namespace espalier::ike
