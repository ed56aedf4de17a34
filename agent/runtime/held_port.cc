#include "agent/runtime/held_port.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/runtime/socket_address.h"

namespace espalier::runtime {
namespace {

namespace control = esp::control;

// One readiness serves at most so many datagrams.
constexpr int kBatch = 64;
constexpr size_t kLargestDatagram = 65535;
constexpr size_t kMarker = 4;  // RFC 3948 2.2: zeros where ESP has its SPI
constexpr base::Family kFamilies[] = {base::Family::kIpv4, base::Family::kIpv6};

// The address that a datagram came to; false when the kernel did not say.
bool LocalAddress(msghdr* message, base::IpAddress* address) {
  for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr;
       c = CMSG_NXTHDR(message, c)) {
    std::array<uint8_t, 16> octets;
    size_t size = 0;
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      size = sizeof info.ipi_addr;
      memcpy(octets.data(), &info.ipi_addr, size);
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      size = sizeof info.ipi6_addr;
      memcpy(octets.data(), &info.ipi6_addr, size);
    } else {
      continue;
    }
    absl::StatusOr<base::IpAddress> parsed =
        base::IpAddress::FromBytes({octets.data(), size});
    if (!parsed.ok()) return false;
    *address = *parsed;
    return true;
  }
  return false;
}

// Makes `message` leave from `source`.
void SetSource(const base::IpAddress& source, uint8_t* buffer,
               msghdr* message) {
  const bool v4 = source.is_v4();
  in_pktinfo info4{};
  in6_pktinfo info6{};
  const size_t size = v4 ? sizeof info4 : sizeof info6;
  memcpy(v4 ? static_cast<void*>(&info4.ipi_spec_dst)
            : static_cast<void*>(&info6.ipi6_addr),
         source.bytes().data(), source.bytes().size());
  message->msg_control = buffer;
  message->msg_controllen = CMSG_SPACE(size);
  cmsghdr* const header = CMSG_FIRSTHDR(message);
  header->cmsg_level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
  header->cmsg_type = v4 ? IP_PKTINFO : IPV6_PKTINFO;
  header->cmsg_len = CMSG_LEN(size);
  memcpy(
      CMSG_DATA(header),
      v4 ? static_cast<const void*>(&info4) : static_cast<const void*>(&info6),
      size);
}

}  // namespace

HeldPort::HeldPort(base::EventLoop* loop, Options options, Handler handler)
    : loop_(loop),
      options_(std::move(options)),
      handler_(std::move(handler)),
      status_(absl::UnavailableError("not connected to espalier-espd yet")) {}

HeldPort::~HeldPort() {
  loop_->CancelTimer(retry_timer_);
  if (channel_ != nullptr) loop_->Unwatch(channel_->fd());
  UnwatchSockets();
}

void HeldPort::UnwatchSockets() {
  for (const base::Family family : kFamilies) {
    if (sockets_.fd(family) >= 0) loop_->Unwatch(sockets_.fd(family));
  }
}

void HeldPort::Start(std::function<void()> opened) {
  opened_ = std::move(opened);
  TryConnect();
}

void HeldPort::TryConnect() {
  retry_timer_ = 0;
  absl::StatusOr<std::unique_ptr<control::Channel>> channel =
      control::Channel::Connect(options_.socket_path);
  if (!channel.ok()) {
    Disconnect(channel.status());
    return;
  }
  channel_ = *std::move(channel);
  loop_->Watch(channel_->fd(), true, false,
               [this](bool, bool) { HandleConnection(); });
  if (absl::Status sent = control::SendSockets(
          channel_->fd(), control::HeldFrame::kTake, sockets_);
      !sent.ok()) {
    Disconnect(sent);
  }
}

void HeldPort::Disconnect(const absl::Status& why) {
  if (channel_ != nullptr) {
    base::Log(base::LogLevel::kWarning, "espd connection lost",
              {{"socket", options_.socket_path}, {"error", why}});
    loop_->Unwatch(channel_->fd());
    channel_.reset();
  }
  if (sockets_.empty()) {
    status_ = absl::UnavailableError(
        absl::StrCat("espalier-espd gave no UDP sockets (does it run with "
                     "--hold-udp-encap?): ",
                     why.message()));
  }
  if (retry_timer_ == 0) {
    retry_timer_ = loop_->RunAfter(options_.retry, [this] { TryConnect(); });
  }
}

