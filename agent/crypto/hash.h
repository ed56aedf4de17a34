// Plain digests.
#ifndef ESPALIER_AGENT_CRYPTO_HASH_H_
#define ESPALIER_AGENT_CRYPTO_HASH_H_

#include <array>
#include <cstdint>

#include "agent/crypto/prf.h"

namespace espalier::crypto {

// RFC 7296 2.23 fixes SHA-1 for NAT_DETECTION_*_IP, where nothing rests on its
// strength. It is not for anything else.
std::array<uint8_t, 20> Sha1ForNatDetection(Parts parts);

std::array<uint8_t, 32> Sha256(Parts parts);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_HASH_H_
