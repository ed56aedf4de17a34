// SHA-2 (and the one SHA-1) and HMAC over it, without an allocation or a
// look-up per call. Not for other folders: see prf.h and hash.h.
#ifndef ESPALIER_AGENT_CRYPTO_DIGEST_H_
#define ESPALIER_AGENT_CRYPTO_DIGEST_H_

#include <cstddef>
#include <cstdint>

#include "agent/base/bytes.h"
#include "agent/crypto/prf.h"

namespace espalier::crypto {

enum class Digest : uint8_t { kSha1, kSha256, kSha384, kSha512 };

inline constexpr size_t kMaxDigestSize = 64;

constexpr size_t DigestSize(Digest digest) {
  constexpr size_t kSizes[] = {20, 32, 48, 64};
  return kSizes[static_cast<size_t>(digest)];
}

// `out` has DigestSize octets.
void ComputeDigest(Digest digest, Parts parts, base::MutableByteSpan out);

// RFC 2104. `out` has DigestSize octets.
void ComputeHmac(Digest digest, base::ByteSpan key, Parts parts,
                 base::MutableByteSpan out);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_DIGEST_H_
