// The agent's one event loop, over libuv.
#ifndef ESPALIER_AGENT_RUNTIME_LOOP_H_
#define ESPALIER_AGENT_RUNTIME_LOOP_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/base/event_loop.h"
#include "agent/base/executor.h"
#include "agent/base/file_stamp.h"

namespace espalier::runtime {

// Post and Stop may be called from any thread, all else on the thread that
// calls Run (before Run, on the thread that will). No callback runs inside
// the call that registers it.
class Loop : public base::EventLoop, public base::Executor {
 public:
  Loop();
  // Drops what is still waiting, without calling it.
  ~Loop() override;
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Runs callbacks until Stop; may be called again after that.
  void Run();
  // Also before Run, which then returns at once.
  void Stop();

  // base::Executor
  void Post(std::function<void()> task) override;

  // base::EventLoop
  void Watch(int fd, bool readable, bool writable,
             std::function<void(bool, bool)> ready) override;
  void Unwatch(int fd) override;
  TimerId RunAfter(absl::Duration delay,
                   std::function<void()> callback) override;
  void CancelTimer(TimerId id) override;

  // Calls `handler` on the loop for each arrival of the signal, from now on.
  absl::Status OnSignal(int signal, std::function<void()> handler);

  // Calls `changed` when the file behind `path` has become another or was
  // written: also when an editor renames a new file over it, or a symbolic
  // link in its folder is switched. Several changes in a tenth of a second are
  // one. With `known`, the stamp of what the caller has read, a change that
  // came before the watch counts, too. After an error nothing is watched.
  absl::Status WatchFile(
      const std::string& path, std::function<void()> changed,
      const std::optional<base::FileStamp>& known = std::nullopt);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::runtime

#endif  // ESPALIER_AGENT_RUNTIME_LOOP_H_
