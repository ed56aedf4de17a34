// Kernel settings below /proc/sys.
#ifndef ESPALIER_AGENT_NETWORK_SYSCTL_H_
#define ESPALIER_AGENT_NETWORK_SYSCTL_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::network {

// Reads and writes "net/ipv4/conf/eth0/rp_filter": slashes, so that interface
// names with dots are safe. Names with ".." are InvalidArgument; NotFound when
// the kernel does not have it. For another namespace run these inside
// netlink::RunInNetworkNamespace. Virtual for tests.
class Sysctl {
 public:
  virtual ~Sysctl() = default;
  // Without the trailing newline.
  virtual absl::StatusOr<std::string> Read(const std::string& name);
  virtual absl::Status Write(const std::string& name, const std::string& value);
  // Reads first and writes only a difference: a read-only /proc/sys whose
  // value is right already is no error.
  absl::Status Ensure(const std::string& name, const std::string& value);
};

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_SYSCTL_H_
