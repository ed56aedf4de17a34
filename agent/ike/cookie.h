// Stateless cookies against floods of IKE_SA_INIT (RFC 7296 2.6).
#ifndef ESPALIER_AGENT_IKE_COOKIE_H_
#define ESPALIER_AGENT_IKE_COOKIE_H_

#include <array>
#include <cstdint>
#include <optional>

#include "agent/base/bytes.h"
#include "agent/base/clock.h"
#include "agent/base/ip_address.h"
#include "agent/base/random.h"
#include "agent/base/secret_bytes.h"

namespace espalier::ike {

// Cookie = version | HMAC(secret of that version, Ni | IPi | port | SPIi): it
// costs no memory, and proves that the initiator receives at its address. The
// secret changes every minute; the one before stays good for another.
class CookieJar {
 public:
  explicit CookieJar(base::RandomSource* random) : random_(random) {}

  base::Bytes Make(base::Instant now, base::ByteSpan nonce_i,
                   const base::Endpoint& initiator, uint64_t spi_i);
  bool Check(base::Instant now, base::ByteSpan cookie, base::ByteSpan nonce_i,
             const base::Endpoint& initiator, uint64_t spi_i);

 private:
  struct Secret {
    uint8_t version = 0;
    std::array<uint8_t, 32> key{};
  };
  void Rotate(base::Instant now);
  static base::Bytes Compute(const Secret& secret, base::ByteSpan nonce_i,
                             const base::Endpoint& initiator, uint64_t spi_i);

  base::RandomSource* random_;
  std::optional<Secret> current_, previous_;
  base::Instant rotate_at_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_COOKIE_H_
