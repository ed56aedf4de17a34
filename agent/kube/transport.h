// HTTP as the parts above need it; the seam at which tests put a server of
// their own in place of the network.
#ifndef ESPALIER_AGENT_KUBE_TRANSPORT_H_
#define ESPALIER_AGENT_KUBE_TRANSPORT_H_

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace espalier::kube {

// Ends a call from another thread; for good.
class Cancellation {
 public:
  void Cancel();
  bool cancelled() const;
  // Called once by Cancel, or at once when that was already; null to withdraw.
  void SetWaker(std::function<void()> waker);

 private:
  mutable std::mutex mutex_;  // of what follows
  bool cancelled_ = false;
  std::function<void()> waker_;
};

struct HttpRequest {
  std::string method = "GET";
  std::string target;  // path and query, escaped
  std::string accept = "application/json";
  std::string content_type;  // empty: no body
  std::string body;
  // For the whole exchange, and without a single octet of the answer.
  absl::Duration timeout = absl::Seconds(30);
  absl::Duration idle_timeout = absl::InfiniteDuration();
  size_t max_answer = size_t{32} << 20;
  Cancellation* cancellation = nullptr;  // outlives the call
};

struct HttpResponse {
  int status = 0;
  // Of Retry-After; zero when the server named none.
  absl::Duration retry_after = absl::ZeroDuration();
  std::string body;
};

class Transport {
 public:
  // Gets a successful answer's octets as they come; false ends the exchange.
  using Sink = std::function<bool(absl::string_view octets)>;

  virtual ~Transport() = default;
  // Blocks; from any thread. An answer of any HTTP status is OK here; a
  // failure is of the way to it: Unavailable (no connection, or it broke),
  // DeadlineExceeded (timeout or idle_timeout), ResourceExhausted (longer than
  // max_answer), FailedPrecondition (TLS, or no usable credentials),
  // Cancelled (by the request's cancellation or the sink).
  // With a sink, only the body of a failure (status >= 300) is collected.
  virtual absl::StatusOr<HttpResponse> Do(const HttpRequest& request,
                                          const Sink& sink) = 0;
  absl::StatusOr<HttpResponse> Do(const HttpRequest& request) {
    return Do(request, nullptr);
  }
};

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_TRANSPORT_H_
