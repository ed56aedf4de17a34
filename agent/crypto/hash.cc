#include "agent/crypto/hash.h"

#include "agent/crypto/digest.h"

namespace espalier::crypto {

std::array<uint8_t, 20> Sha1ForNatDetection(Parts parts) {
  std::array<uint8_t, 20> out;
  ComputeDigest(Digest::kSha1, parts, out);
  return out;
}

std::array<uint8_t, 32> Sha256(Parts parts) {
  std::array<uint8_t, 32> out;
  ComputeDigest(Digest::kSha256, parts, out);
  return out;
}

}  // namespace espalier::crypto
