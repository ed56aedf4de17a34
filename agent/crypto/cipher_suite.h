// Protection of the Encrypted payload SK and its fragments SKF (RFC 7296 3.14,
// RFC 7383 2.5): AES-GCM (RFC 5282), ChaCha20-Poly1305 (RFC 7634), and AES-CBC
// with HMAC-SHA2 (RFC 3602, RFC 4868).
//
// Nothing is kept between calls: a suite is a value, the keys are the
// caller's, contexts belong to the thread. An IKE_SA costs its key octets.
#ifndef ESPALIER_AGENT_CRYPTO_CIPHER_SUITE_H_
#define ESPALIER_AGENT_CRYPTO_CIPHER_SUITE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "agent/base/bytes.h"
#include "agent/crypto/algorithms.h"

namespace espalier::crypto {

struct CipherSuite {
  Cipher cipher = Cipher::kAesGcm16;
  // Without the salt: 128 or 256 for AES, 256 for ChaCha20 (whose transform
  // has no key length attribute).
  uint16_t key_bits = 256;
  Integrity integrity = Integrity::kNone;

  // Whether this is a combination that Seal and Open know: a combined-mode
  // cipher with kNone, or AES-CBC with an HMAC. All below needs it.
  bool IsSupported() const;
  bool aead() const { return cipher != Cipher::kAesCbc; }
  // Octets of SK_ei and SK_er, with the salt of combined-mode ciphers
  // (RFC 5282 7.1: 4 octets at the end).
  size_t encryption_key_size() const;
  // Octets of SK_ai and SK_ar; 0 for combined-mode ciphers.
  size_t integrity_key_size() const;
  size_t iv_size() const;
  size_t icv_size() const;
  // Plaintext with padding and the Pad Length octet is a multiple of this.
  size_t block_size() const;
  // Padding octets, without the Pad Length octet, behind `plaintext` octets of
  // payloads.
  size_t PadLength(size_t plaintext) const;
  // Octets between the Encrypted payload's fixed fields and the message's end:
  // IV, payloads, padding, Pad Length, ICV.
  size_t BodySize(size_t plaintext) const;

  std::string ToString() const;  // "aes256gcm16", "aes128-sha256_128"
  friend bool operator==(const CipherSuite&, const CipherSuite&) = default;
};

// Encrypts in place. `message` is the whole IKE message with every length
// field final:
//   [0, body)      header up to the IV (RFC 5282 5.1: the associated data)
//   iv_size        room for the IV
//   ...            payloads, padding, Pad Length
//   icv_size       room for the checksum
// `counter` makes the IV: it must never repeat under one key (a retransmission
// sends the same bytes). InvalidArgument when sizes do not fit.
absl::Status Seal(const CipherSuite& suite, base::ByteSpan encryption_key,
                  base::ByteSpan integrity_key, uint64_t counter,
                  base::MutableByteSpan message, size_t body);

// Verifies and then decrypts in place; `*plaintext` is what lies between IV
// and ICV, padding included. False: too short, not a multiple of the block,
// or the checksum is wrong; the message's contents are then unspecified and
// `*plaintext` untouched.
[[nodiscard]] bool Open(const CipherSuite& suite, base::ByteSpan encryption_key,
                        base::ByteSpan integrity_key,
                        base::MutableByteSpan message, size_t body,
                        base::MutableByteSpan* plaintext);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_CIPHER_SUITE_H_
