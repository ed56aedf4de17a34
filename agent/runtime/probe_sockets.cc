#include "agent/runtime/probe_sockets.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "agent/base/log.h"

namespace espalier::runtime {
namespace {

// One readiness serves at most so many, so that timers keep their share.
constexpr int kBatch = 64;
// Longer ones are cut, and then no probe.
constexpr size_t kLargestProbe = 256;

socklen_t ToSockaddr(const base::IpAddress& address, uint16_t port,
                     sockaddr_storage* out) {
  memset(out, 0, sizeof(*out));
  const base::ByteSpan octets = address.bytes();
  if (address.is_v4()) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(out);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    memcpy(&v4->sin_addr, octets.data(), octets.size());
    return sizeof(sockaddr_in);
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(out);
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  memcpy(&v6->sin6_addr, octets.data(), octets.size());
  return sizeof(sockaddr_in6);
}

std::optional<base::IpAddress> FromSockaddr(const sockaddr_storage& from) {
  absl::StatusOr<base::IpAddress> address =
      absl::InvalidArgumentError("no internet family");
  if (from.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(from);
    address = base::IpAddress::FromBytes(
        {reinterpret_cast<const uint8_t*>(&v4.sin_addr), 4});
  } else if (from.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(from);
    address = base::IpAddress::FromBytes(
        {reinterpret_cast<const uint8_t*>(&v6.sin6_addr), 16});
  }
  if (!address.ok()) return std::nullopt;
  return *address;
}

// The interface that the datagram came in on; 0 when the kernel did not say.
unsigned InterfaceOf(msghdr* message) {
  for (cmsghdr* control = CMSG_FIRSTHDR(message); control != nullptr;
       control = CMSG_NXTHDR(message, control)) {
    if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      memcpy(&info, CMSG_DATA(control), sizeof(info));
      return static_cast<unsigned>(info.ipi_ifindex);
    }
    if (control->cmsg_level == IPPROTO_IPV6 &&
        control->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      memcpy(&info, CMSG_DATA(control), sizeof(info));
      return info.ipi6_ifindex;
    }
  }
  return 0;
}

// Whether it is "port unreachable" of `remote` itself (RFC 792, RFC 4443 3.1).
bool IsPortUnreachable(msghdr* message, const base::IpAddress& remote) {
  for (cmsghdr* control = CMSG_FIRSTHDR(message); control != nullptr;
       control = CMSG_NXTHDR(message, control)) {
    const bool v4 =
        control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_RECVERR;
    const bool v6 = control->cmsg_level == IPPROTO_IPV6 &&
                    control->cmsg_type == IPV6_RECVERR;
    if ((!v4 && !v6) ||
        control->cmsg_len <
            CMSG_LEN(sizeof(sock_extended_err) +
                     (v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6)))) {
      continue;
    }
    sock_extended_err error;
    memcpy(&error, CMSG_DATA(control), sizeof(error));
    const bool refused = v4 ? error.ee_origin == SO_EE_ORIGIN_ICMP &&
                                  error.ee_type == ICMP_DEST_UNREACH &&
                                  error.ee_code == ICMP_PORT_UNREACH
                            : error.ee_origin == SO_EE_ORIGIN_ICMP6 &&
                                  error.ee_type == ICMP6_DST_UNREACH &&
                                  error.ee_code == ICMP6_DST_UNREACH_NOPORT;
    sockaddr_storage offender{};
    memcpy(&offender, CMSG_DATA(control) + sizeof(error),
           v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    return refused && FromSockaddr(offender) == remote;
  }
  return false;
}

constexpr size_t kControlSize =
    CMSG_SPACE(sizeof(in6_pktinfo)) +
    CMSG_SPACE(sizeof(sock_extended_err) + sizeof(sockaddr_in6));

// Has the datagram leave through that interface, from that address.
void SetWay(const base::IpAddress& local, unsigned interface, msghdr* message) {
  cmsghdr* const control = CMSG_FIRSTHDR(message);
  if (local.is_v4()) {
    in_pktinfo info{};
    info.ipi_ifindex = static_cast<int>(interface);
    memcpy(&info.ipi_spec_dst, local.bytes().data(), 4);
    control->cmsg_level = IPPROTO_IP;
    control->cmsg_type = IP_PKTINFO;
    control->cmsg_len = CMSG_LEN(sizeof(info));
    memcpy(CMSG_DATA(control), &info, sizeof(info));
    message->msg_controllen = CMSG_SPACE(sizeof(info));
    return;
  }
  in6_pktinfo info{};
  info.ipi6_ifindex = interface;
  memcpy(&info.ipi6_addr, local.bytes().data(), 16);
  control->cmsg_level = IPPROTO_IPV6;
  control->cmsg_type = IPV6_PKTINFO;
  control->cmsg_len = CMSG_LEN(sizeof(info));
  memcpy(CMSG_DATA(control), &info, sizeof(info));
  message->msg_controllen = CMSG_SPACE(sizeof(info));
}

}  // namespace

ProbeSockets::ProbeSockets(base::EventLoop* loop, uint16_t port,
                           std::function<std::string()> interface,
                           Handlers handlers)
    : loop_(loop),
      port_(port),
      interface_(std::move(interface)),
      handlers_(std::move(handlers)) {}

