// The ciphers of ESP, keyed once and used for every packet of one SA: AES-GCM
// (RFC 4106), ChaCha20-Poly1305 (RFC 7634), AES-CBC (RFC 3602) with HMAC-SHA2
// (RFC 4868).
#ifndef ESPALIER_AGENT_CRYPTO_ESP_CIPHER_H_
#define ESPALIER_AGENT_CRYPTO_ESP_CIPHER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/security_association.h"

namespace espalier::crypto {

// One direction of one SA; not thread-safe. A packet is the ESP packet from
// its SPI to the last octet of its ICV:
//
//   SPI (4) | low half of the sequence number (4) | IV | ciphertext | ICV
//
// The first 8 octets are the caller's. `sequence` is the whole 64-bit number;
// its high half enters the ICV when the suite has ESN (RFC 4303 2.2.1).
class EspCipher {
 public:
  virtual ~EspCipher() = default;

  // Encrypts plain[0, size) into `packet`: writes IV, ciphertext and ICV behind
  // the 8 octets that are already there. `size` is a multiple of the suite's
  // block size, and does not overlap `packet`. The caller never repeats
  // `sequence`, out of which combined modes make their IV.
  virtual bool Seal(uint64_t sequence, const uint8_t* plain, size_t size,
                    uint8_t* packet) = 0;

  // Verifies packet[0, size), then decrypts its payload in place. False, with
  // the payload undefined, when it is not authentic or has an impossible size.
  virtual bool Open(uint64_t sequence, uint8_t* packet, size_t size) = 0;
};

// InvalidArgument for a suite that is not listed above, or keys of other sizes
// than it asks for. Unavailable when OpenSSL does not have the algorithm.
absl::StatusOr<std::unique_ptr<EspCipher>> MakeEspCipher(
    const base::EspSuite& suite, base::Direction direction,
    base::ByteSpan encryption_key, base::ByteSpan integrity_key);

// A 64-bit name of a key under which it can be recognised in this process but
// not found again: HMAC-SHA-256 with a random key, that dies with the process
// unless the next one is given it.
uint64_t KeyFingerprint(base::ByteSpan encryption_key,
                        base::ByteSpan integrity_key);
// A copy of that random key, and its replacement by the key of the process
// before: then names mean the same in both. One thread.
base::SecretBytes FingerprintKey();
void SetFingerprintKey(base::SecretBytes key);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_ESP_CIPHER_H_
