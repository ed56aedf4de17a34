#include <cerrno>

#include "agent/netlink/channel.h"
#include "gmock/gmock.h"

namespace espalier::netlink {
namespace {

TEST(ErrnoToStatusTest, CodesAreCanonical) {
  using absl::StatusCode;
  const std::pair<int, StatusCode> cases[] = {
      {EEXIST, StatusCode::kAlreadyExists},
      {ENOENT, StatusCode::kNotFound},
      {ESRCH, StatusCode::kNotFound},
      {ENODEV, StatusCode::kNotFound},
      {EADDRNOTAVAIL, StatusCode::kNotFound},
      {EPERM, StatusCode::kPermissionDenied},
      {EINVAL, StatusCode::kInvalidArgument},
      {EBUSY, StatusCode::kFailedPrecondition},
      {EOPNOTSUPP, StatusCode::kUnimplemented},
      {ENOBUFS, StatusCode::kResourceExhausted},
      {ENETUNREACH, StatusCode::kUnavailable},
      {ETIMEDOUT, StatusCode::kDeadlineExceeded},
      {EXDEV, StatusCode::kUnknown},
  };
  for (const auto& [error, code] : cases) {
    EXPECT_EQ(ErrnoToStatus(error, "x").code(), code) << error;
  }
  EXPECT_EQ(ErrnoToStatus(ENOENT, "add route").message(),
            "add route: No such file or directory (errno 2)");
}

}  // namespace
}  // namespace espalier::netlink
