// What the AUTH payload covers and proves (RFC 7296 2.15), with shared keys or
// with digital signatures (RFC 7427).
#ifndef ESPALIER_AGENT_IKE_AUTHENTICATION_H_
#define ESPALIER_AGENT_IKE_AUTHENTICATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/base/secret_bytes.h"
#include "agent/crypto/job.h"
#include "agent/crypto/keys.h"
#include "agent/crypto/prf.h"
#include "agent/ike/config.h"
#include "agent/ike/key_derivation.h"
#include "agent/wire/payload.h"

namespace espalier::ike {

// What IKE_SA_INIT leaves behind for IKE_AUTH, and no longer.
struct AuthMaterial {
  base::Bytes request, response;  // both messages of IKE_SA_INIT, whole
  base::Bytes nonce_i, nonce_r;
  AuthKeys keys;
  // Of the peer's SIGNATURE_HASH_ALGORITHMS; empty when it sent none.
  std::vector<uint16_t> peer_hashes;
};

// <InitiatorSignedOctets> or <ResponderSignedOctets>: the signer's message of
// IKE_SA_INIT | the other end's nonce | prf(SK_p, body of the signer's ID).
base::Bytes SignedOctets(const AuthMaterial& material, crypto::Prf prf,
                         bool initiator, const wire::IdPayload& id);

// prf(prf(secret, "Key Pad for IKEv2"), octets).
base::SecretBytes SharedKeyAuth(crypto::Prf prf, base::ByteSpan secret,
                                base::ByteSpan octets);

wire::IdPayload ToPayload(const Identity& identity);
Identity FromPayload(const wire::IdPayload& payload);

// The job that makes our signature, or why this key cannot authenticate us to
// that peer.
absl::StatusOr<crypto::Sign> SigningJob(
    const std::shared_ptr<const crypto::PrivateKey>& key,
    const std::vector<uint16_t>& peer_hashes, base::Bytes octets);

// Checks of a peer's signature, one after another until one succeeds: of the
// key that its CERT payload names, or of all that are configured when it names
// none. Empty: nothing of it can be right.
std::vector<crypto::VerifySignature> VerificationJobs(
    const PublicKeyAuth& auth, const wire::Payloads& payloads,
    const wire::AuthPayload& proof, const base::Bytes& octets);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_AUTHENTICATION_H_
