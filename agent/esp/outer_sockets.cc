#include "agent/esp/outer_sockets.h"

#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/esp/inner_packet.h"
#include "agent/esp/socket_address.h"

namespace espalier::esp {
namespace {

constexpr int kSocketBuffer = 8 << 20;

bool IsV4(OuterSockets::Kind kind) {
  return kind == OuterSockets::kUdp4 || kind == OuterSockets::kRaw4;
}
bool IsUdp(OuterSockets::Kind kind) {
  return kind == OuterSockets::kUdp4 || kind == OuterSockets::kUdp6;
}
constexpr const char* kNames[] = {"UDP over IPv4", "UDP over IPv6",
                                  "protocol 50 over IPv4",
                                  "protocol 50 over IPv6"};

absl::Status SetOption(int fd, int level, int option, int value,
                       const char* what) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0) {
    return absl::ErrnoToStatus(errno, what);
  }
  return absl::OkStatus();
}

// DF is set and the kernel's path MTU cache ignored: an unauthenticated ICMP
// must not shrink a tunnel by itself (RFC 4301 8.2.1), espd judges it.
absl::Status ConfigureV4(int fd) {
  ESPALIER_RETURN_IF_ERROR(SetOption(fd, IPPROTO_IP, IP_MTU_DISCOVER,
                                     IP_PMTUDISC_PROBE, "IP_MTU_DISCOVER"));
  ESPALIER_RETURN_IF_ERROR(
      SetOption(fd, IPPROTO_IP, IP_PKTINFO, 1, "IP_PKTINFO"));
  ESPALIER_RETURN_IF_ERROR(
      SetOption(fd, IPPROTO_IP, IP_RECVTOS, 1, "IP_RECVTOS"));
  return SetOption(fd, IPPROTO_IP, IP_RECVERR, 1, "IP_RECVERR");
}

absl::Status ConfigureV6(int fd) {
  ESPALIER_RETURN_IF_ERROR(SetOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER,
                                     IPV6_PMTUDISC_PROBE, "IPV6_MTU_DISCOVER"));
  ESPALIER_RETURN_IF_ERROR(
      SetOption(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"));
  ESPALIER_RETURN_IF_ERROR(
      SetOption(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS"));
  return SetOption(fd, IPPROTO_IPV6, IPV6_RECVERR, 1, "IPV6_RECVERR");
}

absl::Status Configure(int fd, OuterSockets::Kind kind,
                       const OuterOptions& options) {
  ESPALIER_RETURN_IF_ERROR(IsV4(kind) ? ConfigureV4(fd) : ConfigureV6(fd));
  if (options.mark != 0) {
    ESPALIER_RETURN_IF_ERROR(SetOption(
        fd, SOL_SOCKET, SO_MARK, static_cast<int>(options.mark), "SO_MARK"));
  }
  // Best effort: without CAP_NET_ADMIN the system's maximum stays.
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &kSocketBuffer, sizeof(int));
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBuffer, sizeof(int));
  if (!IsUdp(kind)) return absl::OkStatus();
  if (!IsV4(kind)) {
    ESPALIER_RETURN_IF_ERROR(
        SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY"));
  }
  // Best effort: without it datagrams come one by one.
  const int on = 1;
  setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
  const SocketAddress any(
      {base::IpAddress::Any(IsV4(kind) ? base::Family::kIpv4
                                       : base::Family::kIpv6),
       options.port});
  if (bind(fd, any.get(), any.size()) != 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("bind to port ", options.port,
                            " (does another IKE daemon hold it?)"));
  }
  return absl::OkStatus();
}

}  // namespace

base::Endpoint Received::Remote() const {
  return EndpointOf(static_cast<const sockaddr*>(header->msg_name))
      .value_or(base::Endpoint{});
}

base::Endpoint Received::Local(uint16_t port) const {
  auto* message = const_cast<msghdr*>(header);
  for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr;
       c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      return {FromInAddr(info.ipi_addr), port};
    }
    if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      return {FromIn6Addr(info.ipi6_addr), port};
    }
  }
  return {Remote().address.is_v4() ? base::IpAddress::Any(base::Family::kIpv4)
                                   : base::IpAddress::Any(base::Family::kIpv6),
          port};
}

absl::StatusOr<std::unique_ptr<OuterSockets>> OuterSockets::Open(
    const OuterOptions& options) {
  auto sockets = std::unique_ptr<OuterSockets>(new OuterSockets());
  sockets->port_ = options.port;
  for (size_t i = 0; i < kKinds; ++i) {
    const Kind kind = static_cast<Kind>(i);
    const int family = IsV4(kind) ? AF_INET : AF_INET6;
    const int fd =
        IsUdp(kind)
            ? socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
            : socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC,
                     kProtocolEsp);
    if (fd < 0 && !IsV4(kind) && errno == EAFNOSUPPORT) continue;
    if (fd < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("socket for ", kNames[i]));
    }
    sockets->fds_[i] = fd;
    ESPALIER_RETURN_IF_ERROR(
        base::Annotate(Configure(fd, kind, options), kNames[i]));
  }
  return sockets;
}

absl::StatusOr<std::unique_ptr<OuterSockets>> OuterSockets::Adopt(
    const Descriptors& descriptors, const OuterOptions& options) {
  auto sockets = std::unique_ptr<OuterSockets>(new OuterSockets());
  sockets->port_ = options.port;
  sockets->fds_ = descriptors;
  for (const int fd : descriptors) {
    if (fd < 0) continue;
    ESPALIER_RETURN_IF_ERROR(SetOption(
        fd, SOL_SOCKET, SO_MARK, static_cast<int>(options.mark), "SO_MARK"));
  }
  return sockets;
}

