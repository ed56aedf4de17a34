#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "agent/ike/child_negotiation.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/peer_proof.h"
#include "agent/ike/tasks/ike_auth.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;
using wire::PayloadType;

constexpr absl::Duration kRefusalRemembered = absl::Seconds(10);

class IkeAuthResponder : public Task {
 public:
  explicit IkeAuthResponder(wire::Payloads request)
      : Task(wire::ExchangeKind::kIkeAuth), request_(std::move(request)) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) override;
  Progress HandleDatapath(IkeSa& sa, const absl::Status& status) override;

 private:
  struct Verifying {
    PeerProof proof;
  };
  struct Signing {};
  struct Installing {
    ChildSaId child;
    wire::SaPayload answer;
    ChildPlan plan;  // without keys
  };

  Progress Verify(IkeSa& sa, PeerProof proof, PeerProof::Verdict verdict);
  Progress Prove(IkeSa& sa);
  Progress MakeChild(IkeSa& sa);
  Progress Respond(IkeSa& sa, const wire::Payloads& child);
  Progress Fail(IkeSa& sa, const std::string& why);

  wire::Payloads request_;
  // Until Prove() has told the IKE_SA, nothing keeps the peer from being
  // forgotten while a job runs: then it is found anew, by its id.
  Peer* peer_ = nullptr;
  PeerId peer_id_;
  wire::IdPayload id_;
  wire::AuthPayload auth_;
  std::variant<std::monostate, Verifying, Signing, Installing> state_;
};

Task::Progress IkeAuthResponder::Fail(IkeSa& sa, const std::string& why) {
  ++sa.ctx().counters.authentication_failures;
  sa.ctx().Report(Event::Kind::kAuthenticationFailed,
                  peer_ ? peer_->id : PeerId(), sa.id(), {},
                  absl::StrCat(sa.path().remote.ToString(), ": ", why));
  sa.SendResponse(
      wire::ExchangeType::kIkeAuth,
      {Payload::Of(NotifyPayload::Of(NotifyType::kAuthenticationFailed))});
  // Repeats of the request get the same answer for a while.
  sa.set_stage(IkeSa::Stage::kFailed);
  sa.set_close_at(sa.ctx().now + kRefusalRemembered);
  return Progress::kDone;
}

Task::Progress IkeAuthResponder::Start(IkeSa& sa) {
  const auto* id = wire::Find<wire::IdPayload>(request_, PayloadType::kIdi);
  const Identity identity = FromPayload(*id);
  peer_ = sa.ctx().peers->FindByIdentity(identity);
  if (peer_ == nullptr) {
    return Fail(sa,
                absl::StrCat("no peer with identity ", identity.ToString()));
  }
  peer_id_ = peer_->id;
  if (!Allows(peer_->config->ike_proposals, sa.suite())) {
    return Fail(sa, absl::StrCat(identity.ToString(), " is not allowed ",
                                 sa.suite().cipher.ToString()));
  }
  PeerProof proof;
  const PeerProof::Verdict verdict =
      proof.Begin(sa, *peer_->config, *id, request_);
  return Verify(sa, std::move(proof), verdict);
}

Task::Progress IkeAuthResponder::Verify(IkeSa& sa, PeerProof proof,
                                        PeerProof::Verdict verdict) {
  switch (verdict) {
    case PeerProof::Verdict::kBad:
      return Fail(sa, proof.why());
    case PeerProof::Verdict::kRunJob:
      Await(sa.RunCrypto(proof.NextJob()));
      state_ = Verifying{std::move(proof)};
      return Progress::kRunning;
    case PeerProof::Verdict::kGood:
      break;
  }
  sa.set_peer_key(proof.key());
  return Prove(sa);
}

Task::Progress IkeAuthResponder::Prove(IkeSa& sa) {
  sa.set_peer(peer_);
  peer_->attempts.push_back(sa.id());
  id_ = ToPayload(peer_->LocalIdentity(sa.ctx().config));
  base::Bytes octets =
      SignedOctets(*sa.auth_material(), sa.suite().prf, false, id_);
  if (const auto* psk = std::get_if<PskAuth>(&peer_->config->auth)) {
    const base::SecretBytes auth =
        SharedKeyAuth(sa.suite().prf, psk->secret.span(), octets);
    auth_ = {.method = wire::AuthMethod::kSharedKey,
             .data = base::Bytes(auth.span().begin(), auth.span().end())};
    return MakeChild(sa);
  }
  absl::StatusOr<crypto::Sign> job =
      SigningJob(sa.ctx().config.private_key, sa.auth_material()->peer_hashes,
                 std::move(octets));
  if (!job.ok()) return Fail(sa, std::string(job.status().message()));
  Await(sa.RunCrypto(*std::move(job)));
  state_ = Signing{};
  return Progress::kRunning;
}

