// What a part that owns file descriptors needs of the thread it lives on.
// agent/runtime implements it; tests bring their own.
#ifndef ESPALIER_AGENT_BASE_EVENT_LOOP_H_
#define ESPALIER_AGENT_BASE_EVENT_LOOP_H_

#include <cstdint>
#include <functional>

#include "absl/time/time.h"

namespace espalier::base {

// All calls and callbacks are on the loop's one thread; no callback runs
// inside the call that registers it.
class EventLoop {
 public:
  using TimerId = uint64_t;  // 0 names none
  virtual ~EventLoop() = default;

  // Level-triggered. Replaces an earlier Watch of the same fd; `ready` gets
  // what is possible now (an error or hang-up counts as readable).
  virtual void Watch(
      int fd, bool readable, bool writable,
      std::function<void(bool readable, bool writable)> ready) = 0;
  // Must precede close(fd). Unknown fds are ignored.
  virtual void Unwatch(int fd) = 0;

  // Runs `callback` once, not before `delay` has passed.
  virtual TimerId RunAfter(absl::Duration delay,
                           std::function<void()> callback) = 0;
  // A timer that ran or was cancelled is ignored.
  virtual void CancelTimer(TimerId id) = 0;
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_EVENT_LOOP_H_
