// Digital signatures of the AUTH payload (RFC 7427, RFC 8420): which there
// are, and how AlgorithmIdentifiers name them.
#ifndef ESPALIER_AGENT_CRYPTO_SIGNATURE_H_
#define ESPALIER_AGENT_CRYPTO_SIGNATURE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/crypto/algorithms.h"
#include "agent/crypto/keys.h"

namespace espalier::crypto {

// IANA "IKEv2 Hash Algorithms". SHA-1 (1) does not exist here.
inline constexpr uint16_t kHashSha2_256 = 2;
inline constexpr uint16_t kHashSha2_384 = 3;
inline constexpr uint16_t kHashSha2_512 = 4;
inline constexpr uint16_t kHashIdentity = 5;  // RFC 8420: Ed25519

// What we announce in SIGNATURE_HASH_ALGORITHMS: all that we verify.
inline constexpr std::array<uint16_t, 4> kSignatureHashes = {
    kHashSha2_256, kHashSha2_384, kHashSha2_512, kHashIdentity};

uint16_t HashOf(SignatureScheme scheme);
std::string ToString(SignatureScheme scheme);  // "rsa-pss-sha256"

// The schemes that `type` can sign with, most preferred first, cut to the
// hashes of the peer's SIGNATURE_HASH_ALGORITHMS. Empty: this key cannot
// authenticate us to that peer.
std::vector<SignatureScheme> SchemesFor(KeyType type,
                                        std::span<const uint16_t> peer_hashes);

// The DER AlgorithmIdentifier of RFC 7427 appendix A or RFC 8420 2.
base::ByteSpan AlgorithmIdentifier(SignatureScheme scheme);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_SIGNATURE_H_