OuterSockets::~OuterSockets() {
  for (const int fd : fds_) {
    if (fd >= 0) close(fd);
  }
}

bool OuterSockets::Receive(Kind kind,
                           absl::FunctionRef<void(const Received&)> handle) {
  const size_t batch = IsUdp(kind) ? kUdpBatch : kRawBatch;
  for (size_t i = 0; i < batch; ++i) {
    vectors_[i] = {buffers_.data() + i * kBuffer, kBuffer};
    msghdr& m = messages_[i].msg_hdr;
    m = {};
    m.msg_name = &names_[i];
    m.msg_namelen = sizeof names_[i];
    m.msg_iov = &vectors_[i];
    m.msg_iovlen = 1;
    m.msg_control = controls_[i].octets.data();
    m.msg_controllen = controls_[i].octets.size();
  }
  const int count =
      recvmmsg(fds_[kind], messages_.data(), static_cast<unsigned>(batch),
               MSG_DONTWAIT, nullptr);
  for (int i = 0; i < count; ++i) {
    msghdr& m = messages_[i].msg_hdr;
    const size_t size = messages_[i].msg_len;
    if ((m.msg_flags & MSG_TRUNC) != 0 || size == 0) continue;
    Received received{static_cast<uint8_t*>(vectors_[i].iov_base), size, size,
                      0, &m};
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
      int value = 0;
      if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
        std::memcpy(&value, CMSG_DATA(c), sizeof value);
        if (value > 0) received.segment = static_cast<size_t>(value);
      } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
        received.traffic_class = *CMSG_DATA(c);
      } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
        std::memcpy(&value, CMSG_DATA(c), sizeof value);
        received.traffic_class = static_cast<uint8_t>(value);
      }
    }
    handle(received);
  }
  return count == static_cast<int>(batch);
}

void OuterSockets::ReceiveErrors(
    Kind kind, absl::FunctionRef<void(const PathError&)> handle) {
  // Bounded: the kernel may queue errors as fast as this reads them.
  for (int i = 0; i < 64; ++i) {
    std::array<uint8_t, 1024> data;
    alignas(cmsghdr) std::array<uint8_t, 512> control;
    sockaddr_in6 name{};
    iovec vector{data.data(), data.size()};
    msghdr m{};
    m.msg_name = &name;
    m.msg_namelen = sizeof name;
    m.msg_iov = &vector;
    m.msg_iovlen = 1;
    m.msg_control = control.data();
    m.msg_controllen = control.size();
    const ssize_t size = recvmsg(fds_[kind], &m, MSG_ERRQUEUE | MSG_DONTWAIT);
    if (size < 0) return;
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
      const bool v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
      const bool v6 =
          c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
      if (!v4 && !v6) continue;
      sock_extended_err error;
      std::memcpy(&error, CMSG_DATA(c), sizeof error);
      const bool too_big = (error.ee_origin == SO_EE_ORIGIN_ICMP &&
                            error.ee_type == ICMP_DEST_UNREACH &&
                            error.ee_code == ICMP_FRAG_NEEDED) ||
                           (error.ee_origin == SO_EE_ORIGIN_ICMP6 &&
                            error.ee_type == ICMP6_PACKET_TOO_BIG);
      const auto remote = EndpointOf(reinterpret_cast<sockaddr*>(&name));
      if (!too_big || !remote.has_value()) continue;
      handle({error.ee_info, remote->address,
              base::Bytes(data.begin(), data.begin() + size)});
    }
  }
}

bool OuterSockets::SendUdp(const base::Endpoint& local,
                           const base::Endpoint& remote, base::ByteSpan bytes) {
  const int fd = fds_[remote.address.is_v4() ? kUdp4 : kUdp6];
  if (fd < 0) return false;
  const SocketAddress name(remote);
  iovec vector{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  msghdr m{};
  m.msg_name = const_cast<sockaddr*>(name.get());
  m.msg_namelen = name.size();
  m.msg_iov = &vector;
  m.msg_iovlen = 1;
  SendControl control(local.address, 0, 0);
  control.Attach(&m);
  // An error that an earlier datagram met is reported by, and fails, the next
  // call: so the second try tells.
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
  }
  return false;
}

SendControl::SendControl(const base::IpAddress& source, uint8_t traffic_class,
                         uint16_t segment) {
  if (source.is_v4()) {
    in_pktinfo info{};
    std::memcpy(&info.ipi_spec_dst, source.bytes().data(), 4);
    if (!source.IsUnspecified()) {
      Put(IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    }
    const int value = traffic_class;
    if (traffic_class != 0) Put(IPPROTO_IP, IP_TOS, &value, sizeof value);
  } else {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, source.bytes().data(), 16);
    if (!source.IsUnspecified()) {
      Put(IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
    const int value = traffic_class;
    if (traffic_class != 0)
      Put(IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof value);
  }
  if (segment != 0) Put(IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
}

void SendControl::Put(int level, int type, const void* data, size_t size) {
  auto* header = reinterpret_cast<cmsghdr*>(octets_.data() + size_);
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(header), data, size);
  size_ += CMSG_SPACE(size);
}

}  // namespace espalier::esp
