// A rate limit.
#ifndef ESPALIER_AGENT_ESP_TOKEN_BUCKET_H_
#define ESPALIER_AGENT_ESP_TOKEN_BUCKET_H_

#include <algorithm>

#include "agent/base/clock.h"

namespace espalier::esp {

class TokenBucket {
 public:
  // `rate` a second in the long run, `burst` at once.
  TokenBucket(double rate, double burst)
      : rate_(rate), burst_(burst), tokens_(burst) {}

  bool Take(base::Instant now) {
    if (now > last_) {
      tokens_ = std::min(burst_,
                         tokens_ + rate_ * absl::ToDoubleSeconds(now - last_));
      last_ = now;
    }
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  double rate_;
  double burst_;
  double tokens_;
  base::Instant last_ = absl::InfinitePast();
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_TOKEN_BUCKET_H_
