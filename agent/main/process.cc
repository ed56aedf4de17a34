#include "agent/main/process.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::agent {
namespace {

struct Capability {
  unsigned number;
  const char* name;
  bool needed;  // the agent cannot run without
};
constexpr Capability kCapabilities[] = {
    {CAP_NET_ADMIN, "CAP_NET_ADMIN", true},  // routes, links, sysctls
    {CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", true},  // UDP 500
    // setns into pods' network namespaces; without it no pod is attached.
    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN", false},
    // Files of other users: a runtime's namespace paths.
    {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", false},
    // /proc/PID/ns/net of a pod's process, for runtimes that pass it.
    {CAP_SYS_PTRACE, "CAP_SYS_PTRACE", false},
    {CAP_NET_RAW, "CAP_NET_RAW", false},  // address announcements
};

}  // namespace

absl::Status HardenProcess() {
  const rlimit none{0, 0};
  if (setrlimit(RLIMIT_CORE, &none) != 0) {
    return absl::ErrnoToStatus(errno, "cannot switch core dumps off");
  }
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return absl::ErrnoToStatus(errno, "cannot make the process undumpable");
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return absl::ErrnoToStatus(errno, "cannot give up new privileges");
  }
  return absl::OkStatus();
}

absl::Status DropCapabilities() {
  capng_get_caps_process();
  std::string missing;
  std::vector<unsigned> kept;
  for (const Capability& capability : kCapabilities) {
    if (capng_have_capability(CAPNG_EFFECTIVE, capability.number)) {
      kept.push_back(capability.number);
    } else if (capability.needed) {
      absl::StrAppend(&missing, missing.empty() ? "" : " and ",
                      capability.name);
    }
  }
  if (!missing.empty()) {
    return absl::PermissionDeniedError(
        absl::StrCat("the agent needs ", missing,
                     ": run it as root, or with these "
                     "capabilities"));
  }
  const bool bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
  capng_clear(CAPNG_SELECT_ALL);
  for (unsigned number : kept) {
    capng_update(CAPNG_ADD,
                 static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED |
                                           CAPNG_BOUNDING_SET),
                 number);
  }
  if (bounds && capng_apply(CAPNG_SELECT_BOUNDS) != 0) {
    return absl::InternalError("cannot reduce the capability bounding set");
  }
  if (capng_apply(CAPNG_SELECT_CAPS) != 0) {
    return absl::InternalError("cannot give up capabilities");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<InstanceLock>> InstanceLock::Take(
    const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(
      std::filesystem::path(folder).parent_path(), error);
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", folder));
  }
  const std::string path = folder + "/agent.lock";
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  absl::Cleanup close_fd = [&fd] {
    if (fd >= 0) close(fd);
  };
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path));
    }
    char holder[32] = {};
    if (pread(fd, holder, sizeof(holder) - 1, 0) <= 0) holder[0] = '?';
    return absl::FailedPreconditionError(
        absl::StrCat("another agent (process ", atoi(holder), ") uses ", folder,
                     "; end it first, or give this one a runDirectory of its "
                     "own"));
  }
  const std::string self = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 || pwrite(fd, self.data(), self.size(), 0) !=
                                   static_cast<ssize_t>(self.size())) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  }
  std::unique_ptr<InstanceLock> lock(new InstanceLock(fd));
  fd = -1;
  return lock;
}

InstanceLock::~InstanceLock() { close(fd_); }

}  // namespace espalier::agent
