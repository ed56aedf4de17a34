// The transport over libcurl: HTTP/1.1 over verified TLS 1.2 or newer.
#ifndef ESPALIER_AGENT_KUBE_CURL_TRANSPORT_H_
#define ESPALIER_AGENT_KUBE_CURL_TRANSPORT_H_

#include <memory>

#include "agent/kube/cluster_access.h"
#include "agent/kube/transport.h"

namespace espalier::kube {

// Keeps connections open for the next call, and gives them up when CA or
// client certificate have changed. Proxies of the environment, .netrc and
// redirects are not followed: a token goes to the server it was given for.
class CurlTransport : public Transport {
 public:
  // `access` outlives the transport.
  explicit CurlTransport(ClusterAccess* access);
  ~CurlTransport() override;
  using Transport::Do;
  absl::StatusOr<HttpResponse> Do(const HttpRequest& request,
                                  const Sink& sink) override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_CURL_TRANSPORT_H_
