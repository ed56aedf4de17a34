#include "agent/esp/loop.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/esp_cipher.h"
#include "agent/esp/control_server.h"
#include "agent/esp/engine.h"
#include "agent/esp/hand_over.h"
#include "agent/esp/privileges.h"

namespace espalier::esp {
namespace {

constexpr int kTickMilliseconds = 1000;

class Epoll {
 public:
  Epoll() : fd_(epoll_create1(EPOLL_CLOEXEC)) {}
  ~Epoll() { close(fd_); }
  Epoll(const Epoll&) = delete;
  Epoll& operator=(const Epoll&) = delete;

  void Watch(int fd, bool readable, bool writable) {
    epoll_event event{};
    event.events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);
    event.data.fd = fd;
    if (epoll_ctl(fd_, EPOLL_CTL_MOD, fd, &event) != 0 && errno == ENOENT) {
      epoll_ctl(fd_, EPOLL_CTL_ADD, fd, &event);
    }
  }
  void Unwatch(int fd) { epoll_ctl(fd_, EPOLL_CTL_DEL, fd, nullptr); }
  int fd() const { return fd_; }

 private:
  int fd_;
};

absl::StatusOr<int> WatchSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const int fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, "signalfd");
  return fd;
}

class Loop {
 public:
  Loop(Epoll* epoll, Tun* tun, OuterSockets* sockets, ControlServer* server,
       Engine* engine, int signals, base::Clock* clock)
      : epoll_(epoll),
        tun_(tun),
        sockets_(sockets),
        server_(server),
        engine_(engine),
        signals_(signals),
        clock_(clock) {}

  absl::Status Run() {
    epoll_->Watch(signals_, true, false);
    epoll_->Watch(tun_->fd(), true, false);
    for (size_t i = 0; i < OuterSockets::kKinds; ++i) {
      const int fd = sockets_->fd(static_cast<OuterSockets::Kind>(i));
      if (fd >= 0) epoll_->Watch(fd, true, false);
    }
    base::Instant next_tick = clock_->Now();
    std::array<epoll_event, 16> events;
    while (true) {
      const int count = epoll_wait(epoll_->fd(), events.data(), events.size(),
                                   kTickMilliseconds);
      if (count < 0 && errno != EINTR) {
        return absl::ErrnoToStatus(errno, "epoll_wait");
      }
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == signals_) return absl::OkStatus();
        // A new one takes capabilities that this process has given up: the
        // next process has them. Until then nothing flows, and nothing leaks.
        if (events[i].data.fd == tun_->fd() &&
            (events[i].events & EPOLLERR) != 0) {
          return absl::UnavailableError(
              "the TUN was deleted; start espalier-espd again to make a new "
              "one (tunnels are then negotiated anew)");
        }
        Dispatch(events[i]);
        // The rest is the next espd's.
        if (server_->handed_over()) return absl::OkStatus();
      }
      // The clock costs a system call; a busy loop asks it now and then.
      if (count > 0 && ++turns_ % 64 != 0) continue;
      const base::Instant now = clock_->Now();
      if (now >= next_tick) {
        engine_->Tick(server_->has_agent());
        next_tick = now + absl::Milliseconds(kTickMilliseconds);
      }
    }
  }

 private:
  void Dispatch(const epoll_event& event) {
    const int fd = event.data.fd;
    if (fd == tun_->fd()) {
      engine_->HandleTun();
      return;
    }
    for (size_t i = 0; i < OuterSockets::kKinds; ++i) {
      const auto kind = static_cast<OuterSockets::Kind>(i);
      if (sockets_->fd(kind) != fd) continue;
      if ((event.events & EPOLLERR) != 0) engine_->HandleSocketErrors(kind);
      engine_->HandleSocket(kind);
      return;
    }
    if (fd == server_->listener()) {
      server_->HandleAccept();
      return;
    }
    server_->HandleClient(fd, (event.events & ~EPOLLOUT) != 0,
                          (event.events & EPOLLOUT) != 0);
  }

  Epoll* epoll_;
  Tun* tun_;
  OuterSockets* sockets_;
  ControlServer* server_;
  Engine* engine_;
  int signals_;
  base::Clock* clock_;
  uint64_t turns_ = 0;
};

// How long the two ends of a hand-over wait for each other. Meanwhile the TUN
// holds a queue of packets and the sockets theirs.
constexpr absl::Duration kHandOverLimit = absl::Seconds(5);

// What is opened at the start, or comes from the process before.
struct Parts {
  int listener = -1;
  uint64_t instance = 0;
  std::unique_ptr<OuterSockets> sockets;
  std::unique_ptr<Tun> tun;
};

absl::StatusOr<Parts> OpenParts(const EspdOptions& options,
                                Statistics* statistics) {
  Parts parts;
  if (getrandom(&parts.instance, sizeof parts.instance, 0) !=
      sizeof parts.instance) {
    return absl::ErrnoToStatus(errno, "getrandom");
  }
  // First: another espd that serves this path must keep its TUN.
  ESPALIER_ASSIGN_OR_RETURN(parts.listener,
                            control::Listen(options.socket_path));
  ESPALIER_ASSIGN_OR_RETURN(parts.sockets, OuterSockets::Open(options.outer));
  ESPALIER_ASSIGN_OR_RETURN(parts.tun, Tun::Open(options.tun, statistics));
  return parts;
}

