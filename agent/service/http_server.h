// A small HTTP server for metrics and health.
#ifndef ESPALIER_AGENT_SERVICE_HTTP_SERVER_H_
#define ESPALIER_AGENT_SERVICE_HTTP_SERVER_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/base/ip_address.h"
#include "agent/base/secret_bytes.h"

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
  // Sees each request before its handler: the header Authorization, empty when
  // there is none. An answer is sent in place of the handler's; one of status
  // 401 asks for a bearer token. On the server's thread.
  using Gate =
      std::function<std::optional<HttpAnswer>(absl::string_view authorization)>;

  // Port 0 lets the kernel choose; see port().
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const base::Endpoint& listen, std::map<std::string, Handler> handlers);
  // Over TLS (1.2 and 1.3), at most 16 connections of one address. Takes the
  // port; answers from the first SetCertificate on. `::` is both families.
  static absl::StatusOr<std::unique_ptr<HttpServer>> OpenTls(
      const base::Endpoint& listen, std::map<std::string, Handler> handlers,
      Gate gate);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // For connections from now on, both PEM; those that are open end. On an error
  // the one before goes on. One call at a time; waits for handlers that run.
  absl::Status SetCertificate(const base::SecretBytes& certificate,
                              const base::SecretBytes& key);
  uint16_t port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_HTTP_SERVER_H_
