#include "agent/esp/control/held_sockets.h"

#include <linux/netlink.h>
#include <linux/udp.h>
#include <linux/xfrm.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/byte_writer.h"
#include "agent/base/status_macros.h"
#include "agent/esp/control/messages.h"

namespace espalier::esp::control {
namespace {

constexpr size_t kMaxDescriptors = 2;
constexpr int kReceiveBuffer = 4 << 20;

absl::Status SetOption(int fd, int level, int option, int value,
                       const char* what) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0) {
    return absl::ErrnoToStatus(errno, what);
  }
  return absl::OkStatus();
}

absl::StatusOr<int> GetOption(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  if (getsockopt(fd, SOL_SOCKET, option, &value, &size) != 0) {
    return absl::ErrnoToStatus(errno, "getsockopt of a passed descriptor");
  }
  return value;
}

// The port that an fd is bound to; its family goes to `family`.
absl::StatusOr<uint16_t> UdpPort(int fd, int* family) {
  ESPALIER_ASSIGN_OR_RETURN(const int protocol, GetOption(fd, SO_PROTOCOL));
  ESPALIER_ASSIGN_OR_RETURN(*family, GetOption(fd, SO_DOMAIN));
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return absl::ErrnoToStatus(errno, "getsockname of a passed descriptor");
  }
  uint16_t port = 0;
  if (*family == AF_INET) {
    port = ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  } else if (*family == AF_INET6) {
    port = ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  if (protocol != IPPROTO_UDP || port == 0) {
    return absl::InvalidArgumentError(
        "a passed descriptor is not a bound UDP socket");
  }
  return port;
}

absl::Status Configure(int fd, base::Family family, uint16_t port,
                       uint32_t mark) {
  const bool v4 = family == base::Family::kIpv4;
  if (v4) {
    // Large IKE messages to peers without RFC 7383 rely on IP fragments.
    ESPALIER_RETURN_IF_ERROR(SetOption(fd, IPPROTO_IP, IP_MTU_DISCOVER,
                                       IP_PMTUDISC_DONT, "IP_MTU_DISCOVER"));
    ESPALIER_RETURN_IF_ERROR(
        SetOption(fd, IPPROTO_IP, IP_PKTINFO, 1, "IP_PKTINFO"));
  } else {
    ESPALIER_RETURN_IF_ERROR(
        SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY"));
    ESPALIER_RETURN_IF_ERROR(
        SetOption(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 0, "IPV6_DONTFRAG"));
    ESPALIER_RETURN_IF_ERROR(
        SetOption(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"));
  }
  if (mark != 0) {
    ESPALIER_RETURN_IF_ERROR(
        SetOption(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark), "SO_MARK"));
  }
  // A storm of handshakes; without the right to force it, the system's limit.
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBuffer, sizeof(int));
  ESPALIER_RETURN_IF_ERROR(BypassIpsec(fd, family));
  ESPALIER_RETURN_IF_ERROR(
      SetOption(fd, IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP,
                "UDP_ENCAP (does this kernel have ESP in UDP?)"));
  sockaddr_in6 any6{};
  any6.sin6_family = AF_INET6;
  any6.sin6_port = htons(port);
  sockaddr_in any4{};
  any4.sin_family = AF_INET;
  any4.sin_port = htons(port);
  const auto* any = v4 ? reinterpret_cast<const sockaddr*>(&any4)
                       : reinterpret_cast<const sockaddr*>(&any6);
  if (bind(fd, any, v4 ? sizeof any4 : sizeof any6) != 0) {
    const std::string what = absl::StrCat(
        "bind to UDP port ", port, " (does another IKE daemon hold it?)");
    if (errno == EADDRINUSE) return absl::AlreadyExistsError(what);
    return absl::ErrnoToStatus(errno, what);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BypassIpsec(int fd, base::Family family) {
  const bool v4 = family == base::Family::kIpv4;
  for (const uint8_t direction : {XFRM_POLICY_IN, XFRM_POLICY_OUT}) {
    xfrm_userpolicy_info policy{};
    policy.dir = direction;
    policy.action = XFRM_POLICY_ALLOW;
    policy.sel.family = v4 ? AF_INET : AF_INET6;
    const auto set = [&] {
      return setsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6,
                        v4 ? IP_XFRM_POLICY : IPV6_XFRM_POLICY, &policy,
                        sizeof policy) == 0;
    };
    if (set()) continue;
    // The kernel understands it only once xfrm_user is loaded, which the first
    // socket of its protocol does.
    const int load = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_XFRM);
    const bool again = load >= 0 && set();
    const int error = errno;
    if (load >= 0) close(load);
    if (again) continue;
    if (load < 0 || error == ENOPROTOOPT || error == EOPNOTSUPP) {
      return absl::UnimplementedError("this kernel has no IPsec policies");
    }
    return absl::ErrnoToStatus(
        error, "bypass policy of an IKE socket (IP_XFRM_POLICY)");
  }
  return absl::OkStatus();
}

HeldSockets::~HeldSockets() {
  if (v4_ >= 0) close(v4_);
  if (v6_ >= 0) close(v6_);
}

HeldSockets::HeldSockets(HeldSockets&& other) noexcept
    : v4_(std::exchange(other.v4_, -1)),
      v6_(std::exchange(other.v6_, -1)),
      port_(std::exchange(other.port_, 0)) {}

HeldSockets& HeldSockets::operator=(HeldSockets&& other) noexcept {
  std::swap(v4_, other.v4_);
  std::swap(v6_, other.v6_);
  std::swap(port_, other.port_);
  return *this;
}

absl::StatusOr<HeldSockets> HeldSockets::Open(uint16_t port, uint32_t mark) {
  HeldSockets sockets;
  sockets.port_ = port;
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    const bool v4 = family == base::Family::kIpv4;
    const int fd = socket(v4 ? AF_INET : AF_INET6,
                          SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 && !v4 && errno == EAFNOSUPPORT) continue;
    if (fd < 0) return absl::ErrnoToStatus(errno, "a UDP socket");
    (v4 ? sockets.v4_ : sockets.v6_) = fd;
    ESPALIER_RETURN_IF_ERROR(base::Annotate(Configure(fd, family, port, mark),
                                            v4 ? "IPv4" : "IPv6"));
  }
  return sockets;
}

