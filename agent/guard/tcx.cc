#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/guard/hooks.h"
#include "agent/netlink/channel.h"

// Debian 12's headers and libbpf are older than tcx: its part of the bpf()
// system call, as <linux/bpf.h> of Linux 6.6 has it.
namespace espalier::guard {
namespace {

constexpr uint32_t kTcxIngress = 46;   // BPF_TCX_INGRESS
constexpr uint32_t kTcxEgress = 47;    // BPF_TCX_EGRESS
constexpr uint32_t kBefore = 1 << 3;   // BPF_F_BEFORE; of nothing: the head
constexpr uint32_t kMaxPrograms = 64;  // the kernel's own limit

struct LinkCreate {
  uint32_t prog_fd;
  uint32_t target_ifindex;
  uint32_t attach_type;
  uint32_t flags;
  uint32_t relative_fd;
  uint32_t unused;
  uint64_t expected_revision;
};
struct LinkQuery {
  uint32_t target_ifindex;
  uint32_t attach_type;
  uint32_t query_flags;
  uint32_t attach_flags;
  uint64_t prog_ids;
  uint32_t count;
  uint32_t unused;
  uint64_t prog_attach_flags;
  uint64_t link_ids;
  uint64_t link_attach_flags;
  uint64_t revision;
};

template <typename T>
int Bpf(int command, T* attributes) {
  return static_cast<int>(
      syscall(__NR_bpf, command, attributes, sizeof(*attributes)));
}

class OwnedFd {
 public:
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

uint32_t AttachType(BpfProgram program) {
  return IsIngress(program) ? kTcxIngress : kTcxEgress;
}

struct Attached {
  uint32_t link_id;  // 0: attached without one
  uint32_t program_id;
};

// In the order in which they run; errno when it fails.
absl::StatusOr<std::vector<Attached>> Query(uint32_t ifindex,
                                            uint32_t attach_type) {
  uint32_t programs[kMaxPrograms] = {}, links[kMaxPrograms] = {};
  LinkQuery query{};
  query.target_ifindex = ifindex;
  query.attach_type = attach_type;
  query.prog_ids = reinterpret_cast<uintptr_t>(programs);
  query.link_ids = reinterpret_cast<uintptr_t>(links);
  query.count = kMaxPrograms;
  if (Bpf(BPF_PROG_QUERY, &query) != 0) {
    return netlink::ErrnoToStatus(
        errno, absl::StrCat("eBPF: query tcx of device ", ifindex));
  }
  std::vector<Attached> attached;
  for (uint32_t i = 0; i < std::min(query.count, kMaxPrograms); ++i) {
    attached.push_back({links[i], programs[i]});
  }
  return attached;
}

// 0 when it cannot be asked.
uint32_t LinkId(int fd) {
  bpf_link_info info{};
  uint32_t size = sizeof(info);
  return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 ? info.id : 0;
}

class TcxHooks : public Hooks {
 public:
  TcxHooks(ProgramSource* programs, std::string pin_directory)
      : programs_(programs), pins_(std::move(pin_directory)) {}

  absl::StatusOr<Standing> Inspect(uint32_t ifindex,
                                   BpfProgram program) override {
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<Attached> attached,
                              Query(ifindex, AttachType(program)));
    const OwnedFd link = Link(ifindex, program);
    if (link.get() < 0) return Standing::kMissing;
    const uint32_t id = LinkId(link.get());
    for (size_t i = 0; i < attached.size(); ++i) {
      if (attached[i].link_id != id || id == 0) continue;
      if (i != 0) return Standing::kNotFirst;
      return programs_->IsCurrent(program, attached[i].program_id)
                 ? Standing::kInPlace
                 : Standing::kOld;
    }
    return Standing::kMissing;
  }

  absl::Status Attach(uint32_t ifindex, BpfProgram program) override {
    ESPALIER_ASSIGN_OR_RETURN(const Standing standing,
                              Inspect(ifindex, program));
    switch (standing) {
      case Standing::kInPlace:
        return absl::OkStatus();
      case Standing::kOld:
        return Replace(ifindex, program);
      case Standing::kMissing:
        return Create(ifindex, program, programs_->fd(program));
      case Standing::kStandIn:
      case Standing::kNotFirst:
        break;
    }
    // A second link with a copy at the head, and only then the end of the one
    // behind.
    ESPALIER_ASSIGN_OR_RETURN(const int copy, programs_->FreshCopy(program));
    return Create(ifindex, program, copy);
  }

  absl::Status Detach(uint32_t ifindex, BpfProgram program) override {
    const std::string pin = Pin(ifindex, program);
    if (unlink(pin.c_str()) != 0 && errno != ENOENT) {
      return netlink::ErrnoToStatus(errno, absl::StrCat("remove ", pin));
    }
    unpinned_.erase(pin);
    return absl::OkStatus();
  }

