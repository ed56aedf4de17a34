// Pseudorandom functions and the key derivation of IKEv2 (RFC 7296 2.13 to
// 2.18): HMAC-SHA2 of RFC 4868.
#ifndef ESPALIER_AGENT_CRYPTO_PRF_H_
#define ESPALIER_AGENT_CRYPTO_PRF_H_

#include <cstddef>
#include <initializer_list>

#include "agent/base/bytes.h"
#include "agent/base/secret_bytes.h"
#include "agent/crypto/algorithms.h"

namespace espalier::crypto {

// What is fed to a function, part after part, as if it were one string.
using Parts = std::initializer_list<base::ByteSpan>;

// Octets of output, and of the keys SK_d, SK_pi and SK_pr (RFC 7296 2.14).
size_t PrfSize(Prf prf);

// prf(key, parts...), PrfSize(prf) octets. The key may have any size.
base::SecretBytes ComputePrf(Prf prf, base::ByteSpan key, Parts parts);
// The same, written to `out`, which has PrfSize(prf) octets.
void ComputePrf(Prf prf, base::ByteSpan key, Parts parts,
                base::MutableByteSpan out);

// The first `length` octets of prf+(key, parts...) (RFC 7296 2.13), at most
// 255 * PrfSize(prf).
base::SecretBytes PrfPlus(Prf prf, base::ByteSpan key, Parts parts,
                          size_t length);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_PRF_H_
