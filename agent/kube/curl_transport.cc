#include "agent/kube/curl_transport.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/base/clock.h"
#include "agent/base/status_macros.h"

namespace espalier::kube {
namespace {

// Of a failure's answer no more is worth reading.
constexpr size_t kMostFailureOctets = size_t{64} << 10;
constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
// Idle connections of finished calls.
constexpr size_t kMostIdle = 4;
// A peer that is gone is noticed within half a minute, also while a watch has
// nothing to say.
constexpr int kKeepaliveIdle = 15;
constexpr int kKeepaliveInterval = 5;
constexpr int kKeepaliveCount = 3;
constexpr unsigned kUserTimeoutMilliseconds = 30000;

// An easy handle with a multi handle of its own: the latter holds the
// connection between calls and can be woken.
struct Handle {
  Handle() : easy(curl_easy_init()), multi(curl_multi_init()) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    curl_easy_cleanup(easy);
    curl_multi_cleanup(multi);
  }
  CURL* const easy;
  CURLM* const multi;
  uint64_t generation = 0;
};

// One header in memory that is wiped. libcurl reads the list, and copies it
// only into what it sends.
class Headers {
 public:
  Headers() = default;
  Headers(const Headers&) = delete;
  Headers& operator=(const Headers&) = delete;
  void Add(absl::string_view name, base::ByteSpan value) {
    auto node = std::make_unique<Node>();
    node->text = base::SecretBytes(name.size() + value.size() + 1);
    uint8_t* out = node->text.mutable_span().data();
    std::memcpy(out, name.data(), name.size());
    if (!value.empty()) {
      std::memcpy(out + name.size(), value.data(), value.size());
    }
    node->item.data = reinterpret_cast<char*>(out);
    node->item.next = nullptr;
    if (!nodes_.empty()) nodes_.back()->item.next = &node->item;
    nodes_.push_back(std::move(node));
  }
  void Add(absl::string_view line) { Add(line, {}); }
  curl_slist* list() {
    return nodes_.empty() ? nullptr : &nodes_.front()->item;
  }

 private:
  struct Node {
    base::SecretBytes text;
    curl_slist item;
  };
  std::vector<std::unique_ptr<Node>> nodes_;
};

// What one exchange has got so far.
struct Exchange {
  const HttpRequest* request;
  const Transport::Sink* sink;
  CURL* easy;
  HttpResponse response;
  absl::Time last_octet;
  bool too_long = false;
  bool ended_by_sink = false;
};

size_t OnBody(char* data, size_t, size_t size, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  long status = 0;
  curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
  const bool failure = status < 200 || status >= 300;
  exchange->last_octet = base::SteadyClock().Now();
  if (!failure && *exchange->sink) {
    const bool more = (*exchange->sink)(absl::string_view(data, size));
    // The sink may have waited for its consumer, which is no silence.
    exchange->last_octet = base::SteadyClock().Now();
    if (more) return size;
    exchange->ended_by_sink = true;
    return 0;
  }
  std::string& body = exchange->response.body;
  if (failure) {
    const size_t room =
        kMostFailureOctets - std::min(kMostFailureOctets, body.size());
    body.append(data, std::min(room, size));
    return size;
  }
  if (body.size() + size > exchange->request->max_answer) {
    exchange->too_long = true;
    return 0;
  }
  body.append(data, size);
  return size;
}

size_t OnHeader(char* data, size_t, size_t size, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  exchange->last_octet = base::SteadyClock().Now();
  absl::string_view line(data, size);
  constexpr absl::string_view kName = "retry-after:";
  uint32_t seconds = 0;
  // The other form, a date, is never what an API server sends.
  if (absl::StartsWithIgnoreCase(line, kName) &&
      absl::SimpleAtoi(absl::StripAsciiWhitespace(line.substr(kName.size())),
                       &seconds)) {
    exchange->response.retry_after = absl::Seconds(seconds);
  }
  return size;
}

int OnSocket(void*, curl_socket_t fd, curlsocktype) {
  const unsigned timeout = kUserTimeoutMilliseconds;
  // Without it keepalive alone notices, a little later.
  (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout,
                   sizeof(timeout));
  const int count = kKeepaliveCount;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
  return CURL_SOCKOPT_OK;
}

curl_blob Blob(const void* data, size_t size) {
  return {
      .data = const_cast<void*>(data), .len = size, .flags = CURL_BLOB_NOCOPY};
}

bool IsTlsFailure(CURLcode code) {
  switch (code) {
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return true;
    default:
      return false;
  }
}

absl::Status StatusOf(CURLcode code, const char* detail,
                      const std::string& server) {
  const std::string text = absl::StrCat(
      server, ": ", detail[0] != '\0' ? detail : curl_easy_strerror(code));
  if (IsTlsFailure(code)) {
    return absl::FailedPreconditionError(absl::StrCat(
        text,
        " (check the CA certificate, the server's name in its certificate and "
        "this machine's clock)"));
  }
  if (code == CURLE_OPERATION_TIMEDOUT) {
    return absl::DeadlineExceededError(text);
  }
  return absl::UnavailableError(text);
}

// "https://a:1/x" as curl's CONNECT_TO wants the real host: "::a:1".
std::string ConnectTo(const std::string& server, std::string* path) {
  absl::string_view rest = absl::StripPrefix(server, "https://");
  const size_t slash = rest.find('/');
  if (slash != absl::string_view::npos) {
    *path = std::string(rest.substr(slash));
    rest = rest.substr(0, slash);
  }
  return absl::StrCat("::", rest);
}

bool HasPort(absl::string_view authority) {
  const size_t bracket = authority.rfind(']');
  const size_t colon = authority.rfind(':');
  return colon != absl::string_view::npos &&
         (bracket == absl::string_view::npos || colon > bracket);
}

}  // namespace

