#include "agent/esp/control/channel.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::esp::control {
namespace {

absl::Status ErrnoStatus(const std::string& what) {
  return absl::ErrnoToStatus(errno, what);
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(
        absl::StrCat("espd control socket path '", path, "' must have 1 to ",
                     sizeof address.sun_path - 1, " octets"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<int> ConnectTo(const std::string& path) {
  ESPALIER_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  const int fd =
      socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus("socket for the espd control connection");
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address),
              sizeof address) != 0) {
    const std::string why = std::strerror(errno);
    close(fd);
    return absl::UnavailableError(absl::StrCat("no espalier-espd at ", path,
                                               ": ", why, "; is it running?"));
  }
  return fd;
}

}  // namespace

absl::StatusOr<int> Listen(const std::string& path) {
  ESPALIER_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  absl::StatusOr<int> other = ConnectTo(path);
  if (other.ok()) {
    close(*other);
    return absl::AlreadyExistsError(
        absl::StrCat("another espalier-espd serves ", path));
  }
  unlink(path.c_str());
  const int fd =
      socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus("socket for the espd control socket");
  // Made with its final mode: there is no moment in which others may connect.
  const mode_t old_mask = umask(0177);
  const int bound =
      bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(old_mask);
  if (bound != 0 || listen(fd, 8) != 0) {
    absl::Status status =
        ErrnoStatus(absl::StrCat("espd control socket at ", path));
    close(fd);
    return status;
  }
  return fd;
}

absl::Status CheckPeer(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return ErrnoStatus("SO_PEERCRED of an espd control connection");
  }
  if (peer.uid != 0 && peer.uid != geteuid()) {
    return absl::PermissionDeniedError(
        absl::StrCat("espd control connection with user ", peer.uid,
                     " (process ", peer.pid, "): only root may take part"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Channel>> Channel::Connect(
    const std::string& path) {
  ESPALIER_ASSIGN_OR_RETURN(const int fd, ConnectTo(path));
  auto channel = std::make_unique<Channel>(fd);
  ESPALIER_RETURN_IF_ERROR(CheckPeer(fd));
  return channel;
}

absl::StatusOr<std::unique_ptr<Channel>> Channel::Accept(int listener,
                                                         size_t others) {
  const int fd =
      accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return nullptr;
  auto channel = std::make_unique<Channel>(fd);
  ESPALIER_RETURN_IF_ERROR(CheckPeer(fd));
  if (others >= kMaxClients) {
    return absl::ResourceExhaustedError("too many control connections");
  }
  return channel;
}

Channel::~Channel() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<bool> Channel::TrySend(base::ByteSpan octets) {
  while (send(fd_, octets.data(), octets.size(), MSG_NOSIGNAL) < 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
      return false;
    }
    return absl::UnavailableError(
        absl::StrCat("espd control connection: ", std::strerror(errno)));
  }
  return true;
}

absl::Status Channel::Send(const Frame& frame) {
  base::SecretBytes octets = Encode(frame);
  if (octets.size() > kMaxFrame) {
    return absl::InvalidArgumentError(
        absl::StrCat("espd control frame of ", octets.size(), " octets"));
  }
  if (queue_.empty()) {
    ESPALIER_ASSIGN_OR_RETURN(const bool sent, TrySend(octets.span()));
    if (sent) return absl::OkStatus();
  }
  if (queue_.size() >= kMaxQueuedFrames) {
    return absl::ResourceExhaustedError(
        "the other end of the espd control connection does not read");
  }
  queue_.push_back(std::move(octets));
  return absl::OkStatus();
}

absl::Status Channel::Flush() {
  while (!queue_.empty()) {
    ESPALIER_ASSIGN_OR_RETURN(const bool sent, TrySend(queue_.front().span()));
    if (!sent) return absl::OkStatus();
    queue_.pop_front();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Frame>> Channel::Receive() {
  const base::MutableByteSpan buffer = buffer_.mutable_span();
  ssize_t size;
  do {
    size = recv(fd_, buffer.data(), buffer.size(), 0);
  } while (size < 0 && errno == EINTR);
  if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    return std::optional<Frame>();
  }
  if (size <= 0) {
    return absl::UnavailableError(
        absl::StrCat("espd control connection: ",
                     size == 0 ? "closed" : std::strerror(errno)));
  }
  const base::MutableByteSpan octets = buffer.first(static_cast<size_t>(size));
  absl::StatusOr<Frame> frame = Decode(octets);
  base::Wipe(octets);
  if (!frame.ok()) return std::move(frame).status();
  return std::optional<Frame>(*std::move(frame));
}

}  // namespace espalier::esp::control
