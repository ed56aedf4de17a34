#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "agent/ike/child_negotiation.h"
#include "agent/ike/collisions.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/peer_proof.h"
#include "agent/ike/tasks/ike_auth.h"
#include "agent/ike/tasks/informational.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;
using wire::PayloadType;

class IkeAuthInitiator : public Task {
 public:
  IkeAuthInitiator() : Task(wire::ExchangeKind::kIkeAuth) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleResponse(IkeSa& sa, const wire::Payloads& payloads) override;
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) override;
  Progress HandleDatapath(IkeSa& sa, const absl::Status& status) override;

 private:
  struct Signing {};
  struct Asked {};
  struct Verifying {
    PeerProof proof;
    wire::Payloads response;
  };
  struct Installing {
    ChildSaId child;
  };

  void Ask(IkeSa& sa, wire::AuthPayload auth);
  Progress Verify(IkeSa& sa, PeerProof proof, PeerProof::Verdict verdict,
                  wire::Payloads response);
  Progress Authenticated(IkeSa& sa, const wire::Payloads& response);
  Progress Fail(IkeSa& sa, const std::string& why, bool tell_peer);

  std::variant<Signing, Asked, Verifying, Installing> state_;
  wire::IdPayload id_;
  InboundSpi inbound_;
};

Task::Progress IkeAuthInitiator::Start(IkeSa& sa) {
  Peer& peer = *sa.peer();
  id_ = ToPayload(peer.LocalIdentity(sa.ctx().config));
  base::Bytes octets =
      SignedOctets(*sa.auth_material(), sa.suite().prf, true, id_);
  if (const auto* psk = std::get_if<PskAuth>(&peer.config->auth)) {
    const base::SecretBytes auth =
        SharedKeyAuth(sa.suite().prf, psk->secret.span(), octets);
    Ask(sa, {.method = wire::AuthMethod::kSharedKey,
             .data = base::Bytes(auth.span().begin(), auth.span().end())});
    return Progress::kRunning;
  }
  absl::StatusOr<crypto::Sign> job =
      SigningJob(sa.ctx().config.private_key, sa.auth_material()->peer_hashes,
                 std::move(octets));
  if (!job.ok()) {
    return Fail(sa, std::string(job.status().message()), false);
  }
  Await(sa.RunCrypto(*std::move(job)));
  return Progress::kRunning;
}

void IkeAuthInitiator::Ask(IkeSa& sa, wire::AuthPayload auth) {
  const PeerConfig& config = *sa.peer()->config;
  wire::Payloads payloads;
  payloads.push_back({PayloadType::kIdi, id_});
  if (auth.method == wire::AuthMethod::kDigitalSignature) {
    payloads.push_back(Payload::Of(wire::CertPayload{
        .data = sa.ctx().config.private_key->public_key()->der()}));
    payloads.push_back(Payload::Of(wire::CertreqPayload{}));
  }
  payloads.push_back({PayloadType::kIdr, ToPayload(config.identity)});
  payloads.push_back(Payload::Of(std::move(auth)));
  // RFC 7296 2.4: true when this is the only IKE_SA that we have with it.
  if (sa.peer()->established.empty()) {
    payloads.push_back(
        Payload::Of(NotifyPayload::Of(NotifyType::kInitialContact)));
  }
  inbound_ = sa.ctx().NewInboundSpi(sa.peer_id());
  AppendChildOffer(config, inbound_.value(), /*groups=*/false,
                   /*cpu=*/std::nullopt, &payloads, {});
  state_ = Asked{};
  sa.SendRequest(wire::ExchangeType::kIkeAuth, payloads);
}

Task::Progress IkeAuthInitiator::Fail(IkeSa& sa, const std::string& why,
                                      bool tell_peer) {
  ++sa.ctx().counters.authentication_failures;
  sa.ctx().Report(Event::Kind::kAuthenticationFailed, sa.peer_id(), sa.id(), {},
                  why);
  if (tell_peer) {
    // RFC 7296 2.21.2: the responder holds the IKE_SA for established.
    sa.Continue(MakeAuthenticationFailed());
  } else {
    sa.Close(IkeSa::Ending::kSilent, why);
  }
  return Progress::kDone;
}

Task::Progress IkeAuthInitiator::HandleResponse(
    IkeSa& sa, const wire::Payloads& payloads) {
  if (wire::IsRefusal(kind(), payloads)) {
    return Fail(sa,
                absl::StrCat("the peer refused IKE_AUTH with ",
                             ToString(wire::FindError(payloads)->type)),
                false);
  }
  const auto* id = wire::Find<wire::IdPayload>(payloads, PayloadType::kIdr);
  const PeerConfig& config = *sa.peer()->config;
  if (id == nullptr || FromPayload(*id) != config.identity) {
    return Fail(sa,
                absl::StrCat("the responder is ",
                             id ? FromPayload(*id).ToString() : "nobody",
                             ", not ", config.identity.ToString()),
                true);
  }
  PeerProof proof;
  const PeerProof::Verdict verdict = proof.Begin(sa, config, *id, payloads);
  return Verify(sa, std::move(proof), verdict, payloads);
}

