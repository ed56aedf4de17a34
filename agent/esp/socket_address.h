// base::Endpoint as the kernel's socket calls want it, and back.
#ifndef ESPALIER_AGENT_ESP_SOCKET_ADDRESS_H_
#define ESPALIER_AGENT_ESP_SOCKET_ADDRESS_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <optional>

#include "agent/base/ip_address.h"

namespace espalier::esp {

class SocketAddress {
 public:
  explicit SocketAddress(const base::Endpoint& endpoint);

  const sockaddr* get() const {
    return reinterpret_cast<const sockaddr*>(&storage_);
  }
  socklen_t size() const { return size_; }

 private:
  sockaddr_storage storage_{};
  socklen_t size_;
};

base::IpAddress FromInAddr(const in_addr& address);
base::IpAddress FromIn6Addr(const in6_addr& address);

// nullopt for null and for other families.
std::optional<base::IpAddress> AddressOf(const sockaddr* address);
std::optional<base::Endpoint> EndpointOf(const sockaddr* address);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_SOCKET_ADDRESS_H_
