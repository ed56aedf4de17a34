#include "agent/netlink/network_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "absl/strings/str_cat.h"
#include "agent/netlink/channel.h"

namespace espalier::netlink {

absl::Status RunInNetworkNamespace(int fd,
                                   const std::function<absl::Status()>& work) {
  absl::Status result;
  std::thread thread([&] {
    if (setns(fd, CLONE_NEWNET) != 0) {
      const int error = errno;
      result = error == EINVAL
                   ? absl::FailedPreconditionError(
                         "the descriptor is not of a network namespace")
                   : ErrnoToStatus(error, "enter the network namespace");
      return;
    }
    result = work();
  });
  thread.join();
  return result;
}

absl::Status RunInNetworkNamespace(const std::string& path,
                                   const std::function<absl::Status()>& work) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return ErrnoToStatus(errno,
                         absl::StrCat("open the network namespace ", path));
  }
  absl::Status result = RunInNetworkNamespace(fd, work);
  close(fd);
  return result;
}

}  // namespace espalier::netlink
