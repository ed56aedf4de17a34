#include "agent/guard/kernel_bpf_system.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/route_client.h"

namespace espalier::guard {
namespace {

// Never given twice while the machine runs, unlike a namespace's inode: what a
// namespace that is gone has left pinned is not taken for another's.
absl::StatusOr<uint64_t> NamespaceCookie() {
  constexpr int kSoNetnsCookie = 71;  // Linux 5.14
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  const bool good = fd >= 0 && getsockopt(fd, SOL_SOCKET, kSoNetnsCookie,
                                          &cookie, &size) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!good) {
    return netlink::ErrnoToStatus(error, "the network namespace's cookie");
  }
  return cookie;
}

absl::Status MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  return netlink::ErrnoToStatus(errno, absl::StrCat("make directory ", path));
}

// A directory of pins with all that is in it. Links go before maps, so that no
// program stands without what it judges by.
absl::Status RemoveTree(const std::string& path) {
  for (const std::string& folder : {path + "/links", path}) {
    std::error_code error;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder, error)) {
      if (entry.path().filename() == "links") continue;
      if (unlink(entry.path().c_str()) != 0 && errno != ENOENT) {
        return netlink::ErrnoToStatus(
            errno, absl::StrCat("remove ", entry.path().string()));
      }
    }
    if (rmdir(folder.c_str()) != 0 && errno != ENOENT) {
      return netlink::ErrnoToStatus(errno, absl::StrCat("remove ", folder));
    }
  }
  return absl::OkStatus();
}

// The folders of versions below that of a namespace.
std::vector<std::string> Versions(const std::string& own) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(own, error)) {
    if (entry.path().filename().string().starts_with("v")) {
      out.push_back(entry.path().string());
    }
  }
  return out;
}

// Of the folder, or of the one that it would be made in.
absl::Status CheckBpffs(const std::string& path) {
  struct statfs info{};
  std::filesystem::path there = path;
  int result = statfs(there.c_str(), &info);
  if (result != 0 && errno == ENOENT) {
    there = there.parent_path();
    result = statfs(there.c_str(), &info);
  }
  if (result != 0) {
    return netlink::ErrnoToStatus(errno,
                                  absl::StrCat("look at ", there.string()));
  }
  if (static_cast<uint64_t>(info.f_type) != BPF_FS_MAGIC) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     " is not on a bpffs, so that the guard would end with the "
                     "agent; mount one: mount -t bpf bpf /sys/fs/bpf"));
  }
  return absl::OkStatus();
}

int HandleRecord(void* context, void* data, size_t size) {
  espalier_event event{};
  if (size < sizeof(event)) return 0;
  std::memcpy(&event, data, sizeof(event));
  const auto* handle =
      *static_cast<const std::function<void(const espalier_event&)>**>(context);
  if (handle != nullptr) (*handle)(event);
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<KernelBpfSystem>> KernelBpfSystem::Open(
    const KernelBpfOptions& options) {
  ESPALIER_ASSIGN_OR_RETURN(const uint64_t cookie, NamespaceCookie());
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Socket> socket,
                            netlink::Socket::Open());
  const std::string own = absl::StrCat(options.pin_root, "/", cookie);
  const std::string directory = absl::StrCat(own, "/v", ESPALIER_MAP_VERSION);
  ESPALIER_RETURN_IF_ERROR(CheckBpffs(options.pin_root));
  std::unique_ptr<KernelBpfSystem> system(
      new KernelBpfSystem(options, directory, std::move(socket)));
  ESPALIER_RETURN_IF_ERROR(system->MakeDirectories());
  return system;
}