void HeldPort::HandleConnection() {
  for (int i = 0; i < kBatch && channel_ != nullptr; ++i) {
    absl::StatusOr<std::optional<control::HeldMessage>> message =
        control::ReceiveSockets(channel_->fd());
    if (!message.ok()) {
      Disconnect(message.status());
      return;
    }
    if (!message->has_value()) return;
    if ((*message)->frame != control::HeldFrame::kSockets ||
        (*message)->sockets.empty()) {
      Disconnect(absl::InternalError(
          "espalier-espd answered with an unexpected frame"));
      return;
    }
    Use(std::move((*message)->sockets));
  }
}

void HeldPort::Use(control::HeldSockets sockets) {
  UnwatchSockets();
  sockets_ = std::move(sockets);
  status_ = absl::OkStatus();
  for (const base::Family family : kFamilies) {
    if (sockets_.fd(family) < 0) continue;
    loop_->Watch(sockets_.fd(family), true, false,
                 [this, family](bool, bool) { Receive(family); });
  }
  base::Log(base::LogLevel::kInfo, "UDP sockets taken from espd",
            {{"socket", options_.socket_path}, {"port", sockets_.port()}});
  if (opened_) opened_();
}

void HeldPort::Receive(base::Family family) {
  static thread_local base::Bytes buffer(kLargestDatagram);
  for (int i = 0; i < kBatch; ++i) {
    const int fd = sockets_.fd(family);
    if (fd < 0) return;
    sockaddr_storage from{};
    alignas(cmsghdr) std::array<uint8_t, 128> ancillary;
    iovec vector{buffer.data(), buffer.size()};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.data();
    message.msg_controllen = ancillary.size();
    const ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return;
    base::Endpoint local{{}, sockets_.port()};
    const absl::StatusOr<base::Endpoint> remote = FromSockaddr(from);
    const base::ByteSpan datagram(buffer.data(), static_cast<size_t>(size));
    // ESP and keepalives stay in the kernel; what else has no marker is noise.
    if (!remote.ok() || !LocalAddress(&message, &local.address) ||
        datagram.size() <= kMarker ||
        std::ranges::any_of(datagram.first(kMarker),
                            [](uint8_t octet) { return octet != 0; })) {
      continue;
    }
    handler_(local, *remote, datagram.subspan(kMarker));
  }
}

absl::Status HeldPort::SendIke(const base::Endpoint& local,
                               const base::Endpoint& remote,
                               base::ByteSpan bytes) {
  if (!status_.ok()) return status_;
  const int fd = sockets_.fd(remote.address.family());
  if (fd < 0) {
    return absl::UnavailableError(absl::StrCat(
        "this node has no UDP socket of the family of ", remote.ToString()));
  }
  sockaddr_storage to;
  const socklen_t to_size = ToSockaddr(remote, &to);
  std::array<uint8_t, kMarker> marker{};
  std::array<iovec, 2> parts = {
      iovec{marker.data(), marker.size()},
      iovec{const_cast<uint8_t*>(bytes.data()), bytes.size()}};
  alignas(cmsghdr) std::array<uint8_t, 128> ancillary{};
  msghdr message{};
  message.msg_name = &to;
  message.msg_namelen = to_size;
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  SetSource(local.address, ancillary.data(), &message);
  ssize_t sent = 0;
  do {
    sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot send IKE from ", local.ToString(), " to ",
                            remote.ToString()));
  }
  return absl::OkStatus();
}

void HeldPort::SendKeepalive(const base::Endpoint& local,
                             const base::Endpoint& remote) {
  if (channel_ == nullptr) return;
  if (absl::Status sent =
          channel_->Send({0, control::SendKeepalive{local, remote}});
      !sent.ok()) {
    Disconnect(sent);
  }
}

}  // namespace espalier::runtime
