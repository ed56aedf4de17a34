// A bound on what unauthenticated messages can make us send.
#ifndef ESPALIER_AGENT_IKE_RATE_LIMIT_H_
#define ESPALIER_AGENT_IKE_RATE_LIMIT_H_

#include "agent/base/clock.h"

namespace espalier::ike {

// So many a second, counted in whole seconds.
class RateLimit {
 public:
  explicit RateLimit(int per_second) : per_second_(per_second) {}
  bool Allow(base::Instant now) {
    if (now >= window_end_) {
      window_end_ = now + absl::Seconds(1);
      used_ = 0;
    }
    if (used_ >= per_second_) return false;
    ++used_;
    return true;
  }

 private:
  int per_second_;
  int used_ = 0;
  base::Instant window_end_ = absl::InfinitePast();
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_RATE_LIMIT_H_