absl::Status KernelBpfSystem::MakeDirectories() const {
  const std::string own = std::filesystem::path(directory_).parent_path();
  for (const std::string& path :
       {options_.pin_root, own, directory_, directory_ + "/links"}) {
    ESPALIER_RETURN_IF_ERROR(MakeDirectory(path));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> KernelBpfSystem::Remove(const KernelBpfOptions& options) {
  ESPALIER_ASSIGN_OR_RETURN(const uint64_t cookie, NamespaceCookie());
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Socket> socket,
                            netlink::Socket::Open());
  const std::string own = absl::StrCat(options.pin_root, "/", cookie);
  const std::vector<std::string> versions = Versions(own);
  for (const std::string& version : versions) {
    ESPALIER_RETURN_IF_ERROR(RemoveTree(version));
  }
  if (rmdir(own.c_str()) != 0 && errno != ENOENT) {
    return netlink::ErrnoToStatus(errno, absl::StrCat("remove ", own));
  }
  // Filters know themselves by their names.
  const std::unique_ptr<Hooks> filters = MakeClsactHooks(nullptr, socket.get());
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Link> links,
                            netlink::RouteClient(socket.get()).ListLinks());
  for (const netlink::Link& link : links) {
    for (int i = 0; i < kBpfPrograms; ++i) {
      absl::Status status =
          filters->Detach(link.index, static_cast<BpfProgram>(i));
      if (!status.ok() && !absl::IsNotFound(status)) return status;
    }
  }
  return !versions.empty();
}

absl::StatusOr<bool> KernelBpfSystem::HasPredecessor() {
  const std::string own = std::filesystem::path(directory_).parent_path();
  for (const std::string& version : Versions(own)) {
    if (version != directory_) return true;
  }
  return false;
}

absl::Status KernelBpfSystem::RemovePredecessor() {
  const std::string own = std::filesystem::path(directory_).parent_path();
  for (const std::string& version : Versions(own)) {
    if (version != directory_) ESPALIER_RETURN_IF_ERROR(RemoveTree(version));
  }
  return absl::OkStatus();
}

KernelBpfSystem::KernelBpfSystem(const KernelBpfOptions& options,
                                 std::string directory,
                                 std::unique_ptr<netlink::Socket> socket)
    : options_(options),
      directory_(std::move(directory)),
      socket_(std::move(socket)) {}

KernelBpfSystem::~KernelBpfSystem() {
  if (ring_ != nullptr) ring_buffer__free(ring_);
}

absl::Status KernelBpfSystem::LoadCopy(std::optional<BpfProgram> only) {
  Copy copy;
  if (only) {
    ESPALIER_ASSIGN_OR_RETURN(
        copy.object, BpfObject::LoadCopy(*copies_.front().object, *only));
  } else {
    ESPALIER_ASSIGN_OR_RETURN(copy.object, BpfObject::Load(directory_));
  }
  for (int i = 0; i < kBpfPrograms; ++i) {
    const int loaded = copy.object->fd(static_cast<BpfProgram>(i));
    if (loaded < 0) continue;
    ESPALIER_ASSIGN_OR_RETURN(copy.ids[i], ProgramId(loaded));
  }
  copies_.push_back(std::move(copy));
  // Where one stands that is forgotten here, it counts as old and is replaced.
  constexpr size_t kMaxCopies = 4;
  if (copies_.size() > kMaxCopies) copies_.erase(copies_.begin() + 1);
  return absl::OkStatus();
}

