// BpfSystem on the kernel: libbpf, tcx or clsact, bpffs.
#ifndef ESPALIER_AGENT_GUARD_KERNEL_BPF_SYSTEM_H_
#define ESPALIER_AGENT_GUARD_KERNEL_BPF_SYSTEM_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/guard/bpf_system.h"
#include "agent/guard/hooks.h"
#include "agent/netlink/socket.h"

struct ring_buffer;

namespace espalier::guard {

struct KernelBpfOptions {
  // A bpffs must be mounted there or above. Maps and links of one network
  // namespace and one version of the maps lie in
  // PIN_ROOT/COOKIE_OF_THE_NAMESPACE/vVERSION.
  std::string pin_root = "/sys/fs/bpf/espalier";
  // clsact even where the kernel has tcx.
  bool force_clsact = false;
};

class KernelBpfSystem : public BpfSystem, private ProgramSource {
 public:
  // In the network namespace of the calling thread.
  static absl::StatusOr<std::unique_ptr<KernelBpfSystem>> Open(
      const KernelBpfOptions& options);
  // Takes the guard of this namespace away, whatever version: programs, links
  // and maps. Whether there was one. The last step of an uninstallation.
  static absl::StatusOr<bool> Remove(const KernelBpfOptions& options);
  ~KernelBpfSystem() override;

  absl::Status Load() override;
  absl::StatusOr<bool> KeepPins() override;
  absl::StatusOr<MapContents> Read(BpfMap map) override;
  absl::Status Update(BpfMap map, const std::string& key,
                      const std::string& value) override;
  absl::Status Delete(BpfMap map, const std::string& key) override;
  absl::StatusOr<espalier_counters> ReadCounters(uint32_t slot) override;
  absl::Status ResetCounters(uint32_t slot) override;
  absl::StatusOr<std::vector<netlink::Link>> ListLinks() override;
  absl::StatusOr<Standing> Inspect(uint32_t ifindex,
                                   BpfProgram program) override;
  absl::Status Attach(uint32_t ifindex, BpfProgram program) override;
  absl::Status AttachAtOnce(uint32_t ifindex, BpfProgram program) override;
  absl::Status Detach(uint32_t ifindex, BpfProgram program) override;
  absl::Status Forget(const std::vector<uint32_t>& alive) override;
  absl::StatusOr<bool> HasPredecessor() override;
  absl::Status RemovePredecessor() override;
  int events_fd() override;
  void ReadEvents(
      const std::function<void(const espalier_event&)>& handle) override;

  // Where its maps are pinned.
  const std::string& pin_directory() const { return directory_; }

 private:
  KernelBpfSystem(const KernelBpfOptions& options, std::string directory,
                  std::unique_ptr<netlink::Socket> socket);

  // ProgramSource.
  int fd(BpfProgram program) const override;
  bool IsCurrent(BpfProgram program, uint32_t id) const override;
  absl::StatusOr<int> FreshCopy(BpfProgram program) override;

  // Of pods alone: other devices carry traffic before they are seen.
  bool HasStandIn(BpfProgram program) const;
  absl::Status MakeDirectories() const;
  absl::Status LoadCopy(std::optional<BpfProgram> only);

  KernelBpfOptions options_;
  std::string directory_;
  std::unique_ptr<netlink::Socket> socket_;
  // First the whole, then copies of single programs, the newest last.
  struct Copy {
    std::unique_ptr<BpfObject> object;
    std::array<uint32_t, kBpfPrograms> ids{};  // 0: not in this copy
  };
  std::vector<Copy> copies_;
  std::unique_ptr<Hooks> hooks_;
  // Filters in the place of tcx, which waits for a grace period of the kernel's
  // RCU with each program: 24 ms a pod. Null: hooks_ are filters.
  std::unique_ptr<Hooks> stand_ins_;
  ring_buffer* ring_ = nullptr;
  const std::function<void(const espalier_event&)>* handle_ = nullptr;
};

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_KERNEL_BPF_SYSTEM_H_
