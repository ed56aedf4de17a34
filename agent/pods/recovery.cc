// Manager's way back after a restart, a lost file or a runtime that forgot.
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/pods/manager.h"
#include "agent/pods/names.h"

namespace espalier::pods {
namespace {

using base::Log;
using base::LogLevel;

constexpr size_t kMaxQueuedFile = 64 << 10;

}  // namespace

absl::Status Manager::Start() {
  const auto start = [this]() -> absl::Status {
    ipam::FileSystem* files = dependencies_.files;
    ESPALIER_RETURN_IF_ERROR(files->MakeDirectory(state_directory_));
    ESPALIER_RETURN_IF_ERROR(
        files->MakeDirectory(run_directory_.DeletionQueue()));
    ESPALIER_ASSIGN_OR_RETURN(
        const std::string boot_id,
        files->Read("/proc/sys/kernel/random/boot_id", 256));
    boot_id_ = std::string(absl::StripAsciiWhitespace(boot_id));
    ESPALIER_ASSIGN_OR_RETURN(ipam::Checkpoint::Loaded loaded,
                              checkpoint_.Load());
    if (!loaded.kept_aside.empty()) {
      Log(LogLevel::kError,
          "pod checkpoint is unusable; going by the interfaces that exist",
          {{"kept", loaded.kept_aside}, {"why", loaded.reason}});
    }
    if (!loaded.boot_id.empty() && loaded.boot_id != boot_id_) {
      // No interface outlives a boot.
      Log(LogLevel::kInfo, "pods of before the reboot forgotten",
          {{"pods", loaded.state.leases.size()}});
      loaded.state.leases.clear();
      // The clock began anew: what is left of their time is not known.
      for (ipam::State::Block& block : loaded.state.blocks) {
        if (block.withdrawn) {
          block.withdrawn = absl::ToUnixSeconds(dependencies_.clock->Now());
        }
      }
    }
    ESPALIER_ASSIGN_OR_RETURN(
        allocator_,
        ipam::Allocator::Restore(settings_.pod_cidrs, loaded.state));
    ESPALIER_RETURN_IF_ERROR(Reconcile());
    UpdateBlocks();
    return Save();
  };
  started_ = start();
  if (!started_.ok()) {
    Log(LogLevel::kError, "pods not taken over; trying again",
        {{"error", started_}});
    return started_;
  }
  TellGuard();
  ReplayDeletions();
  if (ready_.ok()) WriteHeartbeat();
  Log(LogLevel::kInfo, "pods taken over",
      {{"pods", allocator_.leases().size()}});
  return started_;
}

absl::Status Manager::Reconfigure(Settings settings) {
  if (!started_.ok()) {
    ESPALIER_RETURN_IF_ERROR(
        ipam::Allocator::Create(settings.pod_cidrs).status());
    settings_ = std::move(settings);
    return absl::OkStatus();
  }
  const bool same_cidrs = settings.pod_cidrs == settings_.pod_cidrs;
  if (!same_cidrs) {
    ESPALIER_ASSIGN_OR_RETURN(
        allocator_,
        ipam::Allocator::Restore(settings.pod_cidrs, allocator_.ToState()));
  }
  KeepKnownModes(&settings.modes);
  settings_ = std::move(settings);
  UpdateBlocks();
  // First: the node itself enforces a stronger mode at once.
  TellGuard();
  // Modes change with every pod of the node: no fsync where nothing is new.
  if (!same_cidrs || dirty_) SaveLater("a change of settings", Save());
  return absl::OkStatus();
}

void Manager::Tick() {
  if (!started_.ok() && !Start().ok()) return;
  ReplayDeletions();
  if (const absl::Status status = Reconcile(); !status.ok()) {
    Log(LogLevel::kWarning, "pod interfaces not listed", {{"error", status}});
  }
  if (UpdateBlocks()) TellGuard();
  if (dirty_) SaveLater("a tick", Save());
  if (ready_.ok()) WriteHeartbeat();
}

absl::Status Manager::Reconcile() {
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<OwnedInterface> interfaces,
                            dependencies_.network->List());
  std::set<std::string> present;
  for (const OwnedInterface& found : interfaces) {
    present.insert(found.owner);
    if (allocator_.Find(found.owner) == nullptr &&
        !destroying_.contains(found.owner)) {
      TakeOver(found);
    }
  }
  CollectGone(present);
  return absl::OkStatus();
}