absl::StatusOr<HeldSockets> HeldSockets::FromDescriptors(std::vector<int> fds) {
  HeldSockets sockets;
  absl::Status error;
  for (const int fd : fds) {
    int family = 0;
    const absl::StatusOr<uint16_t> port = UdpPort(fd, &family);
    int& place = family == AF_INET ? sockets.v4_ : sockets.v6_;
    if (!port.ok()) {
      error = port.status();
    } else if (place >= 0 || (sockets.port_ != 0 && sockets.port_ != *port)) {
      error = absl::InvalidArgumentError(
          "passed sockets of one family, or of two ports");
    } else {
      place = fd;
      sockets.port_ = *port;
      continue;
    }
    close(fd);
  }
  if (!error.ok()) return error;
  return sockets;
}

absl::Status SendSockets(int connection, HeldFrame frame,
                         const HeldSockets& sockets) {
  base::ByteWriter writer;
  writer.WriteU8(kVersion);
  writer.WriteU8(static_cast<uint8_t>(frame));
  writer.WriteU16(0);
  writer.WriteU32(0);
  base::Bytes octets = writer.Take();
  iovec vector{octets.data(), octets.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  alignas(cmsghdr)
      std::array<uint8_t, CMSG_SPACE(kMaxDescriptors * sizeof(int))>
          control{};
  std::vector<int> fds;
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    if (sockets.fd(family) >= 0) fds.push_back(sockets.fd(family));
  }
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  while (sendmsg(connection, &message, MSG_NOSIGNAL) < 0) {
    if (errno == EINTR) continue;
    return absl::UnavailableError(
        absl::StrCat("espd control connection: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<HeldMessage>> ReceiveSockets(int connection) {
  HeldMessage result;
  result.octets.resize(kMaxFrame);
  iovec vector{result.octets.data(), result.octets.size()};
  alignas(cmsghdr) std::array<uint8_t, 256> control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t size;
  do {
    size = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    return std::optional<HeldMessage>();
  }
  std::vector<int> fds;
  for (cmsghdr* c = size < 0 ? nullptr : CMSG_FIRSTHDR(&message); c != nullptr;
       c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const size_t before = fds.size();
    fds.resize(before + count);
    std::memcpy(fds.data() + before, CMSG_DATA(c), count * sizeof(int));
  }
  // First of all: whatever came is owned, and closed when it is refused.
  ESPALIER_ASSIGN_OR_RETURN(HeldSockets sockets,
                            HeldSockets::FromDescriptors(std::move(fds)));
  if (size <= 0) {
    return absl::UnavailableError(
        absl::StrCat("espd control connection: ",
                     size == 0 ? "closed" : std::strerror(errno)));
  }
  result.octets.resize(static_cast<size_t>(size));
  const base::Bytes& o = result.octets;
  const bool held = o.size() == 8 && o[0] == kVersion &&
                    (o[1] == static_cast<uint8_t>(HeldFrame::kTake) ||
                     o[1] == static_cast<uint8_t>(HeldFrame::kSockets));
  if (held) {
    result.frame = static_cast<HeldFrame>(o[1]);
    result.sockets = std::move(sockets);
  }
  return std::optional<HeldMessage>(std::move(result));
}

}  // namespace espalier::esp::control
