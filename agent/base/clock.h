// Time and randomness, as things that come in from outside.
#ifndef ESPALIER_AGENT_BASE_CLOCK_H_
#define ESPALIER_AGENT_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace espalier::base {

// A point on the owner's steady clock: it never goes back, and has no relation
// to the calendar. The protocol core only compares and adds.
using Instant = absl::Time;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant Now() = 0;
};

// CLOCK_BOOTTIME, counted from the Unix epoch: it goes on in suspend, so that
// lifetimes do.
class SteadyClock : public Clock {
 public:
  Instant Now() override;
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_CLOCK_H_
