#include "agent/kube/transport.h"

#include <utility>

namespace espalier::kube {

void Cancellation::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  // Under the lock: whoever withdraws a waker may then destroy what it wakes.
  if (waker_) std::exchange(waker_, nullptr)();
}

bool Cancellation::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

void Cancellation::SetWaker(std::function<void()> waker) {
  const std::lock_guard lock(mutex_);
  waker_ = std::move(waker);
  if (cancelled_ && waker_) std::exchange(waker_, nullptr)();
}

}  // namespace espalier::kube
