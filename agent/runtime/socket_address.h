// base::Endpoint as the kernel's socket calls want it, and back.
#ifndef ESPALIER_AGENT_RUNTIME_SOCKET_ADDRESS_H_
#define ESPALIER_AGENT_RUNTIME_SOCKET_ADDRESS_H_

#include <sys/socket.h>

#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"

namespace espalier::runtime {

// The octets of `out` that are used.
socklen_t ToSockaddr(const base::Endpoint& endpoint, sockaddr_storage* out);
// InvalidArgument for other families than the internet's.
absl::StatusOr<base::Endpoint> FromSockaddr(const sockaddr_storage& from);

}  // namespace espalier::runtime

#endif  // ESPALIER_AGENT_RUNTIME_SOCKET_ADDRESS_H_
