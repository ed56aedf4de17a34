#include "agent/ike/peer_proof.h"

#include <utility>

namespace espalier::ike {

PeerProof::Verdict PeerProof::Begin(const IkeSa& sa, const PeerConfig& config,
                                    const wire::IdPayload& id,
                                    const wire::Payloads& payloads) {
  const auto* proof = wire::Find<wire::AuthPayload>(payloads);
  if (proof == nullptr || sa.auth_material() == nullptr) {
    why_ = "no AUTH payload";
    return Verdict::kBad;
  }
  // The peer is the end that we are not.
  const base::Bytes octets =
      SignedOctets(*sa.auth_material(), sa.suite().prf, !sa.initiator(), id);
  if (const auto* psk = std::get_if<PskAuth>(&config.auth)) {
    if (proof->method != wire::AuthMethod::kSharedKey) {
      why_ = "the peer does not use the shared key that is configured";
      return Verdict::kBad;
    }
    const base::SecretBytes expected =
        SharedKeyAuth(sa.suite().prf, psk->secret.span(), octets);
    if (base::ConstantTimeEqual(expected.span(), proof->data)) {
      return Verdict::kGood;
    }
    why_ = "the shared keys differ";
    return Verdict::kBad;
  }
  jobs_ = VerificationJobs(std::get<PublicKeyAuth>(config.auth), payloads,
                           *proof, octets);
  if (!jobs_.empty()) return Verdict::kRunJob;
  why_ =
      "not a digital signature (RFC 7427) of a public key that is configured "
      "for this peer";
  return Verdict::kBad;
}

crypto::Job PeerProof::NextJob() {
  crypto::VerifySignature job = std::move(jobs_.back());
  jobs_.pop_back();
  key_ = job.key;
  return job;
}

PeerProof::Verdict PeerProof::HandleResult(const crypto::Result& result) {
  if (result.ok() && std::holds_alternative<crypto::SignatureValid>(*result)) {
    return Verdict::kGood;
  }
  if (!jobs_.empty()) return Verdict::kRunJob;
  why_ = result.ok() ? "unexpected result"
                     : std::string(result.status().message());
  return Verdict::kBad;
}

}  // namespace espalier::ike
