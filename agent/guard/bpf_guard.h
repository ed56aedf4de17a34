// Guard by eBPF: keeps maps and programs as DesiredGuard says, on every device
// there is.
#ifndef ESPALIER_AGENT_GUARD_BPF_GUARD_H_
#define ESPALIER_AGENT_GUARD_BPF_GUARD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "agent/base/clock.h"
#include "agent/base/event_loop.h"
#include "agent/guard/bpf_state.h"
#include "agent/guard/bpf_system.h"
#include "agent/guard/guard.h"
#include "agent/guard/kernel_bpf_system.h"
#include "agent/netlink/socket.h"

namespace espalier::guard {

struct BpfGuardOptions {
  // Nobody tells of a program that was detached or put in front: looked for
  // this often.
  absl::Duration check = absl::Seconds(1);
  // And of an entry of a map that was changed.
  absl::Duration resync = absl::Seconds(30);
  absl::Duration first_retry = absl::Milliseconds(200);
  absl::Duration longest_retry = absl::Seconds(30);
  // Devices come in swarms: one look for all within this time.
  absl::Duration settle = absl::Milliseconds(10);
  // What was put at once for a pod is made firm when no pod has come for this
  // long, or this long after its own: it takes the kernel's lock for 24 ms, for
  // which all other pods that start then would wait.
  absl::Duration firm_after = absl::Seconds(2);
  absl::Duration firm_latest = absl::Minutes(1);
  // One pod in this time, so that the loop has other turns as well.
  absl::Duration firm_every = absl::Milliseconds(200);
};

class BpfGuard : public Guard {
 public:
  // In the network namespace of the calling thread. FailedPrecondition and the
  // like when this kernel or this machine cannot have it.
  static absl::StatusOr<std::unique_ptr<BpfGuard>> Open(
      base::EventLoop* loop, base::Clock* clock,
      const KernelBpfOptions& kernel = {}, const BpfGuardOptions& options = {});
  // Over what a test brings. `notifications` may be null.
  BpfGuard(base::EventLoop* loop, base::Clock* clock,
           std::unique_ptr<BpfSystem> system,
           std::unique_ptr<netlink::Socket> notifications,
           const BpfGuardOptions& options);
  // Programs, maps and links stay as they are.
  ~BpfGuard() override;

  void SetDesired(DesiredGuard desired) override;
  absl::Status Protect(const GuardedPod& pod) override;
  std::vector<GuardProblem> Problems() const override;
  std::vector<VerdictCount> Counters() const override;
  void OnDrop(DropCallback callback) override;
  void OnRepair(RepairCallback callback) override;

 private:
  struct Place {
    uint32_t ifindex = 0;
    BpfProgram program = BpfProgram::kFromPod;
    friend auto operator<=>(const Place&, const Place&) = default;
  };
  enum class Depth : uint8_t { kAttachments, kEverything };

  void Sync(Depth depth);
  absl::Status EnsureLoaded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReadLinks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SyncLocked(Depth depth) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `desired_` and what Protect added.
  DesiredGuard Effective() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // But for the pods.
  BpfPlaces PlacesOf(const DesiredGuard& desired) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SyncMaps() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteMap(BpfMap map, const MapContents& desired,
                        const MapContents& actual, bool weakening)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RemoveStale(BpfMap map, const MapContents& desired,
                           const MapContents& actual)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SyncConfig(const MapContents& desired, const MapContents& actual,
                          bool complete) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AssignSlots(const MapContents& actual, BpfPlaces* places)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SyncAttachments() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SyncPlace(const Place& place, const std::string& device)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StandInMayStay(uint32_t ifindex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<BpfProgram> ProgramsFor(const netlink::Link& link) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsPod(const netlink::Link& link) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const std::string& item, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Repaired(const std::string& item, const std::string& what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string DeviceName(uint32_t ifindex) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void HandleEvents();
  DropEvent ToDropEvent(const espalier_event& event) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ArmTimer(absl::Duration delay);

  base::EventLoop* loop_;
  base::Clock* clock_;
  std::unique_ptr<netlink::Socket> notifications_;
  BpfGuardOptions options_;
  DropCallback on_drop_;
  RepairCallback on_repair_;
  base::EventLoop::TimerId timer_ = 0;
  base::Instant next_resync_ = absl::InfinitePast();
  absl::Duration retry_;
  int watched_ = -1;

  mutable absl::Mutex mutex_;
  std::unique_ptr<BpfSystem> system_ ABSL_GUARDED_BY(mutex_);
  bool loaded_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<DesiredGuard> desired_ ABSL_GUARDED_BY(mutex_);
  // By host interface; until its device is gone or desired_ has it.
  std::map<std::string, GuardedPod> protected_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, netlink::Link> links_ ABSL_GUARDED_BY(mutex_);
  // Devices that have been a pod's stay a pod's while they exist.
  std::set<uint32_t> pod_devices_ ABSL_GUARDED_BY(mutex_);
  // A stand-in is good enough until the first of these: of all, and by ifindex.
  base::Instant quiet_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::map<uint32_t, base::Instant> firm_at_ ABSL_GUARDED_BY(mutex_);
  // In this look: the device that is made firm, and whether others wait.
  uint32_t firming_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stand_ins_wait_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<uint32_t, uint32_t> slots_ ABSL_GUARDED_BY(mutex_);  // by ifindex
  // What was found or put in place before: what is not there any more was
  // taken away by somebody.
  std::set<Place> stood_ ABSL_GUARDED_BY(mutex_);
  std::map<BpfMap, MapContents> written_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::Status> failed_ ABSL_GUARDED_BY(mutex_);
  std::vector<GuardProblem> repaired_ ABSL_GUARDED_BY(mutex_);
};

// "esp" and 11 hexadecimal digits, as agent/pods names them: its programs stand
// on such a device before anybody says whose it is.
bool LooksLikePodInterface(const std::string& name);

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_BPF_GUARD_H_
