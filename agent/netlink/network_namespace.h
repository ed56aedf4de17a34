// Work inside another network namespace.
#ifndef ESPALIER_AGENT_NETLINK_NETWORK_NAMESPACE_H_
#define ESPALIER_AGENT_NETLINK_NETWORK_NAMESPACE_H_

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace espalier::netlink {

// Runs `work` on a thread of its own that has entered the network namespace at
// `path`, and waits for it: the calling thread never moves, so nothing can
// leave it in the wrong namespace. Sockets opened and /proc/sys/net files
// written by `work` are that namespace's. NotFound when `path` is not there,
// FailedPrecondition when it is no network namespace.
absl::Status RunInNetworkNamespace(const std::string& path,
                                   const std::function<absl::Status()>& work);

// The same for an open descriptor of the namespace.
absl::Status RunInNetworkNamespace(int fd,
                                   const std::function<absl::Status()>& work);

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_NETWORK_NAMESPACE_H_
