// What BpfGuard needs of the kernel. An interface, so that tests can let the
// n-th call fail.
#ifndef ESPALIER_AGENT_GUARD_BPF_SYSTEM_H_
#define ESPALIER_AGENT_GUARD_BPF_SYSTEM_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/guard/bpf_object.h"
#include "agent/netlink/route_types.h"
#include "bpf/shared_types.h"

namespace espalier::guard {

// How a program stands in a device's hook.
enum class Standing : uint8_t {
  kInPlace,   // these very programs, and nothing before them
  kStandIn,   // the same, but others could still come before: AttachAtOnce
  kOld,       // programs of another life or version of the agent
  kNotFirst,  // somebody's program comes before
  kMissing,
};

// One thread at a time.
class BpfSystem {
 public:
  virtual ~BpfSystem() = default;

  // Loads the programs and finds or makes the maps. Once; the rest needs it.
  virtual absl::Status Load() = 0;

  // What is to outlive the agent is pinned in a bpffs: pins again what somebody
  // has removed, and says whether there was such. FailedPrecondition when there
  // is no bpffs any more: until there is, what stands ends with this process.
  virtual absl::StatusOr<bool> KeepPins() = 0;

  virtual absl::StatusOr<MapContents> Read(BpfMap map) = 0;
  virtual absl::Status Update(BpfMap map, const std::string& key,
                              const std::string& value) = 0;
  // OK when it is not there.
  virtual absl::Status Delete(BpfMap map, const std::string& key) = 0;
  virtual absl::StatusOr<espalier_counters> ReadCounters(uint32_t slot) = 0;
  virtual absl::Status ResetCounters(uint32_t slot) = 0;

  virtual absl::StatusOr<std::vector<netlink::Link>> ListLinks() = 0;

  // NotFound when the device is gone.
  virtual absl::StatusOr<Standing> Inspect(uint32_t ifindex,
                                           BpfProgram program) = 0;
  // Afterwards it is kInPlace. A packet is judged by the old or by the new
  // program, never by none.
  virtual absl::Status Attach(uint32_t ifindex, BpfProgram program) = 0;
  // For a device that is not up yet, whose pod somebody waits for: kStandIn
  // where Attach would wait for the kernel, until Attach is called.
  virtual absl::Status AttachAtOnce(uint32_t ifindex, BpfProgram program) = 0;
  // OK when it is not there.
  virtual absl::Status Detach(uint32_t ifindex, BpfProgram program) = 0;
  // What is left of devices that are gone.
  virtual absl::Status Forget(const std::vector<uint32_t>& alive) = 0;

  // Whether programs of an agent with another layout of the maps stand here.
  // They hold until RemovePredecessor.
  virtual absl::StatusOr<bool> HasPredecessor() = 0;
  virtual absl::Status RemovePredecessor() = 0;

  // Readable when there are events; -1: none.
  virtual int events_fd() = 0;
  virtual void ReadEvents(
      const std::function<void(const espalier_event&)>& handle) = 0;
};

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_BPF_SYSTEM_H_
