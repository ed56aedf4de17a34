#include "agent/kube/curl_transport.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tls_server.h"

namespace espalier::kube {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CurlTransportTest : public ::testing::Test {
 protected:
  CurlTransportTest() {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              absl::StrCat("kube-tls-", getpid());
    std::filesystem::create_directories(folder_);
    Write("ca", authority_.certificate);
    Write("token", "token-one");
  }
  ~CurlTransportTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / (name + ".new")) << text;
    std::filesystem::rename(folder_ / (name + ".new"), folder_ / name);
  }
  void Serve(TlsServer::Handler handler,
             const std::string& address = "127.0.0.1",
             const std::string& client_authority = "") {
    server_ = std::make_unique<TlsServer>(address, certificate_,
                                          std::move(handler), client_authority);
    parts_.server = server_->url();
    Connect();
  }
  void Connect() {
    ClusterAccess::Parts parts;
    parts.server = parts_.server;
    parts.tls_server_name = parts_.tls_server_name;
    parts.ca.file = folder_ / "ca";
    parts.token.file = folder_ / "token";
    parts.client_certificate.file = parts_.client_certificate.file;
    parts.client_key.file = parts_.client_key.file;
    access_ = std::make_unique<ClusterAccess>(std::move(parts));
    transport_ = std::make_unique<CurlTransport>(access_.get());
  }
  absl::StatusOr<HttpResponse> Get(const std::string& target = "/x") {
    return transport_->Do(HttpRequest{.target = target});
  }
  static TlsServer::Handler Fixed(const std::string& answer) {
    return [answer](const std::string&, TlsServer::Connection& connection) {
      return connection.Write(answer);
    };
  }
  // Says that much, then nothing.
  static TlsServer::Handler Silent(const std::string& begin) {
    return [begin](const std::string&, TlsServer::Connection& connection) {
      connection.Write(begin);
      connection.AwaitClose();
      return false;
    };
  }

  std::filesystem::path folder_;
  Certificate authority_ = MakeAuthority("cluster");
  Certificate certificate_ = Issue(authority_, "IP:127.0.0.1");
  std::unique_ptr<TlsServer> server_;
  ClusterAccess::Parts parts_;
  std::unique_ptr<ClusterAccess> access_;
  std::unique_ptr<CurlTransport> transport_;
};

TEST_F(CurlTransportTest, ARequestAndItsAnswerOverAKeptConnection) {
  std::string seen;
  std::mutex mutex;
  Serve([&](const std::string& request, TlsServer::Connection& connection) {
    const std::lock_guard lock(mutex);
    seen = request;
    return connection.Write(HttpAnswer(200, "{\"a\":1}"));
  });
  absl::StatusOr<HttpResponse> answer = Get("/api/v1/nodes?limit=1");
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->body, "{\"a\":1}");
  {
    const std::lock_guard lock(mutex);
    EXPECT_THAT(seen, HasSubstr("GET /api/v1/nodes?limit=1 HTTP/1.1\r\n"));
    EXPECT_THAT(seen, HasSubstr("Authorization: Bearer token-one\r\n"));
    EXPECT_THAT(seen, HasSubstr("Accept: application/json\r\n"));
  }
  answer = transport_->Do(HttpRequest{.method = "PATCH",
                                      .target = "/y",
                                      .content_type = "application/x",
                                      .body = "body"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  {
    const std::lock_guard lock(mutex);
    EXPECT_THAT(seen, HasSubstr("PATCH /y HTTP/1.1\r\n"));
    EXPECT_THAT(seen, HasSubstr("Content-Type: application/x\r\n"));
    EXPECT_THAT(seen, HasSubstr("\r\n\r\nbody"));
  }
  // The handle of the PATCH is a GET without a body again.
  ASSERT_TRUE(Get("/z").ok());
  const std::lock_guard lock(mutex);
  EXPECT_THAT(seen, HasSubstr("GET /z"));
  EXPECT_THAT(seen, Not(HasSubstr("body")));
  EXPECT_EQ(server_->connections(), 1);
}

TEST_F(CurlTransportTest, OverIpv6) {
  certificate_ = Issue(authority_, "IP:::1");
  Serve(Fixed(HttpAnswer(200, "six")), "::1");
  const absl::StatusOr<HttpResponse> answer = Get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->body, "six");
}

