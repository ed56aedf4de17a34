// The OpenSSL side of keys.h. Not for other folders.
#ifndef ESPALIER_AGENT_CRYPTO_KEYS_IMPL_H_
#define ESPALIER_AGENT_CRYPTO_KEYS_IMPL_H_

#include <memory>

#include "agent/crypto/keys.h"
#include "agent/crypto/openssl_util.h"

namespace espalier::crypto {

class PublicKey::Impl {
 public:
  PkeyPtr pkey;
  KeyType type;
  base::Bytes der;
};

class PrivateKey::Impl {
 public:
  PkeyPtr pkey;
  std::shared_ptr<const PublicKey> public_key;
};

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_KEYS_IMPL_H_
