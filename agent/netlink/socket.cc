#include "agent/netlink/socket.h"

#include <libmnl/libmnl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/network_namespace.h"

namespace espalier::netlink {
namespace {

// The kernel sends dumps in pieces of at most 32 KiB (since 4.9, when the
// reader offers that much); an acknowledgement quotes the request.
constexpr size_t kReceiveSize = 64 * 1024;
constexpr int kDumpTries = 5;
// One send of a batch stays below the default send buffer.
constexpr size_t kBatchOctets = 64 * 1024;
constexpr size_t kBatchMessages = 256;

}  // namespace

Socket::Socket(mnl_socket* socket, const Options& options)
    : socket_(socket), options_(options), receive_(kReceiveSize) {
  port_ = mnl_socket_get_portid(socket_);
}

Socket::~Socket() {
  FailAll(absl::CancelledError("the netlink socket was closed"));
  mnl_socket_close(socket_);
}

absl::StatusOr<std::unique_ptr<Socket>> Socket::Open(const Options& options) {
  mnl_socket* socket =
      mnl_socket_open2(options.protocol, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (socket == nullptr) return ErrnoToStatus(errno, "open a netlink socket");
  if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) != 0) {
    const int error = errno;
    mnl_socket_close(socket);
    return ErrnoToStatus(error, "bind a netlink socket");
  }
  // Each of these is refused by old kernels only, which then say and filter
  // less; nothing depends on them.
  int on = 1;
  mnl_socket_setsockopt(socket, NETLINK_EXT_ACK, &on, sizeof(on));
  mnl_socket_setsockopt(socket, NETLINK_CAP_ACK, &on, sizeof(on));
  mnl_socket_setsockopt(socket, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
  const int fd = mnl_socket_get_fd(socket);
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &options.receive_buffer,
                 sizeof(options.receive_buffer)) != 0) {
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &options.receive_buffer,
               sizeof(options.receive_buffer));
  }
  return std::unique_ptr<Socket>(new Socket(socket, options));
}

absl::StatusOr<std::unique_ptr<Socket>> Socket::OpenInNamespace(
    const std::string& path, const Options& options) {
  std::unique_ptr<Socket> result;
  ESPALIER_RETURN_IF_ERROR(RunInNetworkNamespace(path, [&]() -> absl::Status {
    ESPALIER_ASSIGN_OR_RETURN(result, Open(options));
    return absl::OkStatus();
  }));
  return result;
}

int Socket::fd() const { return mnl_socket_get_fd(socket_); }

absl::Status Socket::Subscribe(const std::vector<uint32_t>& groups,
                               Notification notify,
                               std::function<void()> overrun) {
  for (uint32_t group : groups) {
    int value = static_cast<int>(group);
    if (mnl_socket_setsockopt(socket_, NETLINK_ADD_MEMBERSHIP, &value,
                              sizeof(value)) != 0) {
      return ErrnoToStatus(errno, absl::StrCat("join netlink group ", group));
    }
  }
  notify_ = std::move(notify);
  overrun_ = std::move(overrun);
  return absl::OkStatus();
}

void Socket::Enqueue(Request* request, bool dump, Completion done) {
  const uint32_t sequence = next_sequence_++;
  if (next_sequence_ == 0) next_sequence_ = 1;  // 0 marks notifications
  request->SetSequence(sequence);
  request->AddFlags(dump ? NLM_F_DUMP : NLM_F_ACK);
  pending_.push_back({.sequence = sequence,
                      .what = request->what(),
                      .done = std::move(done),
                      .dump = dump});
}

