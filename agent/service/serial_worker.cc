#include "agent/service/serial_worker.h"

#include <signal.h>

#include <chrono>
#include <utility>

namespace espalier::service {

SerialWorker::SerialWorker(absl::Duration interval, std::function<void()> tick)
    : interval_(interval), tick_(std::move(tick)) {
  // Signals belong to the loop's thread.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

SerialWorker::~SerialWorker() { Stop(); }

void SerialWorker::Post(std::function<void()> task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void SerialWorker::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void SerialWorker::Run() {
  using Steady = std::chrono::steady_clock;
  const bool ticks = tick_ != nullptr;
  const auto interval =
      absl::ToChronoMilliseconds(ticks ? interval_ : absl::ZeroDuration());
  Steady::time_point next = Steady::now() + interval;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const auto awake = [this] { return stopping_ || !tasks_.empty(); };
    if (ticks) {
      wake_.wait_until(lock, next, awake);
    } else {
      wake_.wait(lock, awake);
    }
    if (!tasks_.empty()) {
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      // What it holds may post when it goes.
      task = nullptr;
      lock.lock();
    } else if (stopping_) {
      return;
    }
    if (ticks && !stopping_ && Steady::now() >= next) {
      lock.unlock();
      tick_();
      lock.lock();
      next = Steady::now() + interval;
    }
  }
}

}  // namespace espalier::service
