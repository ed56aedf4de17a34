#include "agent/service/http_server.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::service {
namespace {

constexpr unsigned kMostConnections = 64;
constexpr unsigned kMostOfOneAddress = 16;
constexpr unsigned kIdleSeconds = 10;
constexpr size_t kConnectionMemory = size_t{16} << 10;
// As GnuTLS words it.
constexpr char kTlsVersions[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

using Options = std::vector<MHD_OptionItem>;

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

SocketAddress AddressOf(const base::Endpoint& endpoint) {
  SocketAddress address;
  const base::ByteSpan octets = endpoint.address.bytes();
  if (endpoint.address.is_v4()) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(endpoint.port);
    memcpy(&v4->sin_addr, octets.data(), octets.size());
    address.size = sizeof(*v4);
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(endpoint.port);
    memcpy(&v6->sin6_addr, octets.data(), octets.size());
    address.size = sizeof(*v6);
  }
  return address;
}

absl::Status CannotServe(const base::Endpoint& listen, int error) {
  return absl::ErrnoToStatus(
      error == 0 ? EINVAL : error,
      absl::StrCat("cannot serve HTTP on ", listen.ToString()));
}

// Bound, and not listening yet.
absl::StatusOr<int> Bind(const base::Endpoint& listen) {
  const SocketAddress address = AddressOf(listen);
  const int fd = socket(address.storage.ss_family,
                        SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return CannotServe(listen, errno);
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address.storage),
           address.size) != 0) {
    const int error = errno;
    close(fd);
    return CannotServe(listen, error);
  }
  return fd;
}

MHD_Result Respond(MHD_Connection* connection, const HttpAnswer& answer) {
  // libmicrohttpd copies the body, and leaves it out of an answer to HEAD.
  MHD_Response* response = MHD_create_response_from_buffer(
      answer.body.size(), const_cast<char*>(answer.body.data()),
      MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                          answer.content_type.c_str());
  MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  if (answer.status == MHD_HTTP_UNAUTHORIZED) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE,
                            "Bearer");
  }
  const MHD_Result result = MHD_queue_response(
      connection, static_cast<unsigned>(answer.status), response);
  MHD_destroy_response(response);
  return result;
}

// Octets that end with a zero, as libmicrohttpd takes PEM; wiped as secrets.
base::SecretBytes Terminated(base::ByteSpan octets) {
  base::SecretBytes text(octets.size() + 1);
  memcpy(text.mutable_span().data(), octets.data(), octets.size());
  return text;
}

void* Data(base::SecretBytes& text) { return text.mutable_span().data(); }

}  // namespace

struct HttpServer::Impl {
  std::map<std::string, Handler> handlers;
  Gate gate;
  base::Endpoint listen;
  int listening = -1;  // with TLS; outlives each daemon
  MHD_Daemon* daemon = nullptr;

  HttpAnswer Answer(MHD_Connection* connection, const char* path,
                    const std::string& verb) const {
    if (verb != MHD_HTTP_METHOD_GET && verb != MHD_HTTP_METHOD_HEAD) {
      return {.status = 405, .body = "GET only\n"};
    }
    if (gate) {
      const char* authorization = MHD_lookup_connection_value(
          connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
      if (std::optional<HttpAnswer> refused =
              gate(authorization == nullptr ? "" : authorization)) {
        return *std::move(refused);
      }
    }
    const auto found = handlers.find(path);
    if (found == handlers.end()) {
      std::string known = "not found; there are:\n";
      for (const auto& [name, handler] : handlers) {
        absl::StrAppend(&known, name, "\n");
      }
      return {.status = 404, .body = known};
    }
    return found->second();
  }

  static MHD_Result Handle(void* self, MHD_Connection* connection,
                           const char* path, const char* method, const char*,
                           const char*, size_t* upload_size, void** state) {
    // The first call brings the head alone; a body, if any, is discarded.
    static int seen_head;
    if (*state == nullptr) {
      *state = &seen_head;
      return MHD_YES;
    }
    if (*upload_size != 0) {
      *upload_size = 0;
      return MHD_YES;
    }
    return Respond(connection,
                   static_cast<Impl*>(self)->Answer(connection, path, method));
  }

  // Null when it cannot start; errno then says why, or is 0.
  MHD_Daemon* StartDaemon(unsigned flags, Options options) {
    options.push_back({MHD_OPTION_END, 0, nullptr});
    // Signals belong to the loop's thread.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errno = 0;
    MHD_Daemon* started = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | flags, listen.port, nullptr, nullptr,
        &Impl::Handle, this, MHD_OPTION_CONNECTION_LIMIT, kMostConnections,
        MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionMemory, MHD_OPTION_ARRAY,
        options.data(), MHD_OPTION_END);
    const int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    errno = error;
    return started;
  }

