// Signature keys: this node's own and those of its peers.
#ifndef ESPALIER_AGENT_CRYPTO_KEYS_H_
#define ESPALIER_AGENT_CRYPTO_KEYS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/secret_bytes.h"

namespace espalier::crypto {

enum class KeyType : uint8_t { kEd25519, kEcdsaP256, kEcdsaP384, kRsa };

std::string ToString(KeyType type);  // "Ed25519", "ECDSA P-256", "RSA"

// Immutable; may be shared between threads. RSA is 2048 to 8192 bits.
class PublicKey {
 public:
  // DER SubjectPublicKeyInfo (RFC 5280 4.1), as a raw public key's CERT
  // payload carries it (RFC 7670 3). Trailing octets, explicit curve
  // parameters, points off the curve and unknown types are InvalidArgument.
  static absl::StatusOr<std::shared_ptr<const PublicKey>> FromDer(
      base::ByteSpan subject_public_key_info);
  // "-----BEGIN PUBLIC KEY-----".
  static absl::StatusOr<std::shared_ptr<const PublicKey>> FromPem(
      const std::string& pem);
  ~PublicKey();

  KeyType type() const;
  // SubjectPublicKeyInfo in our encoding: equal keys have equal octets.
  const base::Bytes& der() const;
  std::string ToPem() const;
  // "SHA256:" and the hexadecimal SHA-256 of der().
  std::string Fingerprint() const;
  friend bool operator==(const PublicKey& a, const PublicKey& b) {
    return a.der() == b.der();
  }

  class Impl;
  const Impl& impl() const { return *impl_; }
  explicit PublicKey(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

// Immutable; may be shared between threads.
class PrivateKey {
 public:
  // "-----BEGIN PRIVATE KEY-----" (PKCS #8, unencrypted). Errors never quote
  // the text.
  static absl::StatusOr<std::shared_ptr<const PrivateKey>> FromPem(
      const base::SecretBytes& pem);
  // RSA gets 3072 bits.
  static absl::StatusOr<std::shared_ptr<const PrivateKey>> Generate(
      KeyType type);
  ~PrivateKey();

  KeyType type() const;
  const std::shared_ptr<const PublicKey>& public_key() const;
  // For a file of mode 0600.
  base::SecretBytes ToPem() const;

  class Impl;
  const Impl& impl() const { return *impl_; }
  explicit PrivateKey(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_KEYS_H_
