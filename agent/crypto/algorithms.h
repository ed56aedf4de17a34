// The algorithms that Espalier knows. The numbers are IANA's "IKEv2
// Parameters", so that a transform maps by value; what is not listed here is
// never offered and always refused.
#ifndef ESPALIER_AGENT_CRYPTO_ALGORITHMS_H_
#define ESPALIER_AGENT_CRYPTO_ALGORITHMS_H_

#include <cstdint>

namespace espalier::crypto {

enum class Prf : uint16_t {
  kHmacSha2_256 = 5,
  kHmacSha2_384 = 6,
  kHmacSha2_512 = 7,
};

// Transform type 4. MODP below 2048 bits does not exist here.
enum class Group : uint16_t {
  kModp2048 = 14,
  kModp3072 = 15,
  kModp4096 = 16,
  kEcp256 = 19,  // RFC 5903
  kEcp384 = 20,  // RFC 5903
  kX25519 = 31,  // RFC 8031
};

enum class Cipher : uint16_t {
  kAesCbc = 12,
  kAesGcm16 = 20,
  kChaCha20Poly1305 = 28,
};

enum class Integrity : uint16_t {
  kNone = 0,
  kHmacSha2_256_128 = 12,
  kHmacSha2_384_192 = 13,
  kHmacSha2_512_256 = 14,
};

// RFC 7427 with RFC 8420; hashes of SIGNATURE_HASH_ALGORITHMS are SHA2-256
// (2), SHA2-384 (3), SHA2-512 (4) and Identity (5).
enum class SignatureScheme : uint8_t {
  kEd25519,
  kEcdsaP256Sha256,
  kEcdsaP384Sha384,
  kRsaPssSha256,
  kRsaPssSha384,
  kRsaPssSha512,
};

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_ALGORITHMS_H_
