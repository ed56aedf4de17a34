#include "agent/esp/sender.h"

#include <netinet/in.h>
#include <poll.h>

#include <cerrno>

#include "agent/esp/socket_address.h"

namespace espalier::esp {
namespace {

// How long the loop lets a full device hold it up: what then still does not
// fit is dropped, as any full queue does.
constexpr int kWaitMilliseconds = 5;

class OuterFragmentation {
 public:
  // Lets the kernel cut what is sent until this goes (RFC 4301 8.1: the DF bit
  // is the tunnel's own choice).
  OuterFragmentation(int fd, bool v4, bool wanted)
      : fd_(fd), v4_(v4), wanted_(wanted) {
    if (wanted_) Set(v4_ ? IP_PMTUDISC_DONT : IPV6_PMTUDISC_DONT);
  }
  ~OuterFragmentation() {
    if (wanted_) Set(v4_ ? IP_PMTUDISC_PROBE : IPV6_PMTUDISC_PROBE);
  }
  OuterFragmentation(const OuterFragmentation&) = delete;
  OuterFragmentation& operator=(const OuterFragmentation&) = delete;

 private:
  void Set(int value) {
    setsockopt(fd_, v4_ ? IPPROTO_IP : IPPROTO_IPV6,
               v4_ ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, &value, sizeof value);
  }
  int fd_;
  bool v4_;
  bool wanted_;
};

}  // namespace

Sender::Sender(OuterSockets* sockets, Statistics* statistics)
    : sockets_(sockets),
      statistics_(statistics),
      buffer_(std::make_unique<uint8_t[]>(kBuffer)) {}

bool Sender::Fits(const Sa* sa, size_t size, uint8_t traffic_class) const {
  if (count_ == 0) return true;
  if (sa != sa_ || traffic_class != traffic_class_ || fragment_ ||
      count_ == kMaxPackets || used_ + size > kMaxTrain) {
    return false;
  }
  // UDP_SEGMENT: all equally long, only the last may be shorter.
  return !sa->config.encapsulation.has_value() ||
         (sizes_[count_ - 1] == sizes_[0] && size <= sizes_[0]);
}

uint8_t* Sender::Reserve(Sa* sa, size_t size, uint8_t traffic_class,
                         bool fragment) {
  if (fragment || !Fits(sa, size, traffic_class)) Flush();
  sa_ = sa;
  traffic_class_ = traffic_class;
  fragment_ = fragment;
  reserved_ = size;
  return buffer_.get() + used_;
}

void Sender::Commit() {
  sizes_[count_++] = reserved_;
  used_ += reserved_;
}

void Sender::Flush() {
  if (count_ == 0) return;
  const base::EspSa& config = sa_->config;
  const bool v4 = config.outer_destination.is_v4();
  const bool udp = config.encapsulation.has_value();
  const int fd =
      sockets_->fd(udp ? (v4 ? OuterSockets::kUdp4 : OuterSockets::kUdp6)
                       : (v4 ? OuterSockets::kRaw4 : OuterSockets::kRaw6));
  // A raw IPv6 socket takes no port but 0 (ipv6(7)).
  const SocketAddress name(
      {config.outer_destination,
       udp ? config.encapsulation->destination_port : uint16_t{0}});
  iovec vector{buffer_.get(), used_};
  msghdr message{};
  message.msg_name = const_cast<sockaddr*>(name.get());
  message.msg_namelen = name.size();
  message.msg_iov = &vector;
  message.msg_iovlen = 1;

  bool sent = false;
  if (fd >= 0) {
    const OuterFragmentation fragmentation(fd, v4, fragment_);
    const bool train = count_ > 1 && udp && gso_;
    SendControl control(config.outer_source, traffic_class_,
                        train ? static_cast<uint16_t>(sizes_[0]) : 0);
    control.Attach(&message);
    sent = train ? SendTrain(fd, &message) : SendSingly(fd, message);
  }
  statistics_->esp_sent += count_;
  if (!sent) {
    sa_->counters.send_errors += count_;
    statistics_->drop_send += count_;
  }
  sa_ = nullptr;
  used_ = 0;
  count_ = 0;
  fragment_ = false;
}

bool Sender::WaitWritable(int fd) {
  pollfd wait{fd, POLLOUT, 0};
  return poll(&wait, 1, kWaitMilliseconds) > 0;
}

// 0, or the errno.
int Sender::SendMessage(int fd, const msghdr& message) {
  // An ICMP error that an earlier packet met fails the call after it, without
  // anything being wrong with this packet: so one more try.
  int error = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    ++statistics_->sends;
    if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return 0;
    error = errno;
    const bool full = error == EAGAIN || error == EWOULDBLOCK;
    if (full && !WaitWritable(fd)) return error;
  }
  return error;
}

bool Sender::SendTrain(int fd, msghdr* message) {
  const int error = SendMessage(fd, *message);
  if (error == 0) return true;
  if (error == EMSGSIZE || error == EINVAL) {
    // The segments do not fit the link: singly they meet the same end.
    if (on_too_long_) on_too_long_(sa_);
    return false;
  }
  if (error != EIO) return false;
  // A device without checksum offload refuses UDP_SEGMENT.
  gso_ = false;
  SendControl control(sa_->config.outer_source, traffic_class_, 0);
  control.Attach(message);
  return SendSingly(fd, *message);
}

bool Sender::SendSingly(int fd, const msghdr& message) {
  std::array<mmsghdr, kMaxPackets> messages;
  std::array<iovec, kMaxPackets> vectors;
  size_t place = 0;
  for (size_t i = 0; i < count_; ++i) {
    vectors[i] = {buffer_.get() + place, sizes_[i]};
    messages[i] = {};
    messages[i].msg_hdr = message;
    messages[i].msg_hdr.msg_iov = &vectors[i];
    place += sizes_[i];
  }
  bool all = true;
  size_t done = 0;
  while (done < count_) {
    ++statistics_->sends;
    const int sent = sendmmsg(fd, messages.data() + done,
                              static_cast<unsigned>(count_ - done),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
      continue;
    }
    const int error = SendMessage(fd, messages[done].msg_hdr);
    if (error == EMSGSIZE && on_too_long_) on_too_long_(sa_);
    all = all && error == 0;
    ++done;
  }
  return all;
}

}  // namespace espalier::esp
