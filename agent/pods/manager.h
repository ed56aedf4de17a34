// The operations of espalier.v1.Cni: which pods are attached, kept in step
// with the checkpoint and the kernel.
#ifndef ESPALIER_AGENT_PODS_MANAGER_H_
#define ESPALIER_AGENT_PODS_MANAGER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/clock.h"
#include "agent/base/executor.h"
#include "agent/base/ip_address.h"
#include "agent/base/pod_modes.h"
#include "agent/base/run_directory.h"
#include "agent/ipam/allocator.h"
#include "agent/ipam/checkpoint.h"
#include "agent/ipam/file_system.h"
#include "agent/pods/pod_network.h"
#include "espalier/v1/cni.pb.h"

namespace espalier::pods {

// What may change while the agent runs.
struct Settings {
  std::vector<base::IpPrefix> pod_cidrs;
  uint32_t mtu = 0;  // of pods' interfaces, octets
  base::PodModes modes;
  // How long peers may go by a plaintext block that was withdrawn.
  absl::Duration plaintext_settle = absl::Seconds(30);
};

struct PodInfo {
  std::string network;
  std::string container_id;
  std::string interface_name;
  // Empty outside Kubernetes, and for a pod that was found without a
  // checkpoint.
  std::string pod_namespace;
  std::string pod_name;
  std::string pod_uid;
  std::string network_namespace;
  std::string host_interface;
  std::vector<base::IpAddress> addresses;
  uint32_t mtu = 0;
  netlink::MacAddress mac{};  // of the pod's end
  // What holds for it now, on this node.
  base::PodPolicy policy;
  // It is `required` here, but peers may still go by a block that allowed
  // plaintext to its address.
  bool settling = false;
};

// What stands between pods and the wire. On the manager's thread; may block.
class PodGuard {
 public:
  virtual ~PodGuard() = default;
  // The pod's interfaces are there and down; on OK it is guarded, and stays so
  // until a SetPods without it.
  virtual absl::Status Protect(const PodInfo& pod) = 0;
  // All whose interfaces exist, those being taken away included. Called
  // whenever that or a policy has changed, and not before all are known.
  virtual void SetPods(std::vector<PodInfo> pods) = 0;
};

// Who knows what a pod asks for that the settings do not have yet. On the
// manager's thread; may block for a short, bounded time.
class ModeSource {
 public:
  virtual ~ModeSource() = default;
  // The namespace's wish and that of the pod of this uid, for settings with
  // PodModes::listed. An error says why they cannot be known now.
  struct Wishes {
    base::PodWish of_namespace;
    base::PodWish of_pod;
  };
  virtual absl::StatusOr<Wishes> Ask(const std::string& pod_namespace,
                                     const std::string& pod_name,
                                     const std::string& pod_uid) = 0;
};

struct Snapshot {
  std::vector<PodInfo> pods;
  // Where this node's `disabled` pods are, for its peers.
  std::vector<base::IpPrefix> plaintext_blocks;
  ipam::Allocator::Usage ipv4;
  ipam::Allocator::Usage ipv6;
};

// On one thread, which it blocks (netlink, fsync): not the loop's. An address
// is given out only after the checkpoint that says so is on disk, and given
// back only after its interfaces are gone.
//
// The kernel takes 20 ms and more to delete an interface pair. DEL therefore
// takes the way to the pod, notes in the checkpoint what is under way, and
// answers; the pair is deleted on `reaper`.
class Manager {
 public:
  struct Dependencies {
    PodNetwork* network;
    ipam::FileSystem* files;
    base::Clock* clock;
    base::Executor* self;         // the thread on which all calls are
    base::Executor* reaper;       // where interfaces are deleted; may be `self`
    PodGuard* guard = nullptr;    // null: nothing is guarded (tests)
    ModeSource* modes = nullptr;  // null: the settings are all there is
  };

  // Borrowed; everything posted must have run before this goes.
  Manager(std::string run_directory, std::string state_directory,
          Settings settings, Dependencies dependencies);

