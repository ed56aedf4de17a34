#include "agent/ike/cookie.h"

#include "agent/base/byte_writer.h"
#include "agent/crypto/prf.h"

namespace espalier::ike {
namespace {

constexpr absl::Duration kSecretLife = absl::Minutes(1);

}  // namespace

void CookieJar::Rotate(base::Instant now) {
  if (current_ && now < rotate_at_) return;
  Secret next;
  next.version = current_ ? static_cast<uint8_t>(current_->version + 1) : 0;
  random_->Fill(next.key);
  // A secret that nobody asked for in its whole second life is not revived.
  const bool stale = !current_ || now >= rotate_at_ + kSecretLife;
  previous_ = stale ? std::nullopt : current_;
  current_ = next;
  rotate_at_ = now + kSecretLife;
}

base::Bytes CookieJar::Compute(const Secret& secret, base::ByteSpan nonce_i,
                               const base::Endpoint& initiator,
                               uint64_t spi_i) {
  base::ByteWriter where;
  where.WriteSpan(initiator.address.bytes());
  where.WriteU16(initiator.port);
  where.WriteU64(spi_i);
  const base::SecretBytes mac = crypto::ComputePrf(
      crypto::Prf::kHmacSha2_256, secret.key, {nonce_i, where.span()});
  base::ByteWriter cookie;
  cookie.WriteU8(secret.version);
  cookie.WriteSpan(mac.span());
  return cookie.Take();
}

base::Bytes CookieJar::Make(base::Instant now, base::ByteSpan nonce_i,
                            const base::Endpoint& initiator, uint64_t spi_i) {
  Rotate(now);
  return Compute(*current_, nonce_i, initiator, spi_i);
}

bool CookieJar::Check(base::Instant now, base::ByteSpan cookie,
                      base::ByteSpan nonce_i, const base::Endpoint& initiator,
                      uint64_t spi_i) {
  Rotate(now);
  for (const std::optional<Secret>& secret : {current_, previous_}) {
    if (!secret || cookie.empty() || cookie[0] != secret->version) continue;
    return base::ConstantTimeEqual(cookie,
                                   Compute(*secret, nonce_i, initiator, spi_i));
  }
  return false;
}

}  // namespace espalier::ike
