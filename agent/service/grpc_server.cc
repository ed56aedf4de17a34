#include "agent/service/grpc_server.h"

#include <errno.h>
#include <fcntl.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"

namespace espalier::service {
namespace {

// A synchronous gRPC server spends a thread on each call under way.
constexpr int kMaxThreads = 32;
constexpr size_t kMaxMemory = 64 << 20;
constexpr int kMaxMessage = 1 << 20;

absl::Status Error(const std::string& path, const char* what) {
  return absl::ErrnoToStatus(
      errno, absl::StrCat("cannot ", what, " the socket ", path));
}

// Something already at `path`: gone when it is a socket without a listener.
absl::Status RemoveStale(const std::string& path, const sockaddr_un& address) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Error(path, "examine");
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is there and is no socket; remove it"));
  }
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return Error(path, "probe");
  const int connected = connect(
      probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  close(probe);
  if (connected == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "another process listens on ", path, "; is an agent running already?"));
  }
  if (unlink(path.c_str()) != 0) return Error(path, "replace");
  return absl::OkStatus();
}

absl::StatusOr<int> Listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the socket path ", path, " is longer than ",
                     sizeof(address.sun_path) - 1, " octets"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  ESPALIER_RETURN_IF_ERROR(RemoveStale(path, address));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Error(path, "create");
  absl::Cleanup close_fd = [&fd] {
    if (fd >= 0) close(fd);
  };
  // Before bind, so that there is no moment with another mode.
  if (fchmod(fd, 0600) != 0) return Error(path, "protect");
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
      0) {
    return Error(path, "bind");
  }
  if (chmod(path.c_str(), 0600) != 0) return Error(path, "protect");
  if (listen(fd, 64) != 0) return Error(path, "listen on");
  return std::exchange(fd, -1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const std::string& socket_path,
    const std::vector<grpc::Service*>& services) {
  grpc::ResourceQuota quota("espalier-agent");
  quota.SetMaxThreads(kMaxThreads);
  quota.Resize(kMaxMemory);
  grpc::ServerBuilder builder;
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kMaxMessage);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    return absl::InternalError(
        absl::StrCat("gRPC did not start a server for ", socket_path));
  }
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) return Error(socket_path, "prepare");
  absl::StatusOr<int> listener = Listen(socket_path);
  if (!listener.ok()) {
    close(wake);
    server->Shutdown();
    return listener.status();
  }
  return std::unique_ptr<GrpcServer>(
      new GrpcServer(socket_path, *listener, wake, std::move(server)));
}

GrpcServer::GrpcServer(std::string path, int listener, int wake,
                       std::unique_ptr<grpc::Server> server)
    : path_(std::move(path)),
      listener_(listener),
      wake_(wake),
      server_(std::move(server)) {
  // Signals belong to the loop's thread.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Accept(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

GrpcServer::~GrpcServer() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof(one));
  thread_.join();
  unlink(path_.c_str());
  close(listener_);
  close(wake_);
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void GrpcServer::Accept() {
  while (true) {
    pollfd fds[2] = {{listener_, POLLIN, 0}, {wake_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    const int fd =
        accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      // Out of descriptors: the connection waits in the backlog meanwhile.
      if (errno == EMFILE || errno == ENFILE) poll(nullptr, 0, 100);
      continue;
    }
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
        (peer.uid != 0 && peer.uid != geteuid())) {
      base::Log(base::LogLevel::kWarning, "connection refused",
                {{"socket", path_}, {"uid", peer.uid}, {"pid", peer.pid}});
      close(fd);
      continue;
    }
    grpc::AddInsecureChannelFromFd(server_.get(), fd);
  }
}

}  // namespace espalier::service
