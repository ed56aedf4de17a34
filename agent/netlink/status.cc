#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "agent/netlink/channel.h"

namespace espalier::netlink {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case ENOENT:
    case ESRCH:
    case ENODEV:
    case ENXIO:
    case EADDRNOTAVAIL:  // RTM_DELADDR of an address that is not there
      return absl::StatusCode::kNotFound;
    case EPERM:
    case EACCES:
      return absl::StatusCode::kPermissionDenied;
    case EINVAL:
    case ERANGE:
      return absl::StatusCode::kInvalidArgument;
    case EBUSY:
      return absl::StatusCode::kFailedPrecondition;
    case EOPNOTSUPP:
    case EPROTONOSUPPORT:
    case EAFNOSUPPORT:
      return absl::StatusCode::kUnimplemented;
    case ENOMEM:
    case ENOBUFS:
    case EMFILE:
    case ENFILE:
      return absl::StatusCode::kResourceExhausted;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EAGAIN:
      return absl::StatusCode::kUnavailable;
    case ETIMEDOUT:
      return absl::StatusCode::kDeadlineExceeded;
    default:
      return absl::StatusCode::kUnknown;
  }
}

}  // namespace

absl::Status ErrnoToStatus(int error, absl::string_view what) {
  char text[128];
  // The GNU variant: returns the text, which may not be in `text`.
  const char* description = strerror_r(error, text, sizeof(text));
  return absl::Status(CodeOf(error), absl::StrCat(what, ": ", description,
                                                  " (errno ", error, ")"));
}

}  // namespace espalier::netlink
