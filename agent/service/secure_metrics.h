// /metrics for others than the node itself: over TLS, for whoever shows a
// bearer token that the API server knows and lets `get` the path /metrics.
#ifndef ESPALIER_AGENT_SERVICE_SECURE_METRICS_H_
#define ESPALIER_AGENT_SERVICE_SECURE_METRICS_H_

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/ip_address.h"
#include "agent/base/secret_bytes.h"
#include "agent/kube/access_review.h"
#include "agent/kube/transport.h"
#include "agent/service/http_server.h"
#include "agent/service/serial_worker.h"

namespace espalier::service {

class SecureMetrics {
 public:
  struct Options {
    base::Endpoint listen;
    // PEM. A Secret's, as a rule: absent until somebody makes it, and changed
    // by whoever renews it.
    std::string certificate_file;
    std::string key_file;
  };

  // Takes the port, and answers once the files can be read: without them it
  // says so in the log. `transport`, `clock` and what `metrics` uses
  // outlive this; `metrics` runs on a thread of this server.
  static absl::StatusOr<std::unique_ptr<SecureMetrics>> Start(
      Options options, kube::Transport* transport, base::Clock* clock,
      HttpServer::Handler metrics);
  ~SecureMetrics();

  // The files may have changed. From any thread; does not wait.
  void Reload();
  uint16_t port() const { return server_->port(); }

 private:
  SecureMetrics(Options options, kube::Transport* transport,
                base::Clock* clock);
  std::optional<HttpAnswer> Judge(absl::string_view authorization);
  // True when something has changed.
  absl::StatusOr<bool> Load();

  const Options options_;
  kube::Cancellation cancellation_;
  base::Clock* const clock_;
  // Of what follows: while the certificate changes two servers answer.
  std::mutex mutex_;
  kube::AccessReview review_;
  base::Instant failure_told_ = absl::InfinitePast();

  base::SecretBytes certificate_;  // as served; the worker's
  base::SecretBytes key_;          // the same
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<SerialWorker> worker_;
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_SECURE_METRICS_H_
