// A thread that does one thing after another.
#ifndef ESPALIER_AGENT_SERVICE_SERIAL_WORKER_H_
#define ESPALIER_AGENT_SERVICE_SERIAL_WORKER_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/time/time.h"
#include "agent/base/executor.h"

namespace espalier::service {

class SerialWorker : public base::Executor {
 public:
  // `tick`, unless empty, runs on the thread whenever `interval` has passed
  // since it last ran, between tasks.
  explicit SerialWorker(absl::Duration interval = absl::InfiniteDuration(),
                        std::function<void()> tick = nullptr);
  // Stops.
  ~SerialWorker() override;

  // After Stop the task is dropped.
  void Post(std::function<void()> task) override;

  // Runs what has been posted, then ends the thread. Idempotent; not from the
  // worker's own thread.
  void Stop();

 private:
  void Run();

  const absl::Duration interval_;
  const std::function<void()> tick_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_SERIAL_WORKER_H_