ProbeSockets::~ProbeSockets() { SetLocal({}); }

void ProbeSockets::SetLocal(const std::vector<base::IpAddress>& addresses) {
  std::vector<base::IpAddress> gone;
  for (const auto& [address, fd] : sockets_) {
    if (std::ranges::find(addresses, address) == addresses.end()) {
      gone.push_back(address);
    }
  }
  for (const base::IpAddress& address : gone) Close(address);
  for (const base::IpAddress& address : addresses) {
    if (sockets_.contains(address)) continue;
    sockets_[address] = -1;
    const absl::Status status = Open(address);
    if (!status.ok()) {
      base::Log(base::LogLevel::kWarning,
                "tunnels cannot be probed from an address, will try again",
                {{"error", status}});
    }
  }
}

void ProbeSockets::Close(const base::IpAddress& address) {
  const int fd = sockets_.at(address);
  sockets_.erase(address);
  if (fd < 0) return;
  loop_->Unwatch(fd);
  close(fd);
}

absl::Status ProbeSockets::Open(const base::IpAddress& address) {
  const bool v4 = address.is_v4();
  int fd = socket(v4 ? AF_INET : AF_INET6,
                  SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
  absl::Cleanup close_fd = [&fd] {
    if (fd >= 0) close(fd);
  };
  const auto error = [&](const char* what) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot ", what, " the probe's socket on ",
                            address.ToString(), " port ", port_));
  };
  if (fd < 0) return error("create");
  const int on = 1;
  // The tunnel's interface may get its address only later.
  if (v4) {
    setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on));
  } else {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on));
  }
  // Without it nothing tells where a datagram came from.
  if (setsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6,
                 v4 ? IP_PKTINFO : IPV6_RECVPKTINFO, &on, sizeof(on)) != 0) {
    return error("prepare");
  }
  sockaddr_storage name;
  const socklen_t size = ToSockaddr(address, port_, &name);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&name), size) != 0) {
    return error("bind");
  }
  const int opened = std::exchange(fd, -1);
  sockets_[address] = opened;
  loop_->Watch(
      opened, /*readable=*/true, /*writable=*/false,
      [this, address, opened](bool, bool) { Receive(address, opened); });
  return absl::OkStatus();
}

absl::Status ProbeSockets::Send(const base::IpAddress& local,
                                const base::IpAddress& remote,
                                base::ByteSpan bytes) {
  const auto found = sockets_.find(local);
  if (found == sockets_.end()) {
    return absl::NotFoundError(
        absl::StrCat("no probe's socket on ", local.ToString()));
  }
  if (found->second < 0) {
    const absl::Status status = Open(local);
    if (!status.ok()) return status;
  }
  const std::string interface = interface_();
  const unsigned index =
      interface == "*" ? 0 : if_nametoindex(interface.c_str());
  if (index == 0 && interface != "*") {
    return absl::UnavailableError("the tunnel's interface is not there");
  }
  sockaddr_storage name;
  iovec part = {const_cast<uint8_t*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[kControlSize] = {};
  msghdr message{};
  message.msg_name = &name;
  message.msg_namelen = ToSockaddr(remote, port_, &name);
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  SetWay(local, index, &message);
  // An error of an earlier datagram is told once, in place of sending.
  if (sendmsg(found->second, &message, MSG_DONTWAIT) < 0 &&
      sendmsg(found->second, &message, MSG_DONTWAIT) < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot send a probe to ", remote.ToString()));
  }
  return absl::OkStatus();
}

bool ProbeSockets::IsTunnel(unsigned interface) const {
  const std::string name = interface_();
  return name == "*" ||
         (interface != 0 && if_nametoindex(name.c_str()) == interface);
}

bool ProbeSockets::ReceiveOne(const base::IpAddress& local, int fd,
                              bool error_queue) {
  uint8_t buffer[kLargestProbe];
  sockaddr_storage from{};
  iovec part = {buffer, sizeof(buffer)};
  alignas(cmsghdr) char control[kControlSize];
  msghdr message{};
  message.msg_name = &from;
  message.msg_namelen = sizeof(from);
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t size =
      recvmsg(fd, &message, MSG_DONTWAIT | (error_queue ? MSG_ERRQUEUE : 0));
  // Other errors are those of earlier datagrams, told once.
  if (size < 0) return errno != EAGAIN && errno != EWOULDBLOCK;
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) return true;
  const std::optional<base::IpAddress> remote = FromSockaddr(from);
  if (!remote || !IsTunnel(InterfaceOf(&message))) return true;
  if (error_queue && !IsPortUnreachable(&message, *remote)) return true;
  (error_queue ? handlers_.unreachable : handlers_.received)(
      local, *remote, {buffer, static_cast<size_t>(size)});
  return true;
}

void ProbeSockets::Receive(const base::IpAddress& local, int fd) {
  for (const bool error_queue : {true, false}) {
    for (int i = 0; i < kBatch; ++i) {
      if (!ReceiveOne(local, fd, error_queue)) break;
      // The handler may have closed it.
      const auto alive = sockets_.find(local);
      if (alive == sockets_.end() || alive->second != fd) return;
    }
  }
}

}  // namespace espalier::runtime