absl::Status KernelBpfSystem::Load() {
  if (copies_.empty()) ESPALIER_RETURN_IF_ERROR(LoadCopy(std::nullopt));
  if (!hooks_) {
    std::unique_ptr<Hooks> filters = MakeClsactHooks(this, socket_.get());
    if (options_.force_clsact || !KernelHasTcx()) {
      hooks_ = std::move(filters);
    } else {
      hooks_ = MakeTcxHooks(this, directory_ + "/links");
      stand_ins_ = std::move(filters);
    }
  }
  if (ring_ == nullptr) {
    ring_ = ring_buffer__new(copies_.front().object->fd(BpfMap::kEvents),
                             HandleRecord, &handle_, nullptr);
    if (ring_ == nullptr) {
      return netlink::ErrnoToStatus(errno, "eBPF: open the ring of events");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> KernelBpfSystem::KeepPins() {
  ESPALIER_RETURN_IF_ERROR(CheckBpffs(options_.pin_root));
  bool pinned = false;
  for (int i = 0; i < kBpfMaps; ++i) {
    const auto map = static_cast<BpfMap>(i);
    const std::string path = absl::StrCat(directory_, "/", MapName(map));
    if (access(path.c_str(), F_OK) == 0) continue;
    ESPALIER_RETURN_IF_ERROR(MakeDirectories());
    if (bpf_obj_pin(copies_.front().object->fd(map), path.c_str()) != 0) {
      return netlink::ErrnoToStatus(errno, absl::StrCat("eBPF: pin ", path));
    }
    pinned = true;
  }
  ESPALIER_RETURN_IF_ERROR(hooks_->KeepPins());
  return pinned;
}

int KernelBpfSystem::fd(BpfProgram program) const {
  for (auto copy = copies_.rbegin(); copy != copies_.rend(); ++copy) {
    if (copy->object->fd(program) >= 0) return copy->object->fd(program);
  }
  return -1;
}

bool KernelBpfSystem::IsCurrent(BpfProgram program, uint32_t id) const {
  if (id == 0) return false;
  for (const Copy& copy : copies_) {
    if (copy.ids[static_cast<int>(program)] == id) return true;
  }
  return false;
}

absl::StatusOr<int> KernelBpfSystem::FreshCopy(BpfProgram program) {
  ESPALIER_RETURN_IF_ERROR(LoadCopy(program));
  return fd(program);
}

absl::StatusOr<MapContents> KernelBpfSystem::Read(BpfMap map) {
  return copies_.front().object->Read(map);
}

absl::Status KernelBpfSystem::Update(BpfMap map, const std::string& key,
                                     const std::string& value) {
  return copies_.front().object->Update(map, key, value);
}

absl::Status KernelBpfSystem::Delete(BpfMap map, const std::string& key) {
  const absl::Status status = copies_.front().object->Delete(map, key);
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::StatusOr<espalier_counters> KernelBpfSystem::ReadCounters(uint32_t slot) {
  return copies_.front().object->ReadCounters(slot);
}

absl::Status KernelBpfSystem::ResetCounters(uint32_t slot) {
  return copies_.front().object->ResetCounters(slot);
}

absl::StatusOr<std::vector<netlink::Link>> KernelBpfSystem::ListLinks() {
  return netlink::RouteClient(socket_.get()).ListLinks();
}

absl::StatusOr<Standing> KernelBpfSystem::Inspect(uint32_t ifindex,
                                                  BpfProgram program) {
  ESPALIER_ASSIGN_OR_RETURN(Standing standing,
                            hooks_->Inspect(ifindex, program));
  if (standing != Standing::kMissing || !HasStandIn(program)) return standing;
  ESPALIER_ASSIGN_OR_RETURN(standing, stand_ins_->Inspect(ifindex, program));
  return standing == Standing::kInPlace ? Standing::kStandIn : standing;
}

absl::Status KernelBpfSystem::Attach(uint32_t ifindex, BpfProgram program) {
  ESPALIER_RETURN_IF_ERROR(hooks_->Attach(ifindex, program));
  // Meanwhile packets are judged by both, and alike.
  return HasStandIn(program) ? stand_ins_->Detach(ifindex, program)
                             : absl::OkStatus();
}

absl::Status KernelBpfSystem::AttachAtOnce(uint32_t ifindex,
                                           BpfProgram program) {
  if (!HasStandIn(program)) return Attach(ifindex, program);
  ESPALIER_ASSIGN_OR_RETURN(const Standing standing,
                            hooks_->Inspect(ifindex, program));
  return standing == Standing::kMissing ? stand_ins_->Attach(ifindex, program)
                                        : Attach(ifindex, program);
}

absl::Status KernelBpfSystem::Detach(uint32_t ifindex, BpfProgram program) {
  ESPALIER_RETURN_IF_ERROR(hooks_->Detach(ifindex, program));
  return HasStandIn(program) ? stand_ins_->Detach(ifindex, program)
                             : absl::OkStatus();
}

bool KernelBpfSystem::HasStandIn(BpfProgram program) const {
  return stand_ins_ != nullptr &&
         (program == BpfProgram::kFromPod || program == BpfProgram::kToPod);
}

absl::Status KernelBpfSystem::Forget(const std::vector<uint32_t>& alive) {
  return hooks_->Forget(alive);
}

int KernelBpfSystem::events_fd() {
  return ring_ == nullptr ? -1 : ring_buffer__epoll_fd(ring_);
}

void KernelBpfSystem::ReadEvents(
    const std::function<void(const espalier_event&)>& handle) {
  if (ring_ == nullptr) return;
  handle_ = &handle;
  ring_buffer__consume(ring_);
  handle_ = nullptr;
}

}  // namespace espalier::guard
