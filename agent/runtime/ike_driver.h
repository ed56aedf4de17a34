// Gives the protocol core its time, its sockets and its workers.
#ifndef ESPALIER_AGENT_RUNTIME_IKE_DRIVER_H_
#define ESPALIER_AGENT_RUNTIME_IKE_DRIVER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "agent/base/clock.h"
#include "agent/base/event_loop.h"
#include "agent/base/executor.h"
#include "agent/base/random.h"
#include "agent/ike/core.h"
#include "agent/runtime/worker_pool.h"

namespace espalier::runtime {

// Polls the core's actions after everything that happens to it, carries out
// those that are the runtime's, and hands the others to the hooks. One thread,
// the loop's. A hook may call the core and then Wake().
class IkeDriver {
 public:
  struct Hooks {
    // An IKE message without marker; the path's local port says which socket.
    std::function<void(const ike::Path&, base::ByteSpan)> send;
    std::function<void(const ike::Path&)> send_keepalive;
    // InstallSa, RemoveSa, WatchInbound and Event.
    std::function<void(ike::Action&)> mesh;
    std::function<void(const ike::LogIkeKeys&)> log_keys;
  };

  // All pointers outlive the driver; results of jobs come back through
  // `executor`, which runs on the loop's thread.
  IkeDriver(ike::CoreConfig config, base::RandomSource* random,
            base::Clock* clock, base::EventLoop* loop, base::Executor* executor,
            WorkerPool* workers);
  ~IkeDriver();
  IkeDriver(const IkeDriver&) = delete;
  IkeDriver& operator=(const IkeDriver&) = delete;

  // All of them, before anything happens.
  void SetHooks(Hooks hooks) { hooks_ = std::move(hooks); }

  // After any call to it: Wake().
  ike::Core& core() { return core_; }
  base::Instant Now() { return clock_->Now(); }
  // Carries out what the core wants done, now or, when that is already under
  // way further up the stack, there.
  void Wake();
  // The same from the loop's next turn, for callers that must not be called
  // back at once. Many such calls in one turn are one.
  void WakeSoon();

  void HandleDatagram(const ike::Path& path, base::ByteSpan bytes);

  // Jobs refused because too many waited; each was answered with an error.
  uint64_t refused_jobs() const { return refused_jobs_; }

 private:
  void Execute(ike::Action action);
  void RunJob(ike::RunCrypto run);
  void ArmTimer();

  base::Clock* clock_;
  base::EventLoop* loop_;
  base::Executor* executor_;
  WorkerPool* workers_;
  Hooks hooks_;
  ike::Core core_;
  bool waking_ = false;
  bool wake_posted_ = false;
  base::EventLoop::TimerId timer_ = 0;
  base::Instant timer_at_ = absl::InfiniteFuture();
  uint64_t refused_jobs_ = 0;
  // Results that arrive after the driver's end find it gone.
  std::shared_ptr<IkeDriver*> self_;
};

}  // namespace espalier::runtime

#endif  // ESPALIER_AGENT_RUNTIME_IKE_DRIVER_H_
