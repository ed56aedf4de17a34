// A real event loop for tests, over poll(2).
#ifndef ESPALIER_TESTS_SUPPORT_POLL_LOOP_H_
#define ESPALIER_TESTS_SUPPORT_POLL_LOOP_H_

#include <poll.h>

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "agent/base/event_loop.h"

namespace espalier::testing {

class PollLoop : public base::EventLoop {
 public:
  void Watch(int fd, bool readable, bool writable,
             std::function<void(bool, bool)> ready) override {
    const auto events =
        static_cast<short>((readable ? POLLIN : 0) | (writable ? POLLOUT : 0));
    watched_[fd] = {events, std::move(ready)};
  }
  void Unwatch(int fd) override { watched_.erase(fd); }
  TimerId RunAfter(absl::Duration delay,
                   std::function<void()> callback) override {
    timers_[++last_timer_] = {absl::Now() + delay, std::move(callback)};
    return last_timer_;
  }
  void CancelTimer(TimerId id) override { timers_.erase(id); }

  // Runs until `done` says so; false when `limit` passed first.
  bool RunUntil(const std::function<bool()>& done,
                absl::Duration limit = absl::Seconds(20)) {
    const absl::Time end = absl::Now() + limit;
    while (!done()) {
      if (absl::Now() > end) return false;
      RunOnce();
    }
    return true;
  }

 private:
  void RunOnce() {
    for (auto it = timers_.begin(); it != timers_.end();) {
      if (it->second.first > absl::Now()) {
        ++it;
        continue;
      }
      const std::function<void()> callback = std::move(it->second.second);
      timers_.erase(it);
      callback();
      return;
    }
    std::vector<pollfd> polled;
    for (const auto& [fd, watch] : watched_) {
      polled.push_back({.fd = fd, .events = watch.first, .revents = 0});
    }
    if (poll(polled.data(), polled.size(), 10) <= 0) return;
    for (const pollfd& one : polled) {
      const auto found = watched_.find(one.fd);
      if (one.revents == 0 || found == watched_.end()) continue;
      const auto ready = found->second.second;
      ready((one.revents & ~POLLOUT) != 0, (one.revents & POLLOUT) != 0);
    }
  }

  std::map<int, std::pair<short, std::function<void(bool, bool)>>> watched_;
  std::map<TimerId, std::pair<absl::Time, std::function<void()>>> timers_;
  TimerId last_timer_ = 0;
};

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_SUPPORT_POLL_LOOP_H_
