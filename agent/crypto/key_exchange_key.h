// The OpenSSL side of key exchange jobs. Not for other folders.
#ifndef ESPALIER_AGENT_CRYPTO_KEY_EXCHANGE_KEY_H_
#define ESPALIER_AGENT_CRYPTO_KEY_EXCHANGE_KEY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/secret_bytes.h"
#include "agent/crypto/job.h"
#include "agent/crypto/openssl_util.h"

namespace espalier::crypto {

class KeyExchangeKey {
 public:
  static absl::StatusOr<std::shared_ptr<KeyExchangeKey>> Generate(Group group);
  // From a known private value (big-endian; X25519 as RFC 7748 has it): for
  // published test vectors.
  static absl::StatusOr<std::shared_ptr<KeyExchangeKey>> FromPrivate(
      Group group, base::ByteSpan private_value);

  Group group() const { return group_; }
  absl::StatusOr<base::Bytes> PublicValue() const;
  // g^ir; InvalidArgument when the peer's value fails the group's checks.
  absl::StatusOr<base::SecretBytes> Derive(base::ByteSpan peer_public) const;

  KeyExchangeKey(Group group, PkeyPtr pkey);

 private:
  Group group_;
  PkeyPtr pkey_;
};

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_KEY_EXCHANGE_KEY_H_
