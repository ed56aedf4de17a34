// What can carry netlink requests: a socket, a fake, or a wrapper that fails.
#ifndef ESPALIER_AGENT_NETLINK_CHANNEL_H_
#define ESPALIER_AGENT_NETLINK_CHANNEL_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/netlink/message.h"

namespace espalier::netlink {

// Synchronous use. One thread at a time.
//
// Errors of the kernel have canonical codes: EEXIST is AlreadyExists; ENOENT,
// ESRCH, ENODEV, ENXIO and EADDRNOTAVAIL are NotFound; EPERM and EACCES
// PermissionDenied; EINVAL and ERANGE InvalidArgument; EBUSY
// FailedPrecondition; EOPNOTSUPP, EPROTONOSUPPORT and EAFNOSUPPORT
// Unimplemented; ENOMEM and ENOBUFS ResourceExhausted; ENETUNREACH,
// EHOSTUNREACH, ENETDOWN and EAGAIN Unavailable; ETIMEDOUT DeadlineExceeded.
// The message names the request, the errno and the kernel's extended
// acknowledgement with the attribute it points at.
class Channel {
 public:
  virtual ~Channel() = default;

  // Sends and waits for the acknowledgement.
  virtual absl::Status Execute(Request request) = 0;
  // The same for many, in order, in few system calls. A failed one does not
  // stop the rest; the result has a status for each.
  virtual std::vector<absl::Status> ExecuteBatch(
      std::vector<Request> requests) = 0;
  // A GET of one object: the messages it answered with.
  virtual absl::StatusOr<std::vector<Reply>> Query(Request request) = 0;
  // A GET of all. A dump that the kernel marks as interrupted by changes
  // (NLM_F_DUMP_INTR) is repeated; Unavailable when that does not help.
  virtual absl::StatusOr<std::vector<Reply>> Dump(Request request) = 0;
};

// The status of errno `error` (positive), with `what` in front of its text.
absl::Status ErrnoToStatus(int error, absl::string_view what);

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_CHANNEL_H_