  void StopDaemon() {
    if (daemon == nullptr) return;
    // Or it would shut down the socket, which the next daemon has as well.
    const int own = listening < 0 ? -1 : MHD_quiesce_daemon(daemon);
    MHD_stop_daemon(std::exchange(daemon, nullptr));
    if (own >= 0) close(own);
  }
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const base::Endpoint& listen, std::map<std::string, Handler> handlers) {
  auto impl = std::make_unique<Impl>();
  impl->handlers = std::move(handlers);
  impl->listen = listen;
  SocketAddress address = AddressOf(listen);
  impl->daemon =
      impl->StartDaemon(listen.address.is_v4() ? 0 : MHD_USE_IPv6,
                        {{MHD_OPTION_SOCK_ADDR, 0, &address.storage}});
  if (impl->daemon == nullptr) return CannotServe(listen, errno);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::OpenTls(
    const base::Endpoint& listen, std::map<std::string, Handler> handlers,
    Gate gate) {
  auto impl = std::make_unique<Impl>();
  impl->handlers = std::move(handlers);
  impl->gate = std::move(gate);
  impl->listen = listen;
  ESPALIER_ASSIGN_OR_RETURN(impl->listening, Bind(listen));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

absl::Status HttpServer::SetCertificate(const base::SecretBytes& certificate,
                                        const base::SecretBytes& key) {
  base::SecretBytes certificate_text = Terminated(certificate.span());
  base::SecretBytes key_text = Terminated(key.span());
  // Again has no effect. Each daemon gets a descriptor of its own: one that
  // cannot start closes it.
  const int own = fcntl(impl_->listening, F_DUPFD_CLOEXEC, 0);
  if (own < 0 || listen(own, kMostConnections) != 0) {
    return CannotServe(impl_->listen, errno);
  }
  MHD_Daemon* const started = impl_->StartDaemon(
      MHD_USE_TLS | MHD_USE_ITC,
      {{MHD_OPTION_LISTEN_SOCKET, own, nullptr},
       {MHD_OPTION_PER_IP_CONNECTION_LIMIT, kMostOfOneAddress, nullptr},
       {MHD_OPTION_HTTPS_PRIORITIES, 0, const_cast<char*>(kTlsVersions)},
       {MHD_OPTION_HTTPS_MEM_CERT, 0, Data(certificate_text)},
       {MHD_OPTION_HTTPS_MEM_KEY, 0, Data(key_text)}});
  if (started == nullptr) {
    return absl::InvalidArgumentError(
        "cannot serve TLS: the certificate and the key must be PEM, and belong "
        "together");
  }
  impl_->StopDaemon();
  impl_->daemon = started;
  return absl::OkStatus();
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  impl_->StopDaemon();
  if (impl_->listening >= 0) close(impl_->listening);
}

uint16_t HttpServer::port() const {
  if (impl_->listening >= 0) {
    sockaddr_storage bound{};
    socklen_t size = sizeof(bound);
    if (getsockname(impl_->listening, reinterpret_cast<sockaddr*>(&bound),
                    &size) != 0) {
      return 0;
    }
    return ntohs(bound.ss_family == AF_INET
                     ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                     : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
  }
  const MHD_DaemonInfo* info =
      MHD_get_daemon_info(impl_->daemon, MHD_DAEMON_INFO_BIND_PORT);
  return info == nullptr ? 0 : info->port;
}

}  // namespace espalier::service
