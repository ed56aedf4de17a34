// Keys out of secrets (RFC 7296 2.14, 2.17, 2.18).
#ifndef ESPALIER_AGENT_IKE_KEY_DERIVATION_H_
#define ESPALIER_AGENT_IKE_KEY_DERIVATION_H_

#include <cstdint>

#include "agent/base/bytes.h"
#include "agent/base/secret_bytes.h"
#include "agent/base/security_association.h"
#include "agent/crypto/cipher_suite.h"
#include "agent/crypto/prf.h"

namespace espalier::ike {

// What one IKE_SA negotiated.
struct IkeSuite {
  crypto::CipherSuite cipher;
  crypto::Prf prf = crypto::Prf::kHmacSha2_384;
  crypto::Group group = crypto::Group::kX25519;
};

// The keys that an IKE_SA needs for as long as it lives. Of the initiator's
// and the responder's direction, as 2.14 names them.
struct IkeKeys {
  base::SecretBytes sk_d;
  base::SecretBytes sk_ai, sk_ar;  // empty for combined-mode ciphers
  base::SecretBytes sk_ei, sk_er;  // with the salt of combined-mode ciphers
};

// What only IKE_AUTH needs (2.15).
struct AuthKeys {
  base::SecretBytes sk_pi, sk_pr;
};

struct DerivedKeys {
  IkeKeys ike;
  AuthKeys auth;
};

struct SpiPair {
  uint64_t initiator = 0;
  uint64_t responder = 0;
  friend bool operator==(const SpiPair&, const SpiPair&) = default;
};

// SKEYSEED = prf(Ni | Nr, g^ir) (2.14).
base::SecretBytes InitialSkeyseed(crypto::Prf prf, base::ByteSpan nonce_i,
                                  base::ByteSpan nonce_r,
                                  base::ByteSpan shared_secret);

// SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr), with the old IKE_SA's PRF
// (2.18).
base::SecretBytes RekeySkeyseed(crypto::Prf old_prf, base::ByteSpan old_sk_d,
                                base::ByteSpan shared_secret,
                                base::ByteSpan nonce_i, base::ByteSpan nonce_r);

// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} =
// prf+(SKEYSEED, Ni | Nr | SPIi | SPIr) (2.14).
DerivedKeys DeriveIkeKeys(const IkeSuite& suite, base::ByteSpan skeyseed,
                          base::ByteSpan nonce_i, base::ByteSpan nonce_r,
                          const SpiPair& spis);

// Both directions of a CHILD_SA; "initiator" is that of the exchange which
// made it, not of the IKE_SA.
struct ChildKeys {
  base::SecretBytes initiator_encryption, initiator_integrity;
  base::SecretBytes responder_encryption, responder_integrity;
};

// KEYMAT = prf+(SK_d, [g^ir (new)] | Ni | Nr) (2.17); `shared_secret` is empty
// without a key exchange of the child's own.
ChildKeys DeriveChildKeys(crypto::Prf prf, base::ByteSpan sk_d,
                          base::ByteSpan shared_secret, base::ByteSpan nonce_i,
                          base::ByteSpan nonce_r, const base::EspSuite& suite);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_KEY_DERIVATION_H_
