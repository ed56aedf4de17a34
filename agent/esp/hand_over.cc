#include "agent/esp/hand_over.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/secret_bytes.h"
#include "agent/base/status_macros.h"

namespace espalier::esp {
namespace {

constexpr size_t kMaxDescriptors = 2 + OuterSockets::kKinds;

struct ControlBuffer {
  alignas(cmsghdr)
      std::array<uint8_t, CMSG_SPACE(sizeof(int) * kMaxDescriptors)> octets{};
};

absl::Status Gone(const char* why) {
  return absl::UnavailableError(absl::StrCat("hand-over between espd: ", why));
}

// SCM_RIGHTS descriptors of a received message.
void TakeRights(msghdr* message, std::vector<int>* descriptors) {
  for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr;
       c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      descriptors->push_back(fd);
    }
  }
}

}  // namespace

HandOverLink::HandOverLink(int fd, absl::Duration limit)
    : fd_(fd), deadline_(absl::Now() + limit) {}

bool HandOverLink::Wait(short events) const {
  const auto left =
      std::max<int64_t>(0, absl::ToInt64Milliseconds(deadline_ - absl::Now()));
  pollfd wait{fd_, events, 0};
  return poll(&wait, 1, static_cast<int>(left)) > 0;
}

absl::Status HandOverLink::Send(control::Message message,
                                const std::vector<int>& descriptors) {
  const base::SecretBytes octets = control::Encode({0, std::move(message)});
  iovec vector{const_cast<uint8_t*>(octets.span().data()), octets.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  ControlBuffer control;
  if (!descriptors.empty()) {
    const size_t size = descriptors.size() * sizeof(int);
    header.msg_control = control.octets.data();
    header.msg_controllen = CMSG_SPACE(size);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(c), descriptors.data(), size);
  }
  while (sendmsg(fd_, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != ENOBUFS) return Gone(std::strerror(errno));
    if (!Wait(POLLOUT)) {
      return absl::DeadlineExceededError(
          "hand-over between espd: the other end does not read");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<control::Message> HandOverLink::Receive(
    std::vector<int>* descriptors) {
  base::SecretBytes buffer(control::kMaxFrame);
  iovec vector{buffer.mutable_span().data(), buffer.size()};
  ControlBuffer control;
  msghdr header{};
  ssize_t size;
  while (true) {
    header = {};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.octets.data();
    header.msg_controllen = control.octets.size();
    size = recvmsg(fd_, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size >= 0) break;
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return Gone(std::strerror(errno));
    if (!Wait(POLLIN)) {
      return absl::DeadlineExceededError(
          "hand-over between espd: the other end says nothing");
    }
  }
  TakeRights(&header, descriptors);
  if (size == 0) return Gone("the other end has closed");
  ESPALIER_ASSIGN_OR_RETURN(
      control::Frame frame,
      control::Decode(buffer.span().first(static_cast<size_t>(size))));
  return std::move(frame.message);
}

bool HandOverLink::WaitForHandedOver() {
  std::vector<int> none;
  absl::StatusOr<control::Message> answer = Receive(&none);
  const auto owner = [&] {
    return answer.ok() && std::holds_alternative<control::HandedOver>(*answer);
  };
  if (!owner() && !absl::IsUnavailable(answer.status())) {
    // From here on the other end cannot send. What it has sent before is
    // still there to be read, and counts.
    shutdown(fd_, SHUT_RD);
    while (!owner() && !absl::IsUnavailable(answer.status())) {
      answer = Receive(&none);
    }
  }
  for (const int fd : none) close(fd);
  return owner();
}

bool HandOverTo(int connection, const control::HandOverBegin& begin,
                const Descriptors& descriptors, Engine* engine,
                absl::Duration limit) {
  HandOverLink link(connection, limit);
  std::vector<int> rights = {descriptors.listener, descriptors.tun};
  control::HandOverBegin first{begin.instance,
                               begin.tunnel_interface,
                               begin.port,
                               begin.udp_offload,
                               0,
                               begin.fingerprint_key.Clone()};
  for (size_t i = 0; i < descriptors.outer.size(); ++i) {
    if (descriptors.outer[i] < 0) continue;
    rights.push_back(descriptors.outer[i]);
    first.outer_sockets |= static_cast<uint8_t>(1u << i);
  }
  absl::Status status = link.Send(std::move(first), rights);
  if (status.ok()) {
    status = engine->HandOver([&](control::Message message) {
      return link.Send(std::move(message));
    });
  }
  if (status.ok()) status = link.Send(control::HandOverEnd{});
  // After an error too: it makes sure that the other end never is the owner.
  if (link.WaitForHandedOver()) {
    base::Log(base::LogLevel::kInfo, "handed over to the next espd");
    return true;
  }
  base::Log(base::LogLevel::kWarning,
            "hand-over to the next espd failed; going on as before",
            {{"error", status}});
  return false;
}

absl::StatusOr<std::unique_ptr<Inheritance>> Inheritance::Ask(
    const std::string& socket_path, absl::Duration limit) {
  absl::StatusOr<std::unique_ptr<control::Channel>> channel =
      control::Channel::Connect(socket_path);
  if (absl::IsUnavailable(channel.status())) {
    return absl::NotFoundError(channel.status().message());
  }
  if (!channel.ok()) return std::move(channel).status();
  std::unique_ptr<Inheritance> inheritance(
      new Inheritance(*std::move(channel), limit));
  ESPALIER_RETURN_IF_ERROR(
      base::Annotate(inheritance->Begin(), absl::StrCat(socket_path, ": ")));
  return inheritance;
}

absl::Status Inheritance::Begin() {
  ESPALIER_RETURN_IF_ERROR(link_.Send(control::Hello{}));
  ESPALIER_RETURN_IF_ERROR(link_.Send(control::HandOver{}));
  std::vector<int> rights;
  std::optional<control::HandOverBegin> begin;
  absl::Status status;
  // The answer to Hello comes first.
  for (int i = 0; i < 2 && status.ok() && !begin.has_value(); ++i) {
    absl::StatusOr<control::Message> message = link_.Receive(&rights);
    status = message.status();
    if (!message.ok()) break;
    if (auto* found = std::get_if<control::HandOverBegin>(&*message)) {
      begin = std::move(*found);
    }
  }
  std::vector<int*> places = {&descriptors_.listener, &descriptors_.tun};
  for (size_t i = 0; begin.has_value() && i < OuterSockets::kKinds; ++i) {
    if ((begin->outer_sockets >> i & 1) != 0) {
      places.push_back(&descriptors_.outer[i]);
    }
  }
  if (!begin.has_value() || rights.size() != places.size()) {
    for (const int fd : rights) close(fd);
    if (!status.ok()) return status;
    return absl::FailedPreconditionError(
        "the espd that serves there does not hand over; stop it first");
  }
  for (size_t i = 0; i < places.size(); ++i) *places[i] = rights[i];
  begin_ = *std::move(begin);
  return absl::OkStatus();
}

Inheritance::~Inheritance() {
  const Descriptors left = TakeDescriptors();
  for (const int fd : {left.listener, left.tun}) {
    if (fd >= 0) close(fd);
  }
  for (const int fd : left.outer) {
    if (fd >= 0) close(fd);
  }
}

Descriptors Inheritance::TakeDescriptors() {
  return std::exchange(descriptors_, Descriptors{});
}

absl::Status Inheritance::ReceiveState(Engine* engine) {
  while (true) {
    std::vector<int> none;
    absl::StatusOr<control::Message> message = link_.Receive(&none);
    for (const int fd : none) close(fd);
    if (!message.ok()) return std::move(message).status();
    if (std::holds_alternative<control::HandOverEnd>(*message)) {
      return absl::OkStatus();
    }
    ESPALIER_RETURN_IF_ERROR(engine->Adopt(*std::move(message)));
  }
}

absl::Status Inheritance::Claim() { return link_.Send(control::HandedOver{}); }

}  // namespace espalier::esp