Task::Progress IkeAuthInitiator::Verify(IkeSa& sa, PeerProof proof,
                                        PeerProof::Verdict verdict,
                                        wire::Payloads response) {
  switch (verdict) {
    case PeerProof::Verdict::kBad:
      return Fail(sa, proof.why(), true);
    case PeerProof::Verdict::kRunJob:
      Await(sa.RunCrypto(proof.NextJob()));
      state_ = Verifying{std::move(proof), std::move(response)};
      return Progress::kRunning;
    case PeerProof::Verdict::kGood:
      break;
  }
  sa.set_peer_key(proof.key());
  return Authenticated(sa, response);
}

Task::Progress IkeAuthInitiator::HandleCrypto(IkeSa& sa,
                                              crypto::Result result) {
  if (auto* verifying = std::get_if<Verifying>(&state_)) {
    const PeerProof::Verdict verdict = verifying->proof.HandleResult(result);
    PeerProof proof = std::move(verifying->proof);
    return Verify(sa, std::move(proof), verdict,
                  std::move(verifying->response));
  }
  crypto::Signature* signature =
      result.ok() ? std::get_if<crypto::Signature>(&*result) : nullptr;
  if (signature == nullptr) {
    return Fail(sa, absl::StrCat("could not sign: ", result.status().message()),
                false);
  }
  Ask(sa, {.method = wire::AuthMethod::kDigitalSignature,
           .data = wire::EncodeDigitalSignature(
               {.algorithm_identifier = signature->algorithm_identifier,
                .signature = signature->signature})});
  return Progress::kRunning;
}

Task::Progress IkeAuthInitiator::Authenticated(IkeSa& sa,
                                               const wire::Payloads& response) {
  const AuthMaterial& material = *sa.auth_material();
  std::optional<NegotiatedChild> child =
      AcceptChildAnswer(sa, response, inbound_.value(), /*groups=*/false);
  if (child) {
    NoteCpuSas(sa, response);
    child->plan.keys =
        DeriveChildKeys(sa.suite().prf, sa.keys().sk_d.span(), {},
                        material.nonce_i, material.nonce_r, child->plan.suite);
  }
  sa.Establish(/*initial_contact=*/false);
  if (!child) {
    // The IKE_SA is up without a CHILD_SA (1.2); another is asked for later.
    if (const NotifyPayload* error = wire::FindError(response)) {
      ReportChildRefused(sa, error->type, /*by_us=*/false);
      sa.ctx().Notify(Notice::Kind::kChildMissing, sa.id());
    } else {
      ReportChildRefused(sa, NotifyType::kInvalidSyntax, /*by_us=*/true);
      sa.Continue(
          MakeDeleteSpi(ProtocolOf(*sa.peer()->config), std::move(inbound_)));
    }
    return Progress::kDone;
  }
  DatapathOpId op;
  const ChildSa& made = sa.peer()->tunnels.Begin(sa.ctx(), sa.id(), child->plan,
                                                 sa.peer()->config->reqid, &op);
  inbound_.Take();
  state_ = Installing{made.id};
  Await(op);
  return Progress::kRunning;
}

Task::Progress IkeAuthInitiator::HandleDatapath(IkeSa& sa,
                                                const absl::Status& status) {
  const auto* installing = std::get_if<Installing>(&state_);
  ChildSa* child = installing == nullptr
                       ? nullptr
                       : sa.peer()->tunnels.Find(installing->child);
  if (child == nullptr) return Progress::kDone;
  if (DeletedEarly(sa, *child)) {
    sa.peer()->tunnels.Abort(sa.ctx(), child->id);
    sa.ctx().Notify(Notice::Kind::kChildMissing, sa.id());
    return Progress::kDone;
  }
  if (status.ok()) {
    sa.peer()->tunnels.Complete(sa.ctx(), *child);
    return Progress::kDone;
  }
  sa.ctx().Report(Event::Kind::kProtocolError, sa.peer_id(), sa.id(), child->id,
                  absl::StrCat("inbound SA not installed: ", status.message()));
  const base::IpsecProtocol protocol = child->suite.protocol;
  sa.Continue(MakeDeleteSpi(
      protocol, sa.peer()->tunnels.AbortKeepingSpi(sa.ctx(), *child)));
  return Progress::kDone;
}

}  // namespace

std::unique_ptr<Task> MakeIkeAuthInitiator() {
  return std::make_unique<IkeAuthInitiator>();
}

}  // namespace espalier::ike