  // Until Start has succeeded, and the status given here is OK, every
  // operation but Delete's queue answers "try again later" with this reason.
  void SetReady(absl::Status ready);

  // While it is not OK, ADD answers "try again later" and STATUS "not
  // available", with this reason; all else goes on.
  void SetRefusal(absl::Status refusal) { refusal_ = std::move(refusal); }

  // Reads the checkpoint and brings it in line with the interfaces that exist.
  // Tick repeats it while it fails.
  absl::Status Start();

  // To be called every base::kHeartbeatInterval: writes the heartbeat, does
  // the DELs that were left while no agent was there, collects what is gone.
  void Tick();

  // Pods that are attached keep what they have. InvalidArgument leaves the old
  // settings.
  absl::Status Reconfigure(Settings settings);

  // `done` runs before Add returns, or, when a DEL is under way that has to end
  // first, after it.
  void Add(const v1::AddRequest& request,
           std::function<void(v1::AddResponse)> done);
  v1::DeleteResponse Delete(const v1::DeleteRequest& request);
  v1::CheckResponse Check(const v1::CheckRequest& request);
  v1::CollectGarbageResponse CollectGarbage(
      const v1::CollectGarbageRequest& request);
  v1::StatusResponse Status();

  Snapshot TakeSnapshot() const;

 private:
  struct DeferredAdd {
    v1::AddRequest request;
    std::function<void(v1::AddResponse)> done;
    // It has waited once for an address that a DEL under way will free.
    bool waited_for_address = false;
  };

  absl::Status NotReady() const;
  absl::Status Save();
  void SaveLater(absl::string_view why, const absl::Status& status);
  PodNetworkSpec SpecOf(const ipam::Lease& lease) const;
  bool IsDetaching(const ipam::Lease& lease) const;
  base::PodPolicy PolicyOf(const ipam::Lease& lease) const;
  PodInfo InfoOf(const ipam::Lease& lease) const;
  base::PodPolicy AskedPolicyOf(const ipam::Lease& lease) const;
  // Withdraws blocks that hold what must not be plaintext, and retires those
  // that peers have forgotten. True when there were such.
  bool UpdateBlocks();
  void TellGuard();

  void AddOrDefer(DeferredAdd add);
  // Before a pod is attached what it asks for must be known.
  std::optional<v1::Error> LearnMode(const v1::PodIdentity& pod);
  void KeepKnownModes(base::PodModes* modes) const;
  v1::AddResponse AddNow(const v1::AddRequest& request,
                         const std::string& namespace_id);
  std::optional<v1::Error> ClearOld(const v1::AddRequest& request,
                                    const std::string& owner,
                                    const std::string& namespace_id,
                                    v1::AddResponse* standing);
  absl::StatusOr<ipam::Lease> AllocateFor(const v1::AddRequest& request,
                                          const std::string& owner,
                                          const std::string& namespace_id);
  v1::Error AttachFailed(const ipam::Lease& lease, const absl::Status& status);
  bool MustWait(const std::string& owner, const std::string& namespace_id,
                const std::string& interface_name) const;

  absl::Status Detach(const std::string& owner);
  void DestroyInBackground(const std::string& owner);
  void FinishDestroy(const std::string& owner, const absl::Status& status);

  absl::Status Reconcile();
  void TakeOver(const OwnedInterface& found);
  void CollectGone(const std::set<std::string>& present);
  void ReplayDeletions();
  void ReplayDeletion(const std::string& path);
  void WriteHeartbeat();

  const base::RunDirectory run_directory_;
  const std::string state_directory_;
  Settings settings_;
  const Dependencies dependencies_;
  ipam::Checkpoint checkpoint_;
  ipam::Allocator allocator_;
  std::string boot_id_;
  absl::Status ready_;
  absl::Status started_;
  absl::Status refusal_;
  // The checkpoint on disk lags behind.
  bool dirty_ = false;
  std::set<std::string> destroying_;
  std::vector<DeferredAdd> deferred_;
};

}  // namespace espalier::pods

#endif  // ESPALIER_AGENT_PODS_MANAGER_H_