absl::StatusOr<Parts> InheritParts(const EspdOptions& options,
                                   Inheritance* inheritance,
                                   Statistics* statistics) {
  const control::HandOverBegin& begin = inheritance->begin();
  if (begin.tunnel_interface != options.tun.name ||
      begin.port != options.outer.port) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the espd that serves ", options.socket_path, " has the TUN ",
        begin.tunnel_interface, " and port ", begin.port,
        ", and this one is to have ", options.tun.name, " and ",
        options.outer.port, ": start it with the same --tun and --port"));
  }
  const Descriptors descriptors = inheritance->TakeDescriptors();
  Parts parts;
  parts.instance = begin.instance;
  parts.listener = descriptors.listener;
  ESPALIER_ASSIGN_OR_RETURN(
      parts.sockets, OuterSockets::Adopt(descriptors.outer, options.outer));
  ESPALIER_ASSIGN_OR_RETURN(
      parts.tun,
      Tun::Adopt(descriptors.tun, begin.udp_offload, options.tun, statistics));
  crypto::SetFingerprintKey(begin.fingerprint_key.Clone());
  return parts;
}

// Null when there is nobody to take over from.
absl::StatusOr<std::unique_ptr<Inheritance>> AskForInheritance(
    const EspdOptions& options) {
  if (!options.take_over) return nullptr;
  auto inheritance = Inheritance::Ask(options.socket_path, kHandOverLimit);
  if (absl::IsNotFound(inheritance.status())) return nullptr;
  return inheritance;
}

void LogStart(const EspdOptions& options, const Tun& tun, bool inherited) {
  base::Log(
      base::LogLevel::kInfo, "espd running",
      {{"socket", options.socket_path},
       {"interface", options.tun.name},
       {"port", options.outer.port},
       {"ipsec_mb", options.cipher == CipherChoice::kFastest && HaveIpsecMb()},
       {"udp_offload", tun.udp_offload()},
       {"taken_over", inherited}});
}

// Whether it ended by handing over to the next espd.
absl::StatusOr<bool> Serve(const EspdOptions& options, int signals) {
  Epoll epoll;
  Statistics statistics;
  base::SteadyClock clock;
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<Inheritance> inheritance,
                            AskForInheritance(options));
  ESPALIER_ASSIGN_OR_RETURN(
      Parts parts, inheritance != nullptr
                       ? InheritParts(options, inheritance.get(), &statistics)
                       : OpenParts(options, &statistics));
  Tun* const tun = parts.tun.get();
  OuterSockets* const sockets = parts.sockets.get();
  ControlServer server(
      parts.listener, parts.instance, options.tun.name,
      [&](int fd, bool r, bool w) { epoll.Watch(fd, r, w); },
      [&](int fd) { epoll.Unwatch(fd); });
  Engine engine(options.cipher, tun, sockets, &statistics, &clock,
                [&](control::Message event) {
                  return server.SendEvent(std::move(event));
                });
  server.SetEngine(&engine);
  server.SetOnHandOver([&](int connection) {
    const control::HandOverBegin begin{parts.instance,
                                       options.tun.name,
                                       sockets->port(),
                                       tun->udp_offload(),
                                       0,
                                       crypto::FingerprintKey()};
    return HandOverTo(connection, begin,
                      {server.listener(), tun->fd(), sockets->descriptors()},
                      &engine, kHandOverLimit);
  });
  if (inheritance != nullptr) {
    ESPALIER_RETURN_IF_ERROR(inheritance->ReceiveState(&engine));
  }
  ESPALIER_RETURN_IF_ERROR(DropPrivileges());
  if (inheritance != nullptr) {
    ESPALIER_RETURN_IF_ERROR(inheritance->Claim());
  }
  LogStart(options, *tun, inheritance != nullptr);
  inheritance.reset();
  Loop loop(&epoll, tun, sockets, &server, &engine, signals, &clock);
  const absl::Status status = loop.Run();
  if (!server.handed_over()) unlink(options.socket_path.c_str());
  base::Log(base::LogLevel::kInfo, "espd stopped",
            {{"status", status}, {"handed_over", server.handed_over()}});
  ESPALIER_RETURN_IF_ERROR(status);
  return server.handed_over();
}

}  // namespace

absl::Status RunEspd(const EspdOptions& options) {
  ESPALIER_RETURN_IF_ERROR(ProtectMemory());
  ESPALIER_ASSIGN_OR_RETURN(const int signals, WatchSignals());
  ESPALIER_ASSIGN_OR_RETURN(const bool handed_over, Serve(options, signals));
  if (!handed_over || !options.wait_after_hand_over) return absl::OkStatus();
  pollfd ended{signals, POLLIN, 0};
  while (poll(&ended, 1, -1) < 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "poll");
  }
  return absl::OkStatus();
}

}  // namespace espalier::esp
