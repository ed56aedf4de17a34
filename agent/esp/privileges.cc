#include "agent/esp/privileges.h"

#include <cap-ng.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>

#include "agent/base/log.h"

namespace espalier::esp {

absl::Status ProtectMemory() {
  if (prctl(PR_SET_DUMPABLE, 0) != 0) {
    return absl::ErrnoToStatus(errno, "PR_SET_DUMPABLE");
  }
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  // The limit first: after the capabilities are gone an allocation past it
  // would fail.
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  if (setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0 ||
      mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
    base::Log(base::LogLevel::kWarning, "memory not locked",
              {{"error", absl::ErrnoToStatus(errno, "mlockall")}});
  }
  return absl::OkStatus();
}

absl::Status DropPrivileges() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return absl::ErrnoToStatus(errno, "PR_SET_NO_NEW_PRIVS");
  }
  capng_clear(CAPNG_SELECT_BOTH);
  if (capng_apply(CAPNG_SELECT_CAPS) != 0) {
    return absl::InternalError("giving up capabilities by libcap-ng failed");
  }
  // The bounding set takes CAP_SETPCAP, which a container may lack.
  capng_apply(CAPNG_SELECT_BOUNDS);
  return absl::OkStatus();
}

}  // namespace espalier::esp
