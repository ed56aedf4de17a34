#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "agent/ike/child_negotiation.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/tasks/create_child.h"
#include "agent/ike/tasks/key_exchange_responder.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;

class CreateChildResponder : public KeyExchangeResponder {
 public:
  CreateChildResponder(wire::ExchangeKind kind, wire::Payloads request,
                       ChildSaId rekeyed)
      : KeyExchangeResponder(kind, std::move(request)), rekeyed_(rekeyed) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleDatapath(IkeSa& sa, const absl::Status& status) override;

 private:
  // Without a key exchange of the child's own, of no secret.
  Progress HaveSecret(IkeSa& sa, base::ByteSpan secret) override;

  const ChildSaId rekeyed_;
  NegotiatedChild child_;
  InboundSpi inbound_;
  base::Bytes nonce_;
  ChildSaId made_;
};

Task::Progress CreateChildResponder::Start(IkeSa& sa) {
  nonce_ = sa.ctx().NewNonce();
  inbound_ = sa.ctx().NewInboundSpi(sa.peer_id());
  auto outcome = AnswerChild(sa, request(), inbound_.value(), /*groups=*/true);
  if (const auto* refusal = std::get_if<NotifyType>(&outcome)) {
    ReportChildRefused(sa, *refusal, /*by_us=*/true);
    return Refuse(sa, NotifyPayload::Of(*refusal));
  }
  child_ = std::move(std::get<NegotiatedChild>(outcome));
  if (rekeyed_ == ChildSaId()) {
    const CpuAnswer answer = AnswerCpu(sa, request());
    if (answer.refusal) return Refuse(sa, NotifyPayload::Of(*answer.refusal));
    child_.plan.cpu = answer.cpu;
  } else if (const ChildSa* old = sa.peer()->tunnels.Find(rekeyed_)) {
    child_.plan.cpu = old->cpu;
  }
  if (!child_.group) return HaveSecret(sa, {});
  return BeginKeyExchange(sa, *child_.group);
}

Task::Progress CreateChildResponder::HaveSecret(IkeSa& sa,
                                                base::ByteSpan secret) {
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
  if (child_.group) payloads.push_back(TakeKe());
  AppendChildAnswer(sa, child_.plan, request(), &payloads);
  NoteCpuSas(sa, request());
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
