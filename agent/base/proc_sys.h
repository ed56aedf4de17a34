// Where the kernel's settings of the network are written.
#ifndef ESPALIER_AGENT_BASE_PROC_SYS_H_
#define ESPALIER_AGENT_BASE_PROC_SYS_H_

#include <string>

#include "absl/strings/string_view.h"

namespace espalier::base {

// A container that is not privileged sees /proc/sys read-only. The chart mounts
// the host's /proc/sys/net a second time, at a path that runtimes leave alone:
// of either one the kernel shows the caller's own network namespace.
inline constexpr absl::string_view kHostProcSys = "/host/proc/sys/";

// `name` without a slash in front, as "net/ipv4/ip_forward". Below `host` if
// that has it, else below /proc/sys.
std::string ProcSysPath(absl::string_view name,
                        absl::string_view host = kHostProcSys);

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_PROC_SYS_H_
