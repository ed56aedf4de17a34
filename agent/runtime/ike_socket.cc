#include "agent/runtime/ike_socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/esp/control/held_sockets.h"
#include "agent/runtime/socket_address.h"

namespace espalier::runtime {
namespace {

// One readiness serves at most so many datagrams: a flood of them leaves room
// for timers and other sockets.
constexpr int kBatch = 64;
constexpr size_t kLargestDatagram = 65535;
constexpr int kReceiveBuffer = 4 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<IkeSocket>> IkeSocket::Open(
    base::EventLoop* loop, const base::Endpoint& local, Handler handler,
    uint32_t mark) {
  const bool v4 = local.address.is_v4();
  int fd = socket(v4 ? AF_INET : AF_INET6,
                  SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
  absl::Cleanup close_fd = [&fd] {
    if (fd >= 0) close(fd);
  };
  const auto error = [&](const char* what) {
    return absl::ErrnoToStatus(
        errno,
        absl::StrCat("cannot ", what, " the IKE socket on ", local.ToString()));
  };
  if (fd < 0) return error("create");
  const int on = 1;
  const int off = 0;
  // Large IKE messages to peers without RFC 7383 rely on IP fragments.
  if (v4) {
    const int pmtu = IP_PMTUDISC_DONT;
    setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &pmtu, sizeof(pmtu));
    setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on));
  } else {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IPV6, IPV6_DONTFRAG, &off, sizeof(off));
    setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on));
  }
  // A storm of handshakes arrives faster than it is answered; without the
  // right to force it, the kernel's own limit is as good as it gets.
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBuffer,
                 sizeof(kReceiveBuffer)) != 0) {
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &kReceiveBuffer,
               sizeof(kReceiveBuffer));
  }
  if (mark != 0 &&
      setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) != 0) {
    return error("mark");
  }
  // Without it IKE would wait for the tunnel that it is to make. A kernel
  // without IPsec has nothing to pass.
  const absl::Status bypass =
      esp::control::BypassIpsec(fd, local.address.family());
  if (!bypass.ok() && !absl::IsUnimplemented(bypass)) {
    return base::Annotate(bypass,
                          absl::StrCat("the IKE socket on ", local.ToString()));
  }
  sockaddr_storage address;
  const socklen_t size = ToSockaddr(local, &address);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    return error("bind");
  }
  sockaddr_storage bound{};
  socklen_t bound_size = sizeof(bound);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &bound_size) != 0) {
    return error("examine");
  }
  ESPALIER_ASSIGN_OR_RETURN(const base::Endpoint endpoint, FromSockaddr(bound));
  std::unique_ptr<IkeSocket> opened(
      new IkeSocket(loop, fd, endpoint, std::move(handler)));
  fd = -1;
  return opened;
}

IkeSocket::IkeSocket(base::EventLoop* loop, int fd, base::Endpoint local,
                     Handler handler)
    : loop_(loop), fd_(fd), local_(local), handler_(std::move(handler)) {
  loop_->Watch(fd_, true, false, [this](bool, bool) { Receive(); });
}

IkeSocket::~IkeSocket() {
  loop_->Unwatch(fd_);
  close(fd_);
}

void IkeSocket::Receive() {
  static thread_local base::Bytes buffer(kLargestDatagram);
  for (int i = 0; i < kBatch; ++i) {
    sockaddr_storage from{};
    socklen_t from_size = sizeof(from);
    const ssize_t size =
        recvfrom(fd_, buffer.data(), buffer.size(), 0,
                 reinterpret_cast<sockaddr*>(&from), &from_size);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return;
    absl::StatusOr<base::Endpoint> remote = FromSockaddr(from);
    if (!remote.ok() || size == 0) continue;
    handler_(local_, *remote, {buffer.data(), static_cast<size_t>(size)});
  }
}

absl::Status IkeSocket::Send(const base::Endpoint& remote,
                             base::ByteSpan bytes) {
  if (remote.address.family() != local_.address.family()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot send from ", local_.ToString(), " to ",
                     remote.ToString(), ": the families differ"));
  }
  sockaddr_storage to;
  const socklen_t to_size = ToSockaddr(remote, &to);
  ssize_t sent = 0;
  do {
    sent = sendto(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL,
                  reinterpret_cast<const sockaddr*>(&to), to_size);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot send IKE from ", local_.ToString(), " to ",
                            remote.ToString()));
  }
  return absl::OkStatus();
}

}  // namespace espalier::runtime
