// Threads for arithmetic that would hold up the loop.
#ifndef ESPALIER_AGENT_RUNTIME_WORKER_POOL_H_
#define ESPALIER_AGENT_RUNTIME_WORKER_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier::runtime {

class WorkerPool {
 public:
  // `max_waiting` bounds the tasks that no thread has begun.
  WorkerPool(int threads, size_t max_waiting);
  // Waits for the tasks under way and drops those waiting.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False when too many wait already: the task was not taken. Any thread.
  bool Submit(std::function<void()> task);

 private:
  void Work();

  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;  // under mutex_
  bool stopping_ = false;                      // under mutex_
  std::vector<std::thread> threads_;
};

}  // namespace espalier::runtime

#endif  // ESPALIER_AGENT_RUNTIME_WORKER_POOL_H_
