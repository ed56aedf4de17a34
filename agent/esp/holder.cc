#include "agent/esp/holder.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "agent/base/clock.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/esp/control/channel.h"
#include "agent/esp/control/held_sockets.h"
#include "agent/esp/control/messages.h"
#include "agent/esp/outer_sockets.h"
#include "agent/esp/privileges.h"
#include "agent/esp/socket_address.h"

namespace espalier::esp {
namespace {

using base::LogLevel;
using control::HeldFrame;
using control::HeldMessage;
using control::HeldSockets;

constexpr size_t kMaxPaths = 16384;
// The kernel's SAs, whose hard limits the holder does not know, are dead by
// then.
constexpr absl::Duration kKeepaliveEnd = absl::Hours(24);

class Holder {
 public:
  Holder(const HolderOptions& options, int listener, int signals,
         HeldSockets sockets)
      : options_(options),
        listener_(listener),
        signals_(signals),
        sockets_(std::move(sockets)),
        started_(clock_.Now()) {}

  absl::Status Run() {
    while (true) {
      std::vector<pollfd> polled = {{signals_, POLLIN, 0},
                                    {listener_, POLLIN, 0}};
      for (const auto& [fd, channel] : clients_) {
        polled.push_back({fd, POLLIN, 0});
      }
      if (poll(polled.data(), polled.size(), 1000) < 0 && errno != EINTR) {
        return absl::ErrnoToStatus(errno, "poll");
      }
      if (polled[0].revents != 0) return absl::OkStatus();
      if (polled[1].revents != 0) Accept();
      for (size_t i = 2; i < polled.size(); ++i) {
        if (polled[i].revents != 0) HandleClient(polled[i].fd);
      }
      if (sockets_.empty() && clock_.Now() - started_ > options_.offer_time) {
        return HeldSockets::Open(options_.port, options_.mark).status();
      }
      KeepAlive();
    }
  }

 private:
  struct Path {
    base::Endpoint local;
    base::Instant asked;  // by an agent
    base::Instant sent;
  };

  void Accept() {
    absl::StatusOr<std::unique_ptr<control::Channel>> channel =
        control::Channel::Accept(listener_, clients_.size());
    if (!channel.ok()) {
      base::Log(LogLevel::kWarning, "control connection refused",
                {{"error", channel.status()}});
      return;
    }
    if (*channel == nullptr) return;
    const int fd = (*channel)->fd();
    clients_[fd] = *std::move(channel);
  }

  void Drop(int fd) {
    clients_.erase(fd);
    if (agent_ != fd) return;
    agent_ = -1;
    base::Log(LogLevel::kInfo, "agent disconnected");
  }

  void HandleClient(int fd) {
    absl::StatusOr<std::optional<HeldMessage>> message =
        control::ReceiveSockets(fd);
    if (!message.ok()) {
      if (absl::IsInvalidArgument(message.status())) {
        base::Log(LogLevel::kWarning, "control frame refused",
                  {{"error", message.status()}});
      }
      Drop(fd);
      return;
    }
    if (!message->has_value()) return;
    if ((*message)->frame == HeldFrame::kTake) {
      HandOut(fd, std::move((*message)->sockets));
    } else if (!HandleFrame(fd, (*message)->octets)) {
      Drop(fd);
    }
  }

  void HandOut(int fd, HeldSockets offered) {
    if (sockets_.empty() && !offered.empty()) {
      if (offered.port() != options_.port) {
        base::Log(LogLevel::kWarning, "offered sockets are of another port",
                  {{"port", offered.port()}});
      } else {
        base::Log(LogLevel::kInfo, "sockets taken over from the agent",
                  {{"port", offered.port()}});
        sockets_ = std::move(offered);
      }
    }
    // Without sockets there is no answer but the end: the agent tries again.
    if (sockets_.empty() ||
        !control::SendSockets(fd, HeldFrame::kSockets, sockets_).ok()) {
      Drop(fd);
      return;
    }
    if (agent_ >= 0 && agent_ != fd) Drop(agent_);
    agent_ = fd;
    base::Log(LogLevel::kInfo, "agent connected");
  }