// An interface that the checkpoint does not know. With routes it serves a pod:
// its addresses are in use. Without, a DEL was cut short.
void Manager::TakeOver(const OwnedInterface& found) {
  absl::Status status = absl::NotFoundError("it has no route");
  if (!found.addresses.empty()) {
    status = allocator_.Adopt(
        {found.owner,
         found.addresses,
         {{"network", found.network}, {"mtu", absl::StrCat(found.mtu)}}});
  }
  if (status.ok()) {
    dirty_ = true;
    TellGuard();
    Log(LogLevel::kWarning, "pod taken over by its interface",
        {{"owner", found.owner}, {"interface", found.host_interface}});
    return;
  }
  Log(LogLevel::kWarning, "left-over interface deleted",
      {{"owner", found.owner},
       {"interface", found.host_interface},
       {"why", status}});
  DestroyInBackground(found.owner);
}

void Manager::CollectGone(const std::set<std::string>& present) {
  std::vector<std::string> gone;
  std::vector<std::string> unfinished;
  for (const auto& [owner, lease] : allocator_.leases()) {
    if (destroying_.contains(owner)) continue;
    if (IsDetaching(lease)) {
      unfinished.push_back(owner);
      continue;
    }
    if (present.contains(owner)) continue;
    // While its namespace is there the runtime still knows it, and says DEL.
    const auto path = lease.labels.find("netns");
    const auto id = lease.labels.find("netnsId");
    if (path != lease.labels.end() && id != lease.labels.end()) {
      const auto actual = dependencies_.network->NamespaceId(path->second);
      if (actual.ok() && *actual == id->second) continue;
      // Not being able to look is not seeing that it is gone.
      if (!actual.ok() && !absl::IsNotFound(actual.status()) &&
          !absl::IsFailedPrecondition(actual.status())) {
        continue;
      }
    }
    gone.push_back(owner);
  }
  for (const std::string& owner : gone) {
    Log(LogLevel::kInfo, "pod is gone; its addresses are free",
        {{"owner", owner}});
    allocator_.Release(owner);
    dirty_ = true;
  }
  if (!gone.empty()) TellGuard();
  for (const std::string& owner : unfinished) DestroyInBackground(owner);
}

void Manager::ReplayDeletions() {
  const auto names = dependencies_.files->List(run_directory_.DeletionQueue());
  if (!names.ok()) {
    Log(LogLevel::kError, "queue of DELs not read",
        {{"error", names.status()}});
    return;
  }
  for (const std::string& name : *names) {
    ReplayDeletion(absl::StrCat(run_directory_.DeletionQueue(), "/", name));
  }
}

void Manager::ReplayDeletion(const std::string& path) {
  ipam::FileSystem* files = dependencies_.files;
  const auto text = files->Read(path, kMaxQueuedFile);
  if (absl::IsNotFound(text.status())) return;
  v1::DeleteRequest request;
  absl::Status status = text.status();
  if (status.ok() && !request.ParseFromString(*text)) {
    status = absl::InvalidArgumentError("it is no DeleteRequest");
  }
  if (status.ok()) {
    status = Detach(OwnerOf(request.attachment().container_id(),
                            request.attachment().interface_name()));
    if (!status.ok()) {
      Log(LogLevel::kError, "queued DEL failed; trying again",
          {{"file", path}, {"error", status}});
      return;
    }
    Log(LogLevel::kInfo, "queued DEL done", {{"file", path}});
  } else {
    Log(LogLevel::kError, "queued DEL is unusable; removed",
        {{"file", path}, {"error", status}});
  }
  if (const absl::Status removed = files->Remove(path); !removed.ok()) {
    Log(LogLevel::kError, "queued DEL not removed",
        {{"file", path}, {"error", removed}});
  }
}

void Manager::WriteHeartbeat() {
  if (!NotReady().ok()) return;
  const base::Heartbeat heartbeat{boot_id_, dependencies_.clock->Now()};
  const absl::Status status = dependencies_.files->Replace(
      run_directory_.HeartbeatFile(), heartbeat.ToString(), false);
  if (!status.ok()) {
    Log(LogLevel::kError, "heartbeat not written", {{"error", status}});
  }
}

}  // namespace espalier::pods