absl::Status Socket::SendAll(std::vector<Request>* requests) {
  std::vector<iovec> parts;
  parts.reserve(requests->size());
  for (const Request& request : *requests) {
    parts.push_back(
        {const_cast<uint8_t*>(request.bytes().data()), request.bytes().size()});
  }
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  msghdr message{};
  message.msg_name = &kernel;
  message.msg_namelen = sizeof(kernel);
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  ssize_t sent;
  do {
    sent = sendmsg(fd(), &message, 0);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return ErrnoToStatus(errno, "send to netlink");
  return absl::OkStatus();
}

void Socket::Start(Request request, Completion done) {
  const bool dump = (request.flags() & NLM_F_DUMP) == NLM_F_DUMP;
  if (dump && std::ranges::any_of(pending_, &Pending::dump)) {
    waiting_dumps_.emplace_back(std::move(request), std::move(done));
    return;
  }
  Enqueue(&request, dump, std::move(done));
  const uint32_t sequence = pending_.back().sequence;
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  const absl::Status sent = SendAll(&requests);
  if (!sent.ok()) Complete(sequence, sent);
}

void Socket::HandleReadable() {
  // Bounded, so that a flood of notifications cannot hold the loop.
  for (int i = 0; i < 64; ++i) {
    absl::Status error;
    if (!ReceiveOnce(/*wait=*/false, &error)) {
      if (!error.ok()) FailAll(error);
      return;
    }
  }
}

bool Socket::ReceiveOnce(bool wait, absl::Status* error) {
  if (wait) {
    pollfd descriptor{.fd = fd(), .events = POLLIN, .revents = 0};
    const int64_t timeout = absl::ToInt64Milliseconds(options_.timeout);
    const int ready = poll(&descriptor, 1, static_cast<int>(timeout));
    if (ready == 0) {
      *error = absl::DeadlineExceededError(
          absl::StrCat("netlink did not answer within ",
                       absl::FormatDuration(options_.timeout)));
      return false;
    }
    if (ready < 0 && errno != EINTR) {
      *error = ErrnoToStatus(errno, "poll netlink");
      return false;
    }
  }
  sockaddr_nl sender{};
  iovec part{receive_.data(), receive_.size()};
  msghdr message{};
  message.msg_name = &sender;
  message.msg_namelen = sizeof(sender);
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const ssize_t length = recvmsg(fd(), &message, MSG_TRUNC);
  if (length < 0) {
    if (errno == EINTR) return true;
    if (errno == EAGAIN) return wait;
    if (errno == ENOBUFS) {
      // Messages are lost, replies maybe among them: who waits must ask anew.
      FailAll(ErrnoToStatus(ENOBUFS, "netlink lost replies"));
      if (overrun_) overrun_();
      return true;
    }
    *error = ErrnoToStatus(errno, "receive from netlink");
    return false;
  }
  const base::MutableByteSpan received = base::MutableByteSpan(receive_).first(
      std::min(static_cast<size_t>(length), receive_.size()));
  if ((message.msg_flags & MSG_TRUNC) != 0) {
    FailAll(absl::ResourceExhaustedError(
        absl::StrCat("a netlink message of ", length, " octets was cut")));
    if (overrun_) overrun_();
  } else if (sender.nl_pid == 0) {  // only the kernel is believed
    HandleBuffer(received);
  }
  // What the kernel reads back of SAs has keys in it (XFRM_MSG_NEWSA).
  if (options_.protocol == NETLINK_XFRM) base::Wipe(received);
  return true;
}

void Socket::HandleBuffer(base::ByteSpan bytes) {
  base::ByteReader reader(bytes);
  nlmsghdr header;
  base::ByteSpan payload;
  while (ReadMessage(&reader, &header, &payload)) {
    HandleMessage(header, payload);
  }
}

void Socket::HandleMessage(const nlmsghdr& header, base::ByteSpan payload) {
  if (header.nlmsg_seq == 0 || header.nlmsg_pid != port_) {
    if (notify_ && header.nlmsg_type >= NLMSG_MIN_TYPE) {
      notify_({.type = header.nlmsg_type,
               .flags = header.nlmsg_flags,
               .payload = base::Bytes(payload.begin(), payload.end())});
    }
    return;
  }
  const auto it =
      std::ranges::find(pending_, header.nlmsg_seq, &Pending::sequence);
  if (it == pending_.end()) return;
  if ((header.nlmsg_flags & NLM_F_DUMP_INTR) != 0) it->interrupted = true;
  if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE) {
    const Acknowledgement ack = ParseAcknowledgement(header, payload);
    if (ack.error == 0) {
      Complete(header.nlmsg_seq, absl::OkStatus());
    } else {
      const absl::Status status = ErrnoToStatus(ack.error, it->what);
      Complete(header.nlmsg_seq,
               absl::Status(status.code(),
                            absl::StrCat(status.message(), ack.detail)));
    }
    return;
  }
  if (header.nlmsg_type < NLMSG_MIN_TYPE) return;  // NLMSG_NOOP
  it->replies.push_back(
      {.type = header.nlmsg_type,
       .flags = header.nlmsg_flags,
       .payload = base::Bytes(payload.begin(), payload.end())});
}

void Socket::Complete(uint32_t sequence, absl::Status status) {
  const auto it = std::ranges::find(pending_, sequence, &Pending::sequence);
  if (it == pending_.end()) return;
  Pending finished = std::move(*it);
  pending_.erase(it);
  if (status.ok() && finished.interrupted) {
    status = absl::AbortedError(
        absl::StrCat(finished.what, ": interrupted by changes meanwhile"));
  }
  if (finished.dump) StartWaitingDump();
  // Last: it may start the next request.
  if (finished.done) {
    finished.done(std::move(status), std::move(finished.replies));
  }
}

