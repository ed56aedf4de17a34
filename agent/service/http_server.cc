#include "agent/service/http_server.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::service {

struct HttpServer::Impl {
  std::map<std::string, Handler> handlers;
  MHD_Daemon* daemon = nullptr;
};

namespace {

MHD_Result Respond(MHD_Connection* connection, const HttpAnswer& answer) {
  // libmicrohttpd copies the body, and leaves it out of an answer to HEAD.
  MHD_Response* response = MHD_create_response_from_buffer(
      answer.body.size(), const_cast<char*>(answer.body.data()),
      MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                          answer.content_type.c_str());
  MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  const MHD_Result result = MHD_queue_response(
      connection, static_cast<unsigned>(answer.status), response);
  MHD_destroy_response(response);
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const base::Endpoint& listen, std::map<std::string, Handler> handlers) {
  auto impl = std::make_unique<Impl>();
  impl->handlers = std::move(handlers);
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  const sockaddr* address = nullptr;
  const base::ByteSpan octets = listen.address.bytes();
  unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD;
  if (listen.address.is_v4()) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(listen.port);
    memcpy(&v4.sin_addr, octets.data(), octets.size());
    address = reinterpret_cast<const sockaddr*>(&v4);
  } else {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(listen.port);
    memcpy(&v6.sin6_addr, octets.data(), octets.size());
    address = reinterpret_cast<const sockaddr*>(&v6);
    flags |= MHD_USE_IPv6;
  }
  const auto handle = [](void* self, MHD_Connection* connection,
                         const char* path, const char* method, const char*,
                         const char*, size_t* upload_size,
                         void** state) -> MHD_Result {
    auto* server = static_cast<Impl*>(self);
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
    const std::string verb = method;
    if (verb != MHD_HTTP_METHOD_GET && verb != MHD_HTTP_METHOD_HEAD) {
      return Respond(connection, {.status = 405, .body = "GET only\n"});
    }
    const auto found = server->handlers.find(path);
    if (found == server->handlers.end()) {
      std::string known = "not found; there are:\n";
      for (const auto& [name, handler] : server->handlers) {
        absl::StrAppend(&known, name, "\n");
      }
      return Respond(connection, {.status = 404, .body = known});
    }
    return Respond(connection, found->second());
  };
  // Signals belong to the loop's thread.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  errno = 0;
  impl->daemon = MHD_start_daemon(
      flags, listen.port, nullptr, nullptr, handle, impl.get(),
      MHD_OPTION_SOCK_ADDR, address, MHD_OPTION_CONNECTION_LIMIT, 64u,
      MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
      size_t{16} << 10, MHD_OPTION_END);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (impl->daemon == nullptr) {
    return absl::ErrnoToStatus(
        error == 0 ? EINVAL : error,
        absl::StrCat("cannot serve HTTP on ", listen.ToString()));
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { MHD_stop_daemon(impl_->daemon); }

uint16_t HttpServer::port() const {
  const MHD_DaemonInfo* info =
      MHD_get_daemon_info(impl_->daemon, MHD_DAEMON_INFO_BIND_PORT);
  return info == nullptr ? 0 : info->port;
}

}  // namespace espalier::service
