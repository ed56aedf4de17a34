#include "agent/network/sysctl.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/base/proc_sys.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/channel.h"

namespace espalier::network {
namespace {

absl::StatusOr<std::string> PathOf(const std::string& name) {
  if (name.empty() || name.front() == '/' || absl::StrContains(name, "..")) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "' is not the name of a kernel setting"));
  }
  return base::ProcSysPath(name);
}

}  // namespace

absl::StatusOr<std::string> Sysctl::Read(const std::string& name) {
  ESPALIER_ASSIGN_OR_RETURN(const std::string path, PathOf(name));
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return netlink::ErrnoToStatus(errno, absl::StrCat("read ", path));
  }
  char buffer[1024];
  const ssize_t length = read(fd, buffer, sizeof(buffer));
  const int error = errno;
  close(fd);
  if (length < 0) {
    return netlink::ErrnoToStatus(error, absl::StrCat("read ", path));
  }
  std::string value(buffer, static_cast<size_t>(length));
  while (!value.empty() && value.back() == '\n') value.pop_back();
  return value;
}

absl::Status Sysctl::Write(const std::string& name, const std::string& value) {
  ESPALIER_ASSIGN_OR_RETURN(const std::string path, PathOf(name));
  const std::string what = absl::StrCat("write '", value, "' to ", path);
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    absl::Status status = netlink::ErrnoToStatus(error, what);
    if (error == EROFS) {
      return absl::FailedPreconditionError(
          absl::StrCat(status.message(),
                       "; /proc/sys is mounted read-only here, set the "
                       "value on the host"));
    }
    return status;
  }
  const ssize_t written = write(fd, value.data(), value.size());
  const int error = errno;
  close(fd);
  if (written < 0) return netlink::ErrnoToStatus(error, what);
  if (static_cast<size_t>(written) != value.size()) {
    return absl::DataLossError(
        absl::StrCat(what, ": only ", written, " octets were taken"));
  }
  return absl::OkStatus();
}

absl::Status Sysctl::Ensure(const std::string& name, const std::string& value) {
  absl::StatusOr<std::string> current = Read(name);
  if (!current.ok()) return current.status();
  if (*current == value) return absl::OkStatus();
  return Write(name, value);
}

}  // namespace espalier::network
