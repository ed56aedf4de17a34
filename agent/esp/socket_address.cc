#include "agent/esp/socket_address.h"

#include <array>
#include <cstring>

namespace espalier::esp {

SocketAddress::SocketAddress(const base::Endpoint& endpoint) {
  const base::ByteSpan octets = endpoint.address.bytes();
  if (endpoint.address.is_v4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(endpoint.port);
    std::memcpy(&v4.sin_addr, octets.data(), octets.size());
    std::memcpy(&storage_, &v4, sizeof v4);
    size_ = sizeof v4;
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(endpoint.port);
    std::memcpy(&v6.sin6_addr, octets.data(), octets.size());
    std::memcpy(&storage_, &v6, sizeof v6);
    size_ = sizeof v6;
  }
}

base::IpAddress FromInAddr(const in_addr& address) {
  std::array<uint8_t, 4> octets;
  std::memcpy(octets.data(), &address, octets.size());
  return base::IpAddress::V4(octets);
}

base::IpAddress FromIn6Addr(const in6_addr& address) {
  std::array<uint8_t, 16> octets;
  std::memcpy(octets.data(), &address, octets.size());
  return base::IpAddress::V6(octets);
}

std::optional<base::IpAddress> AddressOf(const sockaddr* address) {
  const std::optional<base::Endpoint> endpoint = EndpointOf(address);
  if (!endpoint.has_value()) return std::nullopt;
  return endpoint->address;
}

std::optional<base::Endpoint> EndpointOf(const sockaddr* address) {
  if (address == nullptr) return std::nullopt;
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof v4);
    return base::Endpoint{FromInAddr(v4.sin_addr), ntohs(v4.sin_port)};
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof v6);
    return base::Endpoint{FromIn6Addr(v6.sin6_addr), ntohs(v6.sin6_port)};
  }
  return std::nullopt;
}

}  // namespace espalier::esp
