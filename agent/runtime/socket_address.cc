#include "agent/runtime/socket_address.h"

#include <netinet/in.h>
#include <string.h>

#include "agent/base/status_macros.h"

namespace espalier::runtime {

socklen_t ToSockaddr(const base::Endpoint& endpoint, sockaddr_storage* out) {
  memset(out, 0, sizeof(*out));
  const base::ByteSpan octets = endpoint.address.bytes();
  if (endpoint.address.is_v4()) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(out);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(endpoint.port);
    memcpy(&v4->sin_addr, octets.data(), octets.size());
    return sizeof(sockaddr_in);
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(out);
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(endpoint.port);
  memcpy(&v6->sin6_addr, octets.data(), octets.size());
  return sizeof(sockaddr_in6);
}

absl::StatusOr<base::Endpoint> FromSockaddr(const sockaddr_storage& from) {
  base::Endpoint endpoint;
  if (from.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(from);
    ESPALIER_ASSIGN_OR_RETURN(
        endpoint.address,
        base::IpAddress::FromBytes(
            {reinterpret_cast<const uint8_t*>(&v4.sin_addr), 4}));
    endpoint.port = ntohs(v4.sin_port);
    return endpoint;
  }
  if (from.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(from);
    ESPALIER_ASSIGN_OR_RETURN(
        endpoint.address,
        base::IpAddress::FromBytes(
            {reinterpret_cast<const uint8_t*>(&v6.sin6_addr), 16}));
    endpoint.port = ntohs(v6.sin6_port);
    return endpoint;
  }
  return absl::InvalidArgumentError("a datagram from no internet family");
}

}  // namespace espalier::runtime
