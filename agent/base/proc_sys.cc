#include "agent/base/proc_sys.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace espalier::base {

std::string ProcSysPath(absl::string_view name, absl::string_view host) {
  const std::string mounted = absl::StrCat(host, name);
  return access(mounted.c_str(), F_OK) == 0 ? mounted
                                            : absl::StrCat("/proc/sys/", name);
}

}  // namespace espalier::base
