#include "agent/kubectl/probe_ends.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sstream>
#include <thread>

#include "agent/kubectl/command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kubectl {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Answers on a port of its own until it goes out of scope.
class Server {
 public:
  Server() : fd_(BindProbe(0)) {
    sockaddr_storage own{};
    socklen_t length = sizeof(own);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &length);
    // sin_port and sin6_port lie at the same place.
    port_ = ntohs(reinterpret_cast<const sockaddr_in*>(&own)->sin_port);
    thread_ = std::thread([this] { AnswerProbes(fd_); });
  }
  ~Server() {
    // What it waits on becomes no socket; one more datagram wakes it.
    const int none = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const int socket = dup(fd_);
    dup2(none, fd_);
    close(none);
    AskProbe("127.0.0.1", port_, 1, absl::Milliseconds(1));
    thread_.join();
    close(socket);
    close(fd_);
  }
  uint16_t port() const { return port_; }

 private:
  int fd_;
  uint16_t port_ = 0;
  std::thread thread_;
};

TEST(ProbeEndsTest, EveryQuestionIsAnswered) {
  const Server server;
  for (const char* address : {"127.0.0.1", "::1"}) {
    const ProbeCount count =
        AskProbe(address, server.port(), 20, absl::Seconds(30));
    EXPECT_EQ(count.answered, 20) << address << ": " << count.error;
    EXPECT_GE(count.sent, 20);
    EXPECT_THAT(count.error, IsEmpty());
  }
}

TEST(ProbeEndsTest, NobodyAnswers) {
  uint16_t port = 0;
  {
    const Server server;
    port = server.port();
  }
  const ProbeCount count =
      AskProbe("127.0.0.1", port, 3, absl::Milliseconds(50));
  EXPECT_EQ(count.answered, 0);
  EXPECT_GE(count.sent, 1);
}

// A listener that hears, and answers with something else, is none.
TEST(ProbeEndsTest, AnotherAnswerIsNone) {
  const int fd = BindProbe(0);
  ASSERT_GE(fd, 0);
  sockaddr_storage own{};
  socklen_t length = sizeof(own);
  getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length);
  std::thread other([fd] {
    char datagram[512];
    sockaddr_storage from{};
    socklen_t size = sizeof(from);
    recvfrom(fd, datagram, sizeof(datagram), 0,
             reinterpret_cast<sockaddr*>(&from), &size);
    sendto(fd, datagram, sizeof(datagram), 0,
           reinterpret_cast<const sockaddr*>(&from), size);
  });
  const ProbeCount count = AskProbe(
      "127.0.0.1", ntohs(reinterpret_cast<const sockaddr_in*>(&own)->sin_port),
      1, absl::Milliseconds(400));
  other.join();
  close(fd);
  EXPECT_EQ(count.answered, 0) << "a question sent back is no answer";
}

TEST(ProbeEndsTest, WhatIsNoAddress) {
  const ProbeCount count =
      AskProbe("db-0.shop", kProbePort, 1, absl::Seconds(1));
  EXPECT_EQ(count.sent, 0);
  EXPECT_THAT(count.error, Not(IsEmpty()));
}

TEST(ProbeEndsTest, TheCommandAnswersInJson) {
  std::ostringstream out;
  std::ostringstream err;
  EXPECT_EQ(RunCommand({"probe", "ask", "db-0.shop"}, out, err), kExitOk);
  EXPECT_THAT(out.str(), HasSubstr(R"("answered":0)"));
  EXPECT_EQ(RunCommand({"probe"}, out, err), kExitUsage);
  EXPECT_EQ(RunCommand({"probe", "ask"}, out, err), kExitUsage);
}

}  // namespace
}  // namespace espalier::kubectl