class CurlTransport::Impl {
 public:
  explicit Impl(ClusterAccess* access) : access_(access) {
    static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
    (void)initialised;
  }

  absl::StatusOr<HttpResponse> Do(const HttpRequest& request,
                                  const Sink& sink) {
    ESPALIER_ASSIGN_OR_RETURN(Credentials credentials, access_->Read());
    std::unique_ptr<Handle> handle = Take(credentials);
    if (handle->easy == nullptr || handle->multi == nullptr) {
      return absl::ResourceExhaustedError("no memory for an HTTP request");
    }
    absl::StatusOr<HttpResponse> response =
        Perform(*handle, request, sink, credentials);
    // A handle keeps pointers to what the call has borrowed.
    curl_easy_reset(handle->easy);
    if (response.ok()) GiveBack(std::move(handle));
    return response;
  }

 private:
  // A handle whose connection was made with the same CA and certificate.
  std::unique_ptr<Handle> Take(const Credentials& credentials) {
    const std::lock_guard lock(mutex_);
    if (credentials.ca != ca_ ||
        credentials.client_certificate != certificate_) {
      ca_ = credentials.ca;
      certificate_ = credentials.client_certificate;
      ++generation_;
      idle_.clear();
    }
    std::unique_ptr<Handle> handle;
    if (idle_.empty()) {
      handle = std::make_unique<Handle>();
      handle->generation = generation_;
    } else {
      handle = std::move(idle_.back());
      idle_.pop_back();
    }
    return handle;
  }

  void GiveBack(std::unique_ptr<Handle> handle) {
    const std::lock_guard lock(mutex_);
    if (handle->generation == generation_ && idle_.size() < kMostIdle) {
      idle_.push_back(std::move(handle));
    }
  }

