// Randomness of the system.
#ifndef ESPALIER_AGENT_CRYPTO_RANDOM_H_
#define ESPALIER_AGENT_CRYPTO_RANDOM_H_

#include "agent/base/random.h"

namespace espalier::crypto {

// OpenSSL's generator, seeded by the kernel; any thread. Ends the process when
// the system has no randomness to give.
class SystemRandom : public base::RandomSource {
 public:
  void Fill(base::MutableByteSpan out) override;
};

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_RANDOM_H_
