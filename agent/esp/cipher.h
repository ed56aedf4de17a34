// Which implementation of a suite an SA gets.
#ifndef ESPALIER_AGENT_ESP_CIPHER_H_
#define ESPALIER_AGENT_ESP_CIPHER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "agent/base/security_association.h"
#include "agent/crypto/esp_cipher.h"

namespace espalier::esp {

enum class CipherChoice : uint8_t {
  kFastest,  // ipsec-mb where it has the suite and the processor
  kOpenssl,
};

// Keys the cipher of `sa`. InvalidArgument for a suite or key that makes no
// sense.
absl::StatusOr<std::unique_ptr<crypto::EspCipher>> MakeCipher(
    const base::EspSa& sa, CipherChoice choice);

// Whether AES-GCM runs on ipsec-mb here.
bool HaveIpsecMb();

// AES-GCM on ipsec-mb; null where HaveIpsecMb() is false or the suite is
// another.
std::unique_ptr<crypto::EspCipher> MakeIpsecMbCipher(
    const base::EspSuite& suite, base::ByteSpan encryption_key);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_CIPHER_H_
