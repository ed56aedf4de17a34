#include "agent/service/secure_metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"

namespace espalier::service {
namespace {

using Verdict = kube::AccessReview::Verdict;

constexpr size_t kMostOctets = size_t{64} << 10;
constexpr absl::Duration kTellEvery = absl::Minutes(1);

absl::StatusOr<base::SecretBytes> ReadPem(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  base::SecretBytes octets(kMostOctets);
  size_t used = 0;
  while (used < octets.size()) {
    const base::MutableByteSpan rest = octets.mutable_span().subspan(used);
    const ssize_t n = read(fd, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    }
    if (n == 0) return octets.Slice(0, used);
    used += static_cast<size_t>(n);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, " is longer than 64 KiB: not a certificate or key"));
}

}  // namespace

SecureMetrics::SecureMetrics(Options options, kube::Transport* transport,
                             base::Clock* clock)
    : options_(std::move(options)),
      clock_(clock),
      review_(transport, clock, "/metrics", &cancellation_) {}

absl::StatusOr<std::unique_ptr<SecureMetrics>> SecureMetrics::Start(
    Options options, kube::Transport* transport, base::Clock* clock,
    HttpServer::Handler metrics) {
  auto secure = std::unique_ptr<SecureMetrics>(
      new SecureMetrics(std::move(options), transport, clock));
  ESPALIER_ASSIGN_OR_RETURN(
      secure->server_,
      HttpServer::OpenTls(
          secure->options_.listen, {{"/metrics", std::move(metrics)}},
          [self = secure.get()](absl::string_view authorization) {
            return self->Judge(authorization);
          }));
  secure->worker_ = std::make_unique<SerialWorker>();
  secure->Reload();
  return secure;
}

SecureMetrics::~SecureMetrics() {
  // A review under way ends, and the handler with it.
  cancellation_.Cancel();
  worker_.reset();
  server_.reset();
}

void SecureMetrics::Reload() {
  worker_->Post([this] {
    const absl::StatusOr<bool> changed = Load();
    if (changed.ok() && *changed) {
      base::Log(base::LogLevel::kInfo, "metrics are served over TLS",
                {{"listen", options_.listen.ToString()},
                 {"certificate", options_.certificate_file}});
    } else if (!changed.ok()) {
      base::Log(base::LogLevel::kError,
                "no new certificate for metrics; looked at again when its "
                "files change",
                {{"error", changed.status()}});
    }
  });
}

absl::StatusOr<bool> SecureMetrics::Load() {
  ESPALIER_ASSIGN_OR_RETURN(base::SecretBytes certificate,
                            ReadPem(options_.certificate_file));
  ESPALIER_ASSIGN_OR_RETURN(base::SecretBytes key, ReadPem(options_.key_file));
  // Both files are watched, and change together.
  if (base::ConstantTimeEqual(certificate.span(), certificate_.span()) &&
      base::ConstantTimeEqual(key.span(), key_.span())) {
    return false;
  }
  ESPALIER_RETURN_IF_ERROR(server_->SetCertificate(certificate, key));
  certificate_ = std::move(certificate);
  key_ = std::move(key);
  return true;
}

std::optional<HttpAnswer> SecureMetrics::Judge(
    absl::string_view authorization) {
  // RFC 9110 11.1: the scheme's case does not matter.
  constexpr absl::string_view kScheme = "Bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return HttpAnswer{.status = 401, .body = "a bearer token is needed\n"};
  }
  const std::lock_guard lock(mutex_);
  const absl::StatusOr<Verdict> verdict = review_.Check(
      absl::StripLeadingAsciiWhitespace(authorization.substr(kScheme.size())));
  if (!verdict.ok()) {
    if (absl::IsResourceExhausted(verdict.status())) {
      return HttpAnswer{.status = 429, .body = "too many unknown tokens\n"};
    }
    if (const base::Instant now = clock_->Now();
        now - failure_told_ >= kTellEvery) {
      failure_told_ = now;
      base::Log(base::LogLevel::kWarning,
                "who asks for metrics cannot be checked",
                {{"error", verdict.status()}});
    }
    return HttpAnswer{.status = 503,
                      .body = "the API server does not say who you are\n"};
  }
  switch (*verdict) {
    case Verdict::kAllowed:
      return std::nullopt;
    case Verdict::kUnknownToken:
      return HttpAnswer{.status = 401, .body = "the token is not known\n"};
    case Verdict::kForbidden:
      return HttpAnswer{
          .status = 403,
          .body =
              "your account needs the verb get on the nonResourceURL "
              "/metrics: the ClusterRole espalier-metrics-reader\n"};
  }
  return HttpAnswer{.status = 500, .body = ""};
}

}  // namespace espalier::service
