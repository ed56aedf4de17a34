#include "agent/base/clock.h"

#include <time.h>

namespace espalier::base {

Instant SteadyClock::Now() {
  timespec ts{};
  clock_gettime(CLOCK_BOOTTIME, &ts);
  return absl::TimeFromTimespec(ts);
}

}  // namespace espalier::base
