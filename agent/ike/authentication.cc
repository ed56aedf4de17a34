#include "agent/ike/authentication.h"

#include <algorithm>
#include <string>
#include <utility>

#include "agent/base/byte_writer.h"
#include "agent/crypto/signature.h"

namespace espalier::ike {

base::Bytes SignedOctets(const AuthMaterial& material, crypto::Prf prf,
                         bool initiator, const wire::IdPayload& id) {
  base::ByteWriter id_body;
  wire::EncodeBody(id, &id_body);
  const base::SecretBytes& key =
      initiator ? material.keys.sk_pi : material.keys.sk_pr;
  const base::SecretBytes maced =
      crypto::ComputePrf(prf, key.span(), {id_body.span()});
  base::ByteWriter octets;
  octets.WriteSpan(initiator ? material.request : material.response);
  octets.WriteSpan(initiator ? material.nonce_r : material.nonce_i);
  octets.WriteSpan(maced.span());
  return octets.Take();
}

base::SecretBytes SharedKeyAuth(crypto::Prf prf, base::ByteSpan secret,
                                base::ByteSpan octets) {
  static const std::string pad = "Key Pad for IKEv2";
  const base::SecretBytes key =
      crypto::ComputePrf(prf, secret, {base::AsBytes(pad)});
  return crypto::ComputePrf(prf, key.span(), {octets});
}

wire::IdPayload ToPayload(const Identity& identity) {
  wire::IdPayload payload;
  payload.type = static_cast<wire::IdType>(identity.type);
  payload.data = identity.data;
  return payload;
}

Identity FromPayload(const wire::IdPayload& payload) {
  return {static_cast<Identity::Type>(payload.type), payload.data};
}

absl::StatusOr<crypto::Sign> SigningJob(
    const std::shared_ptr<const crypto::PrivateKey>& key,
    const std::vector<uint16_t>& peer_hashes, base::Bytes octets) {
  if (key == nullptr) {
    return absl::FailedPreconditionError("this node has no private key");
  }
  if (peer_hashes.empty()) {
    return absl::FailedPreconditionError(
        "the peer does not support digital signatures (RFC 7427): it sent no "
        "SIGNATURE_HASH_ALGORITHMS");
  }
  const std::vector<crypto::SignatureScheme> schemes =
      crypto::SchemesFor(key->type(), peer_hashes);
  if (schemes.empty()) {
    return absl::FailedPreconditionError(
        "the peer accepts no hash algorithm that our key can sign with");
  }
  return crypto::Sign{
      .key = key, .scheme = schemes.front(), .data = std::move(octets)};
}

std::vector<crypto::VerifySignature> VerificationJobs(
    const PublicKeyAuth& auth, const wire::Payloads& payloads,
    const wire::AuthPayload& proof, const base::Bytes& octets) {
  std::vector<crypto::VerifySignature> jobs;
  if (proof.method != wire::AuthMethod::kDigitalSignature) return jobs;
  const std::optional<wire::DigitalSignature> signature =
      wire::DecodeDigitalSignature(proof.data);
  if (!signature) return jobs;
  const wire::CertPayload* named = nullptr;
  for (const wire::CertPayload* cert :
       wire::FindAll<wire::CertPayload>(payloads)) {
    if (cert->encoding == wire::CertEncoding::kRawPublicKey) {
      named = cert;
      break;
    }
  }
  for (const auto& key : auth.peer_keys) {
    if (named != nullptr && named->data != key->der()) continue;
    jobs.push_back({.key = key,
                    .algorithm_identifier = signature->algorithm_identifier,
                    .data = octets,
                    .signature = signature->signature});
  }
  return jobs;
}

}  // namespace espalier::ike