void Socket::StartWaitingDump() {
  if (waiting_dumps_.empty()) return;
  auto [request, done] = std::move(waiting_dumps_.front());
  waiting_dumps_.pop_front();
  Start(std::move(request), std::move(done));
}

void Socket::FailAll(const absl::Status& status) {
  std::deque<Pending> failed = std::exchange(pending_, {});
  const auto waiting = std::exchange(waiting_dumps_, {});
  for (Pending& pending : failed) {
    if (pending.done) {
      pending.done(base::Annotate(status, pending.what), {});
    }
  }
  for (const auto& [request, done] : waiting) {
    if (done) done(base::Annotate(status, request.what()), {});
  }
}

absl::Status Socket::WaitFor(uint32_t sequence) {
  const auto is_pending = [&] {
    return std::ranges::find(pending_, sequence, &Pending::sequence) !=
           pending_.end();
  };
  while (is_pending()) {
    absl::Status error;
    if (!ReceiveOnce(/*wait=*/true, &error)) {
      FailAll(error);
      return error;
    }
  }
  return absl::OkStatus();
}

absl::Status Socket::Execute(Request request) {
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  return ExecuteBatch(std::move(requests)).front();
}

std::vector<absl::Status> Socket::ExecuteBatch(std::vector<Request> requests) {
  // Shared, so that a completion that comes late writes into live memory.
  auto results = std::make_shared<std::vector<absl::Status>>(
      requests.size(), absl::UnknownError("not answered"));
  size_t first = 0;
  while (first < requests.size()) {
    std::vector<Request> part;
    size_t octets = 0;
    std::vector<uint32_t> sequences;
    while (first < requests.size() && part.size() < kBatchMessages &&
           (part.empty() ||
            octets + requests[first].bytes().size() <= kBatchOctets)) {
      octets += requests[first].bytes().size();
      Enqueue(
          &requests[first], /*dump=*/false,
          [results, index = first](absl::Status status, std::vector<Reply>) {
            (*results)[index] = std::move(status);
          });
      sequences.push_back(pending_.back().sequence);
      part.push_back(std::move(requests[first]));
      ++first;
    }
    const absl::Status sent = SendAll(&part);
    if (!sent.ok()) {
      for (size_t i = 0; i < part.size(); ++i) {
        Complete(sequences[i], base::Annotate(sent, part[i].what()));
      }
      continue;
    }
    // The status of each is in *results, that of a lost socket too.
    WaitFor(sequences.back()).IgnoreError();
  }
  return *results;
}

absl::StatusOr<std::vector<Reply>> Socket::Query(Request request) {
  auto result = std::make_shared<absl::StatusOr<std::vector<Reply>>>(
      absl::UnknownError("not answered"));
  Enqueue(&request, /*dump=*/false,
          [result](absl::Status status, std::vector<Reply> replies) {
            if (status.ok()) {
              *result = std::move(replies);
            } else {
              *result = std::move(status);
            }
          });
  const uint32_t sequence = pending_.back().sequence;
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  const absl::Status sent = SendAll(&requests);
  if (!sent.ok()) {
    Complete(sequence, base::Annotate(sent, requests.front().what()));
  } else {
    WaitFor(sequence).IgnoreError();
  }
  return std::move(*result);
}

absl::StatusOr<std::vector<Reply>> Socket::Dump(Request request) {
  for (int attempt = 1;; ++attempt) {
    auto result = std::make_shared<absl::StatusOr<std::vector<Reply>>>(
        absl::UnknownError("not answered"));
    Request copy = request.Clone();
    Enqueue(&copy, /*dump=*/true,
            [result](absl::Status status, std::vector<Reply> replies) {
              if (status.ok()) {
                *result = std::move(replies);
              } else {
                *result = std::move(status);
              }
            });
    const uint32_t sequence = pending_.back().sequence;
    std::vector<Request> requests;
    requests.push_back(std::move(copy));
    const absl::Status sent = SendAll(&requests);
    if (!sent.ok()) {
      Complete(sequence, base::Annotate(sent, request.what()));
    } else {
      WaitFor(sequence).IgnoreError();
    }
    if (!absl::IsAborted(result->status())) return std::move(*result);
    if (attempt == kDumpTries) {
      return absl::UnavailableError(
          absl::StrCat(result->status().message(), ", ", attempt, " times"));
    }
  }
}

}  // namespace espalier::netlink
