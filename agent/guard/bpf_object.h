// The compiled programs of bpf/, loaded: file descriptors of programs and maps.
#ifndef ESPALIER_AGENT_GUARD_BPF_OBJECT_H_
#define ESPALIER_AGENT_GUARD_BPF_OBJECT_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "bpf/shared_types.h"

struct bpf_object;

namespace espalier::guard {

enum class BpfProgram : uint8_t {
  kFromPod,
  kToPod,
  kUplinkIn,
  kUplinkOut,
  kL3In,  // of devices without a link header
  kL3Out,
};
inline constexpr int kBpfPrograms = 6;
// As people know it, "from_pod"; and as the kernel does, "esp_from_pod".
const char* HookName(BpfProgram program);
const char* KernelName(BpfProgram program);

enum class BpfMap : uint8_t {
  kConfig,
  kPods,
  kAddresses,
  kBlocks4,
  kBlocks6,
  kFlows,
  kCounters,
  kBudgets,
  kEvents,
};
inline constexpr int kBpfMaps = 9;
const char* MapName(BpfMap map);

// Keys and values as the bytes that the kernel holds.
using MapContents = std::map<std::string, std::string>;

class BpfObject {
 public:
  // Loads programs and maps. With `pin_directory` (in a bpffs, existing) maps
  // are pinned there, and those that an earlier agent pinned are used.
  // FailedPrecondition when the kernel refuses; the message has its reason.
  static absl::StatusOr<std::unique_ptr<BpfObject>> Load(
      const std::string& pin_directory);
  // A copy of one program (the kernel takes its time to verify each) on the
  // maps of `whole`.
  static absl::StatusOr<std::unique_ptr<BpfObject>> LoadCopy(
      const BpfObject& whole, BpfProgram only);
  ~BpfObject();

  // -1: not loaded.
  int fd(BpfProgram program) const;
  int fd(BpfMap map) const;

  absl::Status Update(BpfMap map, const std::string& key,
                      const std::string& value);
  // NotFound when it is not there.
  absl::Status Delete(BpfMap map, const std::string& key);
  // Of maps that are neither per-CPU nor a ring buffer.
  absl::StatusOr<MapContents> Read(BpfMap map) const;

  // Summed over the CPUs.
  absl::StatusOr<espalier_counters> ReadCounters(uint32_t slot) const;
  absl::Status ResetCounters(uint32_t slot);

 private:
  explicit BpfObject(bpf_object* object) : object_(object) {}

  static absl::StatusOr<std::unique_ptr<BpfObject>> Open();
  absl::Status LoadPrograms(std::optional<BpfProgram> only);

  bpf_object* object_;
  std::array<int, kBpfPrograms> programs_{};
  std::array<int, kBpfMaps> maps_{};
};

// The bytes of a key or value.
template <typename T>
std::string ToBytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
// `bytes` must have the size of T; zeros otherwise.
template <typename T>
T FromBytes(const std::string& bytes) {
  T value{};
  if (bytes.size() == sizeof(T)) {
    __builtin_memcpy(&value, bytes.data(), sizeof(T));
  }
  return value;
}

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_BPF_OBJECT_H_