// Nothing is said to a server that is not the cluster's: no request, and so
// no token.
TEST_F(CurlTransportTest, AServerOfAnotherCaIsRefused) {
  Write("ca", MakeAuthority("cluster").certificate);
  Serve(Fixed(HttpAnswer(200, "")));
  const absl::Status status = Get().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("check the CA certificate"));
  EXPECT_THAT(status.message(), Not(HasSubstr("token-one")));
  EXPECT_EQ(server_->requests(), 0);
}

TEST_F(CurlTransportTest, ACaThatIsNoneIsRefused) {
  Write("ca", "not a certificate");
  Serve(Fixed(HttpAnswer(200, "")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Get().status())) << Get().status();
  EXPECT_EQ(server_->requests(), 0);
}

TEST_F(CurlTransportTest, AServerOfAnotherNameIsRefused) {
  certificate_ = Issue(authority_, "IP:127.0.0.2");
  Serve(Fixed(HttpAnswer(200, "")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Get().status())) << Get().status();
  EXPECT_EQ(server_->requests(), 0);
}

TEST_F(CurlTransportTest, AnExpiredCertificateIsRefused) {
  certificate_ = Issue(authority_, "IP:127.0.0.1", -absl::Minutes(1));
  Serve(Fixed(HttpAnswer(200, "")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Get().status())) << Get().status();
  EXPECT_EQ(server_->requests(), 0);
}

TEST_F(CurlTransportTest, TheNameToExpectCanBeGiven) {
  certificate_ = Issue(authority_, "DNS:kubernetes.default.svc");
  parts_.tls_server_name = "kubernetes.default.svc";
  Serve(Fixed(HttpAnswer(200, "ok")));
  ASSERT_TRUE(Get().ok()) << Get().status();
  parts_.tls_server_name = "kubernetes.other.svc";
  Connect();
  EXPECT_TRUE(absl::IsFailedPrecondition(Get().status()));
}

TEST_F(CurlTransportTest, ARenewedTokenIsUsedAtOnce) {
  Serve([](const std::string& request, TlsServer::Connection& connection) {
    const bool renewed = absl::StrContains(request, "Bearer token-two\r\n");
    return connection.Write(HttpAnswer(renewed ? 200 : 401, "{}"));
  });
  EXPECT_EQ(Get()->status, 401);
  Write("token", "token-two\n");
  EXPECT_EQ(Get()->status, 200);
}

TEST_F(CurlTransportTest, ARenewedCaEndsKeptConnections) {
  Serve(Fixed(HttpAnswer(200, "ok")));
  ASSERT_TRUE(Get().ok());
  const Certificate next = MakeAuthority("cluster");
  server_->SetCertificate(Issue(next, "IP:127.0.0.1"));
  Write("ca", next.certificate);
  const absl::StatusOr<HttpResponse> answer = Get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(server_->connections(), 2);
  // The one before is of no more use.
  server_->SetCertificate(certificate_);
  Connect();
  EXPECT_TRUE(absl::IsFailedPrecondition(Get().status()));
}

TEST_F(CurlTransportTest, AClientCertificateIsShown) {
  const Certificate users = MakeAuthority("users");
  Serve(Fixed(HttpAnswer(200, "ok")), "127.0.0.1", users.certificate);
  EXPECT_FALSE(Get().ok());
  const Certificate user = Issue(users, "DNS:node-a");
  Write("crt", user.certificate);
  Write("key", user.key);
  parts_.client_certificate.file = folder_ / "crt";
  parts_.client_key.file = folder_ / "key";
  Connect();
  ASSERT_TRUE(Get().ok()) << Get().status();
}

// A redirect or a proxy would carry the token to somebody else.
TEST_F(CurlTransportTest, NeitherRedirectsNorProxiesAreFollowed) {
  setenv("https_proxy", "http://127.0.0.1:1", 1);
  setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
  Serve(Fixed(HttpAnswer(302, "", "Location: /elsewhere\r\n")));
  const absl::StatusOr<HttpResponse> answer = Get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 302);
  EXPECT_EQ(server_->requests(), 1);
  unsetenv("https_proxy");
  unsetenv("ALL_PROXY");
}

