// Where random octets come from. Real ones live in agent/crypto; the simulator
// seeds its own.
#ifndef ESPALIER_AGENT_BASE_RANDOM_H_
#define ESPALIER_AGENT_BASE_RANDOM_H_

#include "agent/base/bytes.h"

namespace espalier::base {

class RandomSource {
 public:
  virtual ~RandomSource() = default;
  // Fills all of `out`; cannot fail (a system without randomness cannot run
  // the agent, and the implementation ends it).
  virtual void Fill(MutableByteSpan out) = 0;

  uint32_t U32();
  uint64_t U64();
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_RANDOM_H_