  static void SetUp(CURL* easy, const HttpRequest& request,
                    const Credentials& credentials, const std::string& url,
                    const curl_slist* connect_to, Headers& headers,
                    Exchange* exchange, char* error) {
    curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
    curl_easy_setopt(easy, CURLOPT_CONNECT_TO, connect_to);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(absl::ToInt64Milliseconds(
                         std::min(kConnectTimeout, request.timeout))));
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, long{kKeepaliveIdle});
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, long{kKeepaliveInterval});
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, &OnSocket);

    curl_easy_setopt(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    if (!credentials.ca.empty()) {
      // The cluster's CA alone: the system's would admit half the world.
      curl_blob ca = Blob(credentials.ca.data(), credentials.ca.size());
      curl_easy_setopt(easy, CURLOPT_CAINFO, nullptr);
      curl_easy_setopt(easy, CURLOPT_CAPATH, nullptr);
      curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &ca);
    }
    if (!credentials.client_certificate.empty()) {
      curl_blob certificate = Blob(credentials.client_certificate.data(),
                                   credentials.client_certificate.size());
      curl_blob key = Blob(credentials.client_key.span().data(),
                           credentials.client_key.size());
      curl_easy_setopt(easy, CURLOPT_SSLCERTTYPE, "PEM");
      curl_easy_setopt(easy, CURLOPT_SSLCERT_BLOB, &certificate);
      curl_easy_setopt(easy, CURLOPT_SSLKEYTYPE, "PEM");
      curl_easy_setopt(easy, CURLOPT_SSLKEY_BLOB, &key);
    }

    headers.Add(absl::StrCat("Accept: ", request.accept));
    headers.Add("User-Agent: espalier");
    // A body is sent at once, without asking whether it may be.
    headers.Add("Expect:");
    if (!credentials.token.empty()) {
      headers.Add("Authorization: Bearer ", credentials.token.span());
    }
    if (!request.content_type.empty()) {
      headers.Add(absl::StrCat("Content-Type: ", request.content_type));
      curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.body.data());
      curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                       static_cast<curl_off_t>(request.body.size()));
    }
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    // A watch is not compressed: each event would wait in a buffer.
    if (!*exchange->sink)
      curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "gzip");
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers.list());
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &OnHeader);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, exchange);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &OnBody);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, exchange);
  }

  static absl::StatusOr<HttpResponse> Perform(Handle& handle,
                                              const HttpRequest& request,
                                              const Sink& sink,
                                              const Credentials& credentials) {
    std::string url = absl::StrCat(credentials.server, request.target);
    curl_slist connect_to = {};
    std::string real_host;
    if (!credentials.tls_server_name.empty()) {
      std::string path;
      real_host = ConnectTo(credentials.server, &path);
      if (!HasPort(real_host.substr(2))) absl::StrAppend(&real_host, ":443");
      connect_to.data = real_host.data();
      url = absl::StrCat("https://", credentials.tls_server_name, path,
                         request.target);
    }
    Exchange exchange{.request = &request,
                      .sink = &sink,
                      .easy = handle.easy,
                      .last_octet = base::SteadyClock().Now()};
    Headers headers;
    char error[CURL_ERROR_SIZE] = "";
    SetUp(handle.easy, request, credentials, url,
          connect_to.data == nullptr ? nullptr : &connect_to, headers,
          &exchange, error);
    CURLM* const multi = handle.multi;
    if (request.cancellation != nullptr) {
      request.cancellation->SetWaker([multi] { curl_multi_wakeup(multi); });
    }
    curl_multi_add_handle(multi, handle.easy);
    absl::StatusOr<CURLcode> result = Run(multi, request, exchange);
    if (request.cancellation != nullptr) {
      request.cancellation->SetWaker(nullptr);
    }
    curl_multi_remove_handle(multi, handle.easy);
    if (!result.ok()) {
      return base::Annotate(result.status(), credentials.server);
    }
    if (exchange.too_long) {
      return absl::ResourceExhaustedError(
          absl::StrCat(credentials.server, ": an answer longer than ",
                       request.max_answer, " octets"));
    }
    if (exchange.ended_by_sink) {
      return absl::CancelledError("the answer was of no more use");
    }
    if (*result != CURLE_OK) {
      return StatusOf(*result, error, credentials.server);
    }
    long status = 0;
    curl_easy_getinfo(handle.easy, CURLINFO_RESPONSE_CODE, &status);
    exchange.response.status = static_cast<int>(status);
    return std::move(exchange.response);
  }

  // Until the exchange is done, or one of its times is over.
  static absl::StatusOr<CURLcode> Run(CURLM* multi, const HttpRequest& request,
                                      Exchange& exchange) {
    base::SteadyClock clock;
    const absl::Time deadline = clock.Now() + request.timeout;
    while (true) {
      if (request.cancellation != nullptr &&
          request.cancellation->cancelled()) {
        return absl::CancelledError("the request was given up");
      }
      int running = 0;
      const CURLMcode code = curl_multi_perform(multi, &running);
      if (code != CURLM_OK) {
        return absl::InternalError(curl_multi_strerror(code));
      }
      int left = 0;
      while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
        if (message->msg == CURLMSG_DONE) return message->data.result;
      }
      const absl::Time now = clock.Now();
      const absl::Time idle_end = exchange.last_octet + request.idle_timeout;
      if (now >= deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat("no complete answer within ",
                         absl::FormatDuration(request.timeout)));
      }
      if (now >= idle_end) {
        return absl::DeadlineExceededError(absl::StrCat(
            "not an octet for ", absl::FormatDuration(request.idle_timeout)));
      }
      const absl::Duration wait = std::min(
          {deadline - now, idle_end - now, absl::Duration(absl::Minutes(1))});
      curl_multi_poll(multi, nullptr, 0,
                      static_cast<int>(absl::ToInt64Milliseconds(wait)) + 1,
                      nullptr);
    }
  }

  ClusterAccess* const access_;
  std::mutex mutex_;  // of what follows
  std::string ca_;
  std::string certificate_;
  uint64_t generation_ = 0;
  std::vector<std::unique_ptr<Handle>> idle_;
};

CurlTransport::CurlTransport(ClusterAccess* access)
    : impl_(std::make_unique<Impl>(access)) {}
CurlTransport::~CurlTransport() = default;

absl::StatusOr<HttpResponse> CurlTransport::Do(const HttpRequest& request,
                                               const Sink& sink) {
  return impl_->Do(request, sink);
}

}  // namespace espalier::kube
