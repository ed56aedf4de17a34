// The two ways to stand first in a device's traffic control hook.
#ifndef ESPALIER_AGENT_GUARD_HOOKS_H_
#define ESPALIER_AGENT_GUARD_HOOKS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/guard/bpf_object.h"
#include "agent/guard/bpf_system.h"
#include "agent/netlink/channel.h"

namespace espalier::guard {

bool IsIngress(BpfProgram program);

// The kernel's number of the program behind a descriptor.
absl::StatusOr<uint32_t> ProgramId(int fd);

// The programs as they are loaded now.
class ProgramSource {
 public:
  virtual ~ProgramSource() = default;
  virtual int fd(BpfProgram program) const = 0;
  // Whether a program in the kernel is one of these.
  virtual bool IsCurrent(BpfProgram program, uint32_t id) const = 0;
  // A copy that is attached nowhere: one program stands in a hook only once.
  virtual absl::StatusOr<int> FreshCopy(BpfProgram program) = 0;
};

class Hooks {
 public:
  virtual ~Hooks() = default;
  virtual absl::StatusOr<Standing> Inspect(uint32_t ifindex,
                                           BpfProgram program) = 0;
  virtual absl::Status Attach(uint32_t ifindex, BpfProgram program) = 0;
  virtual absl::Status Detach(uint32_t ifindex, BpfProgram program) = 0;
  virtual absl::Status Forget(const std::vector<uint32_t>& alive) = 0;
  // Pins what could not be pinned when it was attached.
  virtual absl::Status KeepPins() { return absl::OkStatus(); }
};

// tcx (Linux 6.6): links pinned in `pin_directory`, so that they stay when the
// agent is gone.
std::unique_ptr<Hooks> MakeTcxHooks(ProgramSource* programs,
                                    const std::string& pin_directory);
// Whether this kernel has it.
bool KernelHasTcx();

// Filters of a clsact qdisc at priority 1, which stay with their device. The
// qdisc is never removed nor made anew: that costs packets.
std::unique_ptr<Hooks> MakeClsactHooks(ProgramSource* programs,
                                       netlink::Channel* channel);

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_HOOKS_H_
