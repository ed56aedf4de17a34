#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "agent/crypto/key_exchange.h"
#include "agent/ike/child_negotiation.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/tasks/create_child.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;

class CreateChildResponder : public Task {
 public:
  CreateChildResponder(wire::ExchangeKind kind, wire::Payloads request,
                       ChildSaId rekeyed)
      : Task(kind), rekeyed_(rekeyed), request_(std::move(request)) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) override;
  Progress HandleDatapath(IkeSa& sa, const absl::Status& status) override;

 private:
  Progress Refuse(IkeSa& sa, NotifyPayload notify);
  Progress Install(IkeSa& sa, base::ByteSpan secret);
  const base::Bytes& peer_nonce() const {
    return wire::Find<wire::NoncePayload>(request_)->nonce;
  }

  const ChildSaId rekeyed_;
  wire::Payloads request_;
  NegotiatedChild child_;
  InboundSpi inbound_;
  base::Bytes nonce_;
  base::Bytes public_value_;  // ours, once made
  ChildSaId made_;
};

Task::Progress CreateChildResponder::Refuse(IkeSa& sa, NotifyPayload notify) {
  sa.SendResponse(wire::ExchangeType::kCreateChildSa,
                  {Payload::Of(std::move(notify))});
  return Progress::kDone;
}

Task::Progress CreateChildResponder::Start(IkeSa& sa) {
  nonce_ = sa.ctx().NewNonce();
  inbound_ = sa.ctx().NewInboundSpi(sa.peer_id());
  auto outcome = AnswerChild(sa, request_, inbound_.value(), /*groups=*/true);
  if (const auto* refusal = std::get_if<NotifyType>(&outcome)) {
    ReportChildRefused(sa, *refusal, /*by_us=*/true);
    return Refuse(sa, NotifyPayload::Of(*refusal));
  }
  child_ = std::move(std::get<NegotiatedChild>(outcome));
  if (rekeyed_ == ChildSaId()) {
    const CpuAnswer answer = AnswerCpu(sa, request_);
    if (answer.refusal) return Refuse(sa, NotifyPayload::Of(*answer.refusal));
    child_.plan.cpu = answer.cpu;
  } else if (const ChildSa* old = sa.peer()->tunnels.Find(rekeyed_)) {
    child_.plan.cpu = old->cpu;
  }
  if (!child_.group) return Install(sa, {});
  const auto* ke = wire::Find<wire::KePayload>(request_);
  const uint16_t group = static_cast<uint16_t>(*child_.group);
  if (ke == nullptr || ke->group != group) {
    return Refuse(sa, NotifyPayload::InvalidKe(group));
  }
  if (ke->data.size() != crypto::PublicValueSize(*child_.group)) {
    return Refuse(sa, NotifyPayload::Of(NotifyType::kInvalidSyntax));
  }
  Await(sa.RunCrypto(crypto::GenerateKeyExchange{*child_.group}));
  return Progress::kRunning;
}

Task::Progress CreateChildResponder::HandleCrypto(IkeSa& sa,
                                                  crypto::Result result) {
  if (!result.ok()) {
    // A public value that is none is the peer's fault, anything else ours.
    const bool invalid = absl::IsInvalidArgument(result.status());
    return Refuse(sa,
                  NotifyPayload::Of(invalid ? NotifyType::kInvalidSyntax
                                            : NotifyType::kTemporaryFailure));
  }
  if (auto* key = std::get_if<crypto::KeyExchangeGenerated>(&*result)) {
    public_value_ = std::move(key->public_value);
    Await(sa.RunCrypto(crypto::ComputeSharedSecret{
        .key = std::move(key->key),
        .peer_public = wire::Find<wire::KePayload>(request_)->data}));
    return Progress::kRunning;
  }
  if (auto* secret = std::get_if<crypto::SharedSecret>(&*result)) {
    return Install(sa, secret->secret.span());
  }
  return Refuse(sa, NotifyPayload::Of(NotifyType::kTemporaryFailure));
}

Task::Progress CreateChildResponder::Install(IkeSa& sa, base::ByteSpan secret) {
  // Rekeyed or given up while the arithmetic ran: what was made here now would
  // belong to nobody.
  if (sa.stage() != IkeSa::Stage::kEstablished) {
    return Refuse(sa, NotifyPayload::Of(NotifyType::kTemporaryFailure));
  }
  // Our own rekey of it was quicker than the arithmetic: only two that know of
  // each other can be told apart by their nonces (2.8.1).
  if (rekeyed_ != ChildSaId()) {
    const ChildSa* old = sa.peer()->tunnels.Find(rekeyed_);
    if (old == nullptr || old->deleting || sa.peer()->tunnels.Replaced(*old) ||
        old->state == ChildSa::State::kRetired) {
      return Refuse(sa, NotifyPayload::Of(NotifyType::kTemporaryFailure));
    }
  }
  ChildPlan& plan = child_.plan;
  plan.keys = DeriveChildKeys(sa.suite().prf, sa.keys().sk_d.span(), secret,
                              peer_nonce(), nonce_, plan.suite);
  plan.predecessor = rekeyed_;
  DatapathOpId op;
  ChildSa& made = sa.peer()->tunnels.Begin(sa.ctx(), sa.id(), plan,
                                           sa.peer()->config->reqid, &op);
  plan.keys = {};
  inbound_.Take();
  made.lower_nonce = std::min(peer_nonce(), nonce_);
  made_ = made.id;
  Await(op);
  return Progress::kRunning;
}

Task::Progress CreateChildResponder::HandleDatapath(
    IkeSa& sa, const absl::Status& status) {
  Tunnels& tunnels = sa.peer()->tunnels;
  ChildSa* child = tunnels.Find(made_);
  if (child == nullptr || !status.ok()) {
    sa.ctx().Report(
        Event::Kind::kProtocolError, sa.peer_id(), sa.id(), made_,
        absl::StrCat("inbound SA not installed: ", status.message()));
    if (child != nullptr) tunnels.Abort(sa.ctx(), made_);
    return Refuse(sa, NotifyPayload::Of(NotifyType::kTemporaryFailure));
  }
  wire::Payloads payloads;
  payloads.push_back(Payload::Of(std::move(child_.answer)));
  payloads.push_back(Payload::Of(wire::NoncePayload{.nonce = nonce_}));
  if (child_.group) {
    payloads.push_back(Payload::Of(
        wire::KePayload{.group = static_cast<uint16_t>(*child_.group),
                        .data = std::move(public_value_)}));
  }
  AppendChildAnswer(sa, child_.plan, request_, &payloads);
  NoteCpuSas(sa, request_);
  sa.SendResponse(wire::ExchangeType::kCreateChildSa, payloads);
  if (!sa.dead()) tunnels.Complete(sa.ctx(), *child);
  return Progress::kDone;
}

}  // namespace

std::unique_ptr<Task> MakeCreateChildResponder(wire::ExchangeKind kind,
                                               const wire::Payloads& request,
                                               ChildSaId rekeyed) {
  return std::make_unique<CreateChildResponder>(kind, request, rekeyed);
}

}  // namespace espalier::ike