  // False when the connection is of no more use.
  bool HandleFrame(int fd, base::ByteSpan octets) {
    absl::StatusOr<control::Frame> frame = control::Decode(octets);
    if (!frame.ok()) {
      base::Log(LogLevel::kWarning, "control frame refused",
                {{"error", frame.status()}});
      return false;
    }
    if (const auto* alive =
            std::get_if<control::SendKeepalive>(&frame->message)) {
      if (paths_.contains(alive->remote) || paths_.size() < kMaxPaths) {
        const base::Instant now = clock_.Now();
        paths_[alive->remote] = {alive->local, now, now};
      }
      Send(alive->local, alive->remote);
      return true;
    }
    // Another agent than this mode's, or a person's tool: told why.
    clients_.at(fd)
        ->Send(
            {frame->id,
             control::Reply{absl::FailedPreconditionError(
                 "this espalier-espd only holds UDP sockets for the kernel "
                 "datapath (--hold-udp-encap); datapath.driver: user needs one "
                 "without that flag")}})
        .IgnoreError();
    return false;
  }

  void KeepAlive() {
    if (agent_ >= 0) return;
    const base::Instant now = clock_.Now();
    for (auto path = paths_.begin(); path != paths_.end();) {
      if (now - path->second.asked > kKeepaliveEnd) {
        path = paths_.erase(path);
        continue;
      }
      if (now - path->second.sent >= options_.keepalive_interval) {
        path->second.sent = now;
        Send(path->second.local, path->first);
      }
      ++path;
    }
  }

  // One octet 0xff (RFC 3948 2.3). A datagram may be lost.
  void Send(const base::Endpoint& local, const base::Endpoint& remote) {
    const int fd = sockets_.fd(remote.address.family());
    if (fd < 0) return;
    uint8_t octet = 0xff;
    iovec vector{&octet, 1};
    const SocketAddress to(remote);
    msghdr message{};
    message.msg_name = const_cast<sockaddr*>(to.get());
    message.msg_namelen = to.size();
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    SendControl control(local.address, /*traffic_class=*/0, /*segment=*/0);
    control.Attach(&message);
    sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  const HolderOptions& options_;
  const int listener_;
  const int signals_;
  base::SteadyClock clock_;
  HeldSockets sockets_;
  const base::Instant started_;
  std::map<int, std::unique_ptr<control::Channel>> clients_;
  int agent_ = -1;
  std::map<base::Endpoint, Path> paths_;
};

}  // namespace

absl::Status RunHolder(const HolderOptions& options) {
  ESPALIER_RETURN_IF_ERROR(ProtectMemory());
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const int signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (signal_fd < 0) return absl::ErrnoToStatus(errno, "signalfd");
  const absl::Cleanup close_signals = [signal_fd] { close(signal_fd); };
  ESPALIER_ASSIGN_OR_RETURN(const int listener,
                            control::Listen(options.socket_path));
  const absl::Cleanup close_listener = [&] {
    close(listener);
    unlink(options.socket_path.c_str());
  };
  absl::StatusOr<HeldSockets> sockets =
      HeldSockets::Open(options.port, options.mark);
  if (!sockets.ok()) {
    if (!absl::IsAlreadyExists(sockets.status())) return sockets.status();
    // An agent may still have the sockets of a holder that died.
    base::Log(LogLevel::kWarning, "waiting for an agent that has the sockets",
              {{"error", sockets.status()}});
    sockets = HeldSockets();
  }
  ESPALIER_RETURN_IF_ERROR(DropPrivileges());
  base::Log(LogLevel::kInfo, "espd holds the UDP sockets",
            {{"socket", options.socket_path}, {"port", options.port}});
  return Holder(options, listener, signal_fd, *std::move(sockets)).Run();
}

}  // namespace espalier::esp
