// An event loop and a clock that a test moves by hand.
#ifndef ESPALIER_TESTS_SUPPORT_MANUAL_LOOP_H_
#define ESPALIER_TESTS_SUPPORT_MANUAL_LOOP_H_

#include <functional>
#include <map>
#include <utility>

#include "agent/base/clock.h"
#include "agent/base/event_loop.h"

namespace espalier::testing {

class ManualLoop : public base::EventLoop, public base::Clock {
 public:
  base::Instant Now() override { return now_; }

  void Watch(int fd, bool, bool,
             std::function<void(bool, bool)> ready) override {
    watched_[fd] = std::move(ready);
  }
  void Unwatch(int fd) override { watched_.erase(fd); }
  TimerId RunAfter(absl::Duration delay,
                   std::function<void()> callback) override {
    timers_[++last_timer_] = {now_ + delay, std::move(callback)};
    return last_timer_;
  }
  void CancelTimer(TimerId id) override { timers_.erase(id); }

  // Runs what becomes due until `duration` has passed, each at its time.
  void Advance(absl::Duration duration) {
    const base::Instant end = now_ + duration;
    while (true) {
      auto next = timers_.end();
      for (auto it = timers_.begin(); it != timers_.end(); ++it) {
        if (it->second.first > end) continue;
        if (next == timers_.end() || it->second.first < next->second.first) {
          next = it;
        }
      }
      if (next == timers_.end()) break;
      now_ = std::max(now_, next->second.first);
      const std::function<void()> callback = std::move(next->second.second);
      timers_.erase(next);
      callback();
    }
    now_ = end;
  }
  // All watched descriptors count as readable.
  void PollAll() {
    for (auto& [fd, ready] : std::map(watched_)) ready(true, false);
  }
  size_t timers() const { return timers_.size(); }

 private:
  base::Instant now_ = absl::FromUnixSeconds(1000);
  std::map<int, std::function<void(bool, bool)>> watched_;
  std::map<TimerId, std::pair<base::Instant, std::function<void()>>> timers_;
  TimerId last_timer_ = 0;
};

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_SUPPORT_MANUAL_LOOP_H_