Task::Progress IkeAuthResponder::HandleCrypto(IkeSa& sa,
                                              crypto::Result result) {
  // The owner may have removed the peer meanwhile.
  peer_ = sa.ctx().peers->Find(peer_id_);
  if (peer_ == nullptr || peer_->removed) {
    return Fail(sa, "the peer was removed");
  }
  if (auto* verifying = std::get_if<Verifying>(&state_)) {
    const PeerProof::Verdict verdict = verifying->proof.HandleResult(result);
    PeerProof proof = std::move(verifying->proof);
    return Verify(sa, std::move(proof), verdict);
  }
  crypto::Signature* signature =
      result.ok() ? std::get_if<crypto::Signature>(&*result) : nullptr;
  if (signature == nullptr) {
    return Fail(sa,
                absl::StrCat("could not sign: ", result.status().message()));
  }
  auth_ = {.method = wire::AuthMethod::kDigitalSignature,
           .data = wire::EncodeDigitalSignature(
               {.algorithm_identifier = signature->algorithm_identifier,
                .signature = signature->signature})};
  return MakeChild(sa);
}

Task::Progress IkeAuthResponder::MakeChild(IkeSa& sa) {
  if (wire::Find<wire::SaPayload>(request_) == nullptr) {
    return Respond(sa, {});  // childless (RFC 6023)
  }
  InboundSpi inbound = sa.ctx().NewInboundSpi(peer_->id);
  auto outcome = AnswerChild(sa, request_, inbound.value(), /*groups=*/false);
  if (const auto* refusal = std::get_if<NotifyType>(&outcome)) {
    ReportChildRefused(sa, *refusal, /*by_us=*/true);
    return Respond(sa, {Payload::Of(NotifyPayload::Of(*refusal))});
  }
  auto& child = std::get<NegotiatedChild>(outcome);
  const AuthMaterial& material = *sa.auth_material();
  child.plan.keys =
      DeriveChildKeys(sa.suite().prf, sa.keys().sk_d.span(), {},
                      material.nonce_i, material.nonce_r, child.plan.suite);
  DatapathOpId op;
  const ChildSa& made = peer_->tunnels.Begin(sa.ctx(), sa.id(), child.plan,
                                             peer_->config->reqid, &op);
  inbound.Take();
  state_ = Installing{.child = made.id,
                      .answer = std::move(child.answer),
                      .plan = std::move(child.plan)};
  Await(op);
  return Progress::kRunning;
}

Task::Progress IkeAuthResponder::HandleDatapath(IkeSa& sa,
                                                const absl::Status& status) {
  auto* installing = std::get_if<Installing>(&state_);
  ChildSa* child =
      installing == nullptr ? nullptr : peer_->tunnels.Find(installing->child);
  if (child == nullptr || !status.ok()) {
    sa.ctx().Report(
        Event::Kind::kProtocolError, peer_->id, sa.id(), {},
        absl::StrCat("inbound SA not installed: ", status.message()));
    if (child != nullptr) peer_->tunnels.Abort(sa.ctx(), child->id);
    return Respond(
        sa, {Payload::Of(NotifyPayload::Of(NotifyType::kTemporaryFailure))});
  }
  wire::Payloads payloads;
  payloads.push_back(Payload::Of(std::move(installing->answer)));
  AppendChildAnswer(sa, installing->plan, request_, &payloads);
  NoteCpuSas(sa, request_);
  const ChildSaId id = child->id;
  const Progress progress = Respond(sa, payloads);
  child = peer_->tunnels.Find(id);
  if (child != nullptr && !sa.dead()) {
    peer_->tunnels.Complete(sa.ctx(), *child);
  }
  return progress;
}

Task::Progress IkeAuthResponder::Respond(IkeSa& sa,
                                         const wire::Payloads& child) {
  wire::Payloads payloads;
  payloads.push_back({PayloadType::kIdr, id_});
  if (auth_.method == wire::AuthMethod::kDigitalSignature) {
    payloads.push_back(Payload::Of(wire::CertPayload{
        .data = sa.ctx().config.private_key->public_key()->der()}));
  }
  payloads.push_back(Payload::Of(std::move(auth_)));
  payloads.insert(payloads.end(), child.begin(), child.end());
  sa.SendResponse(wire::ExchangeType::kIkeAuth, payloads);
  if (sa.dead()) return Progress::kDone;
  sa.Establish(wire::FindNotify(request_, NotifyType::kInitialContact) !=
               nullptr);
  return Progress::kDone;
}

}  // namespace

std::unique_ptr<Task> MakeIkeAuthResponder(const wire::Payloads& request) {
  return std::make_unique<IkeAuthResponder>(request);
}

}  // namespace espalier::ike
