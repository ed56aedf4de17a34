#include "agent/mesh/config/sockets.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace espalier::mesh {
namespace {

absl::StatusOr<base::Endpoint> ParseEndpoint(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon != std::string::npos) {
    std::string host = text.substr(0, colon);
    if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
      host = host.substr(1, host.size() - 2);
    } else if (absl::StrContains(host, ':')) {
      host.clear();  // an IPv6 address wants its brackets
    }
    if (host == "localhost") host = "127.0.0.1";
    uint32_t port = 0;
    absl::StatusOr<base::IpAddress> address = base::IpAddress::Parse(host);
    if (address.ok() && absl::SimpleAtoi(text.substr(colon + 1), &port) &&
        port > 0 && port <= 65535) {
      return base::Endpoint{*address, static_cast<uint16_t>(port)};
    }
  }
  return absl::InvalidArgumentError("ADDRESS:PORT or [ADDRESS]:PORT");
}

bool IsLoopback(const base::IpAddress& address) {
  if (address.is_v4()) return address.bytes()[0] == 127;
  return address == *base::IpAddress::Parse("::1");
}

void ReadSecureMetrics(const YamlNode& node, ErrorList* errors, Config* out) {
  const MapReader map("sockets.secureMetrics", node, errors);
  SecureMetricsSocket secure;
  map.Missing("listen", "ADDRESS:PORT or [ADDRESS]:PORT");
  map.Missing("certificateFile", "the path of a PEM file");
  map.Missing("keyFile", "the path of a PEM file");
  std::string text;
  if (map.Text("listen", "ADDRESS:PORT or [ADDRESS]:PORT", &text)) {
    if (const auto endpoint = ParseEndpoint(text); endpoint.ok()) {
      secure.listen = *endpoint;
    } else {
      map.Wrong("listen", *map.Get("listen"),
                std::string(endpoint.status().message()));
    }
  }
  map.Text("certificateFile", "the path of a PEM file",
           &secure.certificate_file);
  map.Text("keyFile", "the path of a PEM file", &secure.key_file);
  if (out->source != ClusterSource::kKubernetes) {
    errors->Add(node,
                "sockets.secureMetrics is there, but cluster.source is 'file': "
                "who asks is known by the API server alone");
    return;
  }
  out->secure_metrics = std::move(secure);
}

}  // namespace

void ReadSockets(const YamlNode& node, ErrorList* errors, Config* out) {
  const MapReader map("sockets", node, errors);
  if (const YamlNode* secure = map.Get("secureMetrics"); secure != nullptr) {
    ReadSecureMetrics(*secure, errors, out);
  }
  constexpr char kExpected[] = "ADDRESS:PORT, [ADDRESS]:PORT or 'none'";
  std::string text;
  if (!map.Text("metrics", kExpected, &text)) return;
  if (text == "none") {
    out->metrics_listen.reset();
    return;
  }
  const absl::StatusOr<base::Endpoint> endpoint = ParseEndpoint(text);
  if (!endpoint.ok()) {
    map.Wrong("metrics", *map.Get("metrics"), kExpected);
  } else if (out->source == ClusterSource::kKubernetes &&
             !IsLoopback(endpoint->address)) {
    map.Wrong("metrics", *map.Get("metrics"),
              "a loopback address: in a cluster sockets.secureMetrics serves "
              "metrics to others");
  } else {
    out->metrics_listen = *endpoint;
  }
}

}  // namespace espalier::mesh
