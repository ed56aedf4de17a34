#include "agent/service/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::service {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::Start(
        {base::IpAddress::V4({127, 0, 0, 1}), 0},
        {{"/metrics", [] { return HttpAnswer{.body = "a_metric 1\n"}; }},
         {"/readyz",
          [] { return HttpAnswer{.status = 503, .body = "no espd\n"}; }}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_NE(server_->port(), 0);
  }

  std::string Send(const std::string& request) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(server_->port());
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    std::string answer;
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) {
      answer.append(buffer, static_cast<size_t>(n));
    }
    close(fd);
    return answer;
  }
  std::string Get(const std::string& path, const std::string& verb = "GET") {
    return Send(absl::StrCat(verb, " ", path,
                             " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                             "\r\n"));
  }
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersItsPaths) {
  EXPECT_THAT(Get("/metrics"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/metrics"), HasSubstr("\r\n\r\na_metric 1\n"));
  EXPECT_THAT(Get("/metrics?x=y"), HasSubstr("a_metric 1\n"));
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get("/readyz"), HasSubstr("no espd\n"));
}

TEST_F(HttpServerTest, RefusesOtherPathsAndVerbs) {
  EXPECT_THAT(Get("/"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get("/"), HasSubstr("/metrics\n"));
  EXPECT_THAT(Get("/metrics", "DELETE"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Send("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
                   "Connection: close\r\n\r\nabc"),
              StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Get("/metrics", "HEAD"), Not(HasSubstr("a_metric 1\n")));
}

TEST_F(HttpServerTest, RefusesWhatIsTooLong) {
  EXPECT_THAT(Get("/" + std::string(100'000, 'a')), StartsWith("HTTP/1.1 4"));
}

TEST_F(HttpServerTest, APortInUseSaysSo) {
  auto second = HttpServer::Start(
      {base::IpAddress::V4({127, 0, 0, 1}), server_->port()}, {});
  EXPECT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(absl::StrCat("127.0.0.1:", server_->port())));
}

}  // namespace
}  // namespace espalier::service
