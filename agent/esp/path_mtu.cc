#include "agent/esp/path_mtu.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "agent/esp/socket_address.h"
#include "agent/esp/too_big.h"

namespace espalier::esp {
namespace {

constexpr size_t kMinIpv4PathMtu = 576;
constexpr absl::Duration kLoweredFor = absl::Minutes(10);
constexpr absl::Duration kLinkFor = absl::Minutes(1);
constexpr size_t kUsualMtu = 1500;
constexpr size_t kMaxMtu = 65535;

size_t Minimum(base::Family family) {
  return family == base::Family::kIpv4 ? kMinIpv4PathMtu : kMinIpv6Mtu;
}

// 0 when no interface has that address.
size_t InterfaceMtu(const base::IpAddress& address) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return 0;
  size_t mtu = 0;
  for (const ifaddrs* i = list; i != nullptr && mtu == 0; i = i->ifa_next) {
    const std::optional<base::IpAddress> own = AddressOf(i->ifa_addr);
    if (!own.has_value() || *own != address ||
        (i->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) break;
    ifreq request{};
    std::strncpy(request.ifr_name, i->ifa_name, sizeof request.ifr_name - 1);
    if (ioctl(fd, SIOCGIFMTU, &request) == 0 && request.ifr_mtu > 0) {
      mtu = static_cast<size_t>(request.ifr_mtu);
    }
    close(fd);
  }
  freeifaddrs(list);
  return mtu;
}

// 0 when there is no route.
size_t RouteMtu(const base::IpAddress& destination) {
  const bool v4 = destination.is_v4();
  const int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  const SocketAddress remote({destination, 4500});
  int mtu = 0;
  socklen_t size = sizeof mtu;
  if (connect(fd, remote.get(), remote.size()) != 0 ||
      getsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU : IPV6_MTU,
                 &mtu, &size) != 0) {
    mtu = 0;
  }
  close(fd);
  return static_cast<size_t>(std::max(mtu, 0));
}

}  // namespace

size_t PathMtuTable::Get(const base::IpAddress& source,
                         const base::IpAddress& destination,
                         base::Instant now) {
  Entry& entry = entries_[destination];
  if (entry.mtu == 0 || now >= entry.expires) {
    entry = {link_mtu_(source, destination), now + kLinkFor};
  }
  return entry.mtu;
}

bool PathMtuTable::Lower(const base::IpAddress& source,
                         const base::IpAddress& destination, size_t mtu,
                         base::Instant now) {
  if (mtu < Minimum(destination.family()) ||
      mtu >= Get(source, destination, now)) {
    return false;
  }
  entries_[destination] = {mtu, now + kLoweredFor};
  return true;
}

size_t InnerMtuOf(const base::EspSa& sa, size_t path_mtu) {
  return base::InnerMtu(sa.suite, sa.outer_destination.family(),
                        sa.encapsulation.has_value(), path_mtu);
}

size_t KernelLinkMtu(const base::IpAddress& source,
                     const base::IpAddress& destination) {
  size_t mtu = InterfaceMtu(source);
  if (mtu == 0) mtu = RouteMtu(destination);
  if (mtu == 0) mtu = kUsualMtu;
  return std::clamp(mtu, Minimum(destination.family()), kMaxMtu);
}

void PathMtuTable::ForEach(
    base::Instant now,
    absl::FunctionRef<void(const base::IpAddress&, size_t, absl::Duration)>
        visit) const {
  for (const auto& [destination, entry] : entries_) {
    if (entry.expires > now) visit(destination, entry.mtu, entry.expires - now);
  }
}

}  // namespace espalier::esp
