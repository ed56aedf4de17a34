// What the agent makes of its own process before it touches the network.
#ifndef ESPALIER_AGENT_MAIN_PROCESS_H_
#define ESPALIER_AGENT_MAIN_PROCESS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::agent {

// No core dump and no debugger of another user ever sees a key: core files
// off, the process not dumpable, no new privileges through exec.
absl::Status HardenProcess();

// Keeps the capabilities that the agent needs and gives up all others, for
// good. To be called before any thread exists. PermissionDenied names what is
// missing to run at all.
absl::Status DropCapabilities();

// Held for as long as the object lives.
class InstanceLock {
 public:
  // `folder` is made (0700) when absent. FailedPrecondition names the process
  // that holds it.
  static absl::StatusOr<std::unique_ptr<InstanceLock>> Take(
      const std::string& folder);
  ~InstanceLock();
  InstanceLock(const InstanceLock&) = delete;
  InstanceLock& operator=(const InstanceLock&) = delete;

 private:
  explicit InstanceLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_PROCESS_H_