TEST_F(CurlTransportTest, RetryAfterIsRead) {
  Serve(Fixed(HttpAnswer(429, "slow", "Retry-After: 7\r\n")));
  const absl::StatusOr<HttpResponse> answer = Get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 429);
  EXPECT_EQ(answer->retry_after, absl::Seconds(7));
  EXPECT_EQ(answer->body, "slow");
}

TEST_F(CurlTransportTest, AnAnswerHasItsMost) {
  Serve(Fixed(HttpAnswer(200, std::string(100000, 'x'))));
  EXPECT_TRUE(absl::IsResourceExhausted(
      transport_->Do(HttpRequest{.target = "/", .max_answer = 99999})
          .status()));
  EXPECT_TRUE(
      transport_->Do(HttpRequest{.target = "/", .max_answer = 100000}).ok());
}

TEST_F(CurlTransportTest, AConnectionThatBreaksIsUnavailable) {
  Serve([](const std::string&, TlsServer::Connection& connection) {
    connection.Write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    return false;
  });
  EXPECT_TRUE(absl::IsUnavailable(Get().status())) << Get().status();
  parts_.server = "https://127.0.0.1:1";
  Connect();
  const absl::Status refused = Get().status();
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr("https://127.0.0.1:1"));
}

constexpr char kStreamHead[] =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

TEST_F(CurlTransportTest, AStreamComesAsItIsWritten) {
  std::promise<void> first_seen;
  Serve([&](const std::string&, TlsServer::Connection& connection) {
    connection.Write(absl::StrCat(kStreamHead, "4\r\none\n\r\n"));
    // The second is not written before the first was seen.
    first_seen.get_future().wait();
    return connection.Write("4\r\ntwo\n\r\n0\r\n\r\n");
  });
  std::string got;
  const absl::StatusOr<HttpResponse> answer =
      transport_->Do(HttpRequest{.target = "/"}, [&](absl::string_view octets) {
        got.append(octets.data(), octets.size());
        if (got == "one\n") first_seen.set_value();
        return true;
      });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(got, "one\ntwo\n");
  EXPECT_EQ(answer->body, "");
}

TEST_F(CurlTransportTest, AFailureInPlaceOfAStreamIsABody) {
  Serve(Fixed(HttpAnswer(410, "gone")));
  int calls = 0;
  const absl::StatusOr<HttpResponse> answer =
      transport_->Do(HttpRequest{.target = "/"}, [&](absl::string_view) {
        ++calls;
        return true;
      });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 410);
  EXPECT_EQ(answer->body, "gone");
  EXPECT_EQ(calls, 0);
}

TEST_F(CurlTransportTest, AHalfDeadStreamIsGivenUp) {
  Serve(Silent(absl::StrCat(kStreamHead, "4\r\none\n\r\n")));
  const auto take = [](absl::string_view) { return true; };
  EXPECT_THAT(transport_
                  ->Do(HttpRequest{.target = "/",
                                   .idle_timeout = absl::Milliseconds(100)},
                       take)
                  .status()
                  .message(),
              HasSubstr("not an octet"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      transport_
          ->Do(HttpRequest{.target = "/", .timeout = absl::Milliseconds(100)},
               take)
          .status()));
}

TEST_F(CurlTransportTest, AStreamCanBeEndedByItsSinkOrFromOutside) {
  Serve(Silent(absl::StrCat(kStreamHead, "4\r\none\n\r\n")));
  EXPECT_TRUE(
      absl::IsCancelled(transport_
                            ->Do(HttpRequest{.target = "/"},
                                 [](absl::string_view) { return false; })
                            .status()));
  Cancellation cancellation;
  std::promise<void> begun;
  std::thread other([&] {
    begun.get_future().wait();
    cancellation.Cancel();
  });
  EXPECT_TRUE(
      absl::IsCancelled(transport_
                            ->Do(HttpRequest{.target = "/",
                                             .timeout = absl::Hours(1),
                                             .cancellation = &cancellation},
                                 [&](absl::string_view) {
                                   begun.set_value();
                                   return true;
                                 })
                            .status()));
  other.join();
  // And stays so.
  EXPECT_TRUE(absl::IsCancelled(
      transport_->Do(HttpRequest{.target = "/", .cancellation = &cancellation})
          .status()));
}

}  // namespace
}  // namespace espalier::kube
