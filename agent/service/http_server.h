// A small HTTP server for metrics and health.
#ifndef ESPALIER_AGENT_SERVICE_HTTP_SERVER_H_
#define ESPALIER_AGENT_SERVICE_HTTP_SERVER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"

namespace espalier::service {

struct HttpAnswer {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// GET and HEAD on fixed paths, by libmicrohttpd on a thread of its own. At
// most 64 connections; an idle one is closed after ten seconds.
class HttpServer {
 public:
  // Called on the server's thread; it may wait for the loop.
  using Handler = std::function<HttpAnswer()>;

  // Port 0 lets the kernel choose; see port().
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const base::Endpoint& listen, std::map<std::string, Handler> handlers);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_HTTP_SERVER_H_