  absl::Status Forget(const std::vector<uint32_t>& alive) override {
    const std::set<uint32_t> keep(alive.begin(), alive.end());
    std::erase_if(unpinned_, [&](const auto& entry) {
      return !keep.contains(DeviceOf(entry.first).value_or(0));
    });
    DIR* directory = opendir(pins_.c_str());
    if (directory == nullptr) {
      if (errno == ENOENT) return absl::OkStatus();  // KeepPins says so
      return netlink::ErrnoToStatus(errno, absl::StrCat("list ", pins_));
    }
    std::vector<std::string> gone;
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      const std::optional<uint32_t> ifindex = DeviceOf(name);
      if (ifindex && !keep.contains(*ifindex)) gone.push_back(name);
    }
    closedir(directory);
    for (const std::string& name : gone) {
      const std::string path = absl::StrCat(pins_, "/", name);
      if (unlink(path.c_str()) != 0 && errno != ENOENT) {
        return netlink::ErrnoToStatus(errno, absl::StrCat("remove ", path));
      }
    }
    return absl::OkStatus();
  }

  absl::Status KeepPins() override {
    for (auto at = unpinned_.begin(); at != unpinned_.end();) {
      ESPALIER_RETURN_IF_ERROR(PinLink(at->second.get(), at->first));
      at = unpinned_.erase(at);
    }
    return absl::OkStatus();
  }

 private:
  std::string Pin(uint32_t ifindex, BpfProgram program) const {
    return absl::StrCat(pins_, "/", HookName(program), "-", ifindex);
  }

  static std::optional<uint32_t> DeviceOf(const std::string& pin) {
    const size_t dash = pin.rfind('-');
    uint32_t ifindex = 0;
    if (dash == std::string::npos ||
        std::from_chars(pin.data() + dash + 1, pin.data() + pin.size(), ifindex)
                .ec != std::errc()) {
      return std::nullopt;
    }
    return ifindex;
  }

  OwnedFd Link(uint32_t ifindex, BpfProgram program) const {
    const std::string pin = Pin(ifindex, program);
    const auto held = unpinned_.find(pin);
    return OwnedFd(held != unpinned_.end()
                       ? fcntl(held->second.get(), F_DUPFD_CLOEXEC, 0)
                       : bpf_obj_get(pin.c_str()));
  }

  // In place of whatever is pinned there.
  static absl::Status PinLink(int link, const std::string& pin) {
    const std::string fresh = absl::StrCat(pin, "-new");
    unlink(fresh.c_str());
    if (bpf_obj_pin(link, fresh.c_str()) == 0 &&
        rename(fresh.c_str(), pin.c_str()) == 0) {
      return absl::OkStatus();
    }
    const int error = errno;
    unlink(fresh.c_str());
    return netlink::ErrnoToStatus(error, absl::StrCat("eBPF: pin ", pin));
  }

  static std::string What(uint32_t ifindex, BpfProgram program) {
    return absl::StrCat("eBPF: attach ", HookName(program),
                        " by tcx to device ", ifindex);
  }

  absl::Status Replace(uint32_t ifindex, BpfProgram program) {
    const OwnedFd link = Link(ifindex, program);
    if (link.get() < 0 ||
        bpf_link_update(link.get(), programs_->fd(program), nullptr) != 0) {
      return netlink::ErrnoToStatus(errno, What(ifindex, program));
    }
    return absl::OkStatus();
  }

  // At the head, and pinned. Where that fails it stands all the same, as long
  // as this process does.
  absl::Status Create(uint32_t ifindex, BpfProgram program, int fd) {
    LinkCreate create{};
    create.prog_fd = fd;
    create.target_ifindex = ifindex;
    create.attach_type = AttachType(program);
    create.flags = kBefore;
    int result = Bpf(BPF_LINK_CREATE, &create);
    if (result < 0 && errno == EEXIST) {
      // The same program, without our pin.
      ESPALIER_ASSIGN_OR_RETURN(const int copy, programs_->FreshCopy(program));
      create.prog_fd = copy;
      result = Bpf(BPF_LINK_CREATE, &create);
    }
    if (result < 0) {
      return netlink::ErrnoToStatus(errno, What(ifindex, program));
    }
    OwnedFd link(result);
    const std::string pin = Pin(ifindex, program);
    unpinned_.erase(pin);
    if (!PinLink(link.get(), pin).ok()) {
      unpinned_.emplace(pin, std::move(link));
    }
    return absl::OkStatus();
  }

  ProgramSource* programs_;
  std::string pins_;
  std::map<std::string, OwnedFd> unpinned_;  // by the place of the pin
};

}  // namespace

bool IsIngress(BpfProgram program) {
  return program == BpfProgram::kFromPod || program == BpfProgram::kUplinkIn ||
         program == BpfProgram::kL3In;
}

absl::StatusOr<uint32_t> ProgramId(int fd) {
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd, &info, &size) != 0) {
    return netlink::ErrnoToStatus(errno, "eBPF: ask a program for its number");
  }
  return info.id;
}

bool KernelHasTcx() {
  constexpr uint32_t kLoopback = 1;
  return Query(kLoopback, kTcxIngress).ok();
}

std::unique_ptr<Hooks> MakeTcxHooks(ProgramSource* programs,
                                    const std::string& pin_directory) {
  return std::make_unique<TcxHooks>(programs, pin_directory);
}

}  // namespace espalier::guard
