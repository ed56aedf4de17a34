// IKE's end of UDP 4500 with the kernel datapath: HeldPort against a real
// `espalier-espd --hold-udp-encap`, as a process that can be killed.
#include "agent/runtime/held_port.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/datapath/user/user_datapath.h"
#include "agent/esp/holder.h"
#include "tests/netns/private_namespace.h"
#include "tests/support/poll_loop.h"

namespace espalier::runtime {
namespace {

using base::Bytes;
using esp::control::HeldSockets;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

base::Endpoint At(const std::string& address, uint16_t port) {
  return {*base::IpAddress::Parse(address), port};
}

struct Got {
  base::Endpoint local, remote;
  Bytes bytes;
};

// A peer's plain UDP socket.
class Peer {
 public:
  explicit Peer(bool v4) : v4_(v4) {
    fd_ = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const timeval limit{5, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  ~Peer() { close(fd_); }
  void Send(const Bytes& bytes) {
    sockaddr_in to4{};
    to4.sin_family = AF_INET;
    to4.sin_port = htons(4500);
    to4.sin_addr.s_addr = htonl(0x7f000002);  // 127.0.0.2
    sockaddr_in6 to6{};
    to6.sin6_family = AF_INET6;
    to6.sin6_port = htons(4500);
    to6.sin6_addr = in6addr_loopback;
    const auto* to = v4_ ? reinterpret_cast<sockaddr*>(&to4)
                         : reinterpret_cast<sockaddr*>(&to6);
    ASSERT_EQ(sendto(fd_, bytes.data(), bytes.size(), 0, to,
                     v4_ ? sizeof to4 : sizeof to6),
              static_cast<ssize_t>(bytes.size()));
  }
  Bytes Receive() {
    Bytes bytes(2048);
    const ssize_t size = recv(fd_, bytes.data(), bytes.size(), 0);
    bytes.resize(size < 0 ? 0 : static_cast<size_t>(size));
    return bytes;
  }

 private:
  bool v4_;
  int fd_;
};

class HeldPortTest : public testing::PrivateNamespaceTest {
 protected:
  void SetUp() override {
    testing::PrivateNamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(std::system("ip link set lo up"), 0);
    char folder[] = "/tmp/held-port-XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/espd.sock";
  }
  void TearDown() override {
    Kill();
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }

  void StartHolder() {
    holder_ = fork();
    if (holder_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      _exit(esp::RunHolder({.socket_path = path_,
                            .keepalive_interval = absl::Milliseconds(100)})
                    .ok()
                ? 0
                : 1);
    }
  }
  void Kill() {
    if (holder_ <= 0) return;
    kill(holder_, SIGKILL);
    waitpid(holder_, nullptr, 0);
    holder_ = 0;
  }
  void OpenPort() {
    port_ = std::make_unique<HeldPort>(
        &loop_,
        HeldPort::Options{.socket_path = path_,
                          .retry = absl::Milliseconds(50)},
        [this](const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes) {
          got_.push_back({local, remote, {bytes.begin(), bytes.end()}});
        });
    opened_ = 0;
    port_->Start([this] { ++opened_; });
  }
  bool WaitOpened(int times) {
    return loop_.RunUntil([&] { return opened_ >= times; });
  }

  testing::PollLoop loop_;
  std::string folder_, path_;
  pid_t holder_ = 0;
  std::unique_ptr<HeldPort> port_;
  int opened_ = 0;
  std::vector<Got> got_;
};

TEST_F(HeldPortTest, CarriesIkeBothWaysAndNothingElse) {
  StartHolder();
  OpenPort();
  EXPECT_FALSE(port_->status().ok());
  ASSERT_TRUE(WaitOpened(1));
  EXPECT_EQ(port_->status(), absl::OkStatus());
  for (const bool v4 : {true, false}) {
    got_.clear();
    Peer peer(v4);
    peer.Send({0, 0, 0});     // shorter than a marker
    peer.Send({0, 0, 0, 0});  // a marker and nothing
    peer.Send({1, 2, 3, 4});  // no marker, too short for ESP
    peer.Send({0, 0, 0, 0, 7, 8, 9, 10, 11});
    ASSERT_TRUE(loop_.RunUntil([&] { return !got_.empty(); }));
    ASSERT_EQ(got_.size(), 1u);
    EXPECT_THAT(got_[0].bytes, ElementsAre(7, 8, 9, 10, 11));
    EXPECT_EQ(got_[0].local, At(v4 ? "127.0.0.2" : "::1", 4500));
    ASSERT_EQ(port_->SendIke(got_[0].local, got_[0].remote, Bytes{5, 6}),
              absl::OkStatus());
    EXPECT_THAT(peer.Receive(), ElementsAre(0, 0, 0, 0, 5, 6));
  }
}

TEST_F(HeldPortTest, TheSocketsOutliveTheAgent) {
  StartHolder();
  OpenPort();
  ASSERT_TRUE(WaitOpened(1));
  port_.reset();
  Peer peer(true);
  peer.Send({0, 0, 0, 0, 42});
  OpenPort();
  EXPECT_TRUE(loop_.RunUntil([&] { return !got_.empty(); }))
      << "what came in meanwhile waits";
}

TEST_F(HeldPortTest, TheSocketsOutliveTheHolder) {
  StartHolder();
  OpenPort();
  ASSERT_TRUE(WaitOpened(1));
  Kill();
  Peer peer(true);
  peer.Send({0, 0, 0, 0, 42});
  ASSERT_TRUE(loop_.RunUntil([&] { return got_.size() == 1; }))
      << "the agent's duplicates go on";
  EXPECT_EQ(port_->status(), absl::OkStatus());
  // The next holder cannot bind the port, and takes the agent's sockets over.
  StartHolder();
  ASSERT_TRUE(WaitOpened(2));
  port_.reset();
  peer.Send({0, 0, 0, 0, 43});
  OpenPort();
  EXPECT_TRUE(loop_.RunUntil([&] { return got_.size() == 2; }))
      << "and has them for the next agent";
}

TEST_F(HeldPortTest, KeepsNatsAwakeWithoutTheAgentOnly) {
  StartHolder();
  OpenPort();
  ASSERT_TRUE(WaitOpened(1));
  Peer peer(true);
  peer.Send({0, 0, 0, 0, 1});
  ASSERT_TRUE(loop_.RunUntil([&] { return !got_.empty(); }));
  port_->SendKeepalive(got_[0].local, got_[0].remote);
  EXPECT_THAT(peer.Receive(), ElementsAre(0xff))
      << "the one that was asked for";
  port_.reset();
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(peer.Receive(), ElementsAre(0xff)) << "again and again";
  }
}

TEST_F(HeldPortTest, AnAgentOfTheOtherModeIsToldWhy) {
  StartHolder();
  datapath::UserDatapath user(
      &loop_, {.socket_path = path_, .retry = absl::Milliseconds(50)});
  // Its log line has the holder's refusal; it must not count as connected.
  user.Start();
  loop_.RunUntil([] { return false; }, absl::Milliseconds(300));
  EXPECT_FALSE(user.connected());
}

TEST_F(HeldPortTest, WithoutAHolderTheReasonIsSaid) {
  OpenPort();
  EXPECT_THAT(port_->status().message(), HasSubstr("--hold-udp-encap"));
}

TEST_F(HeldPortTest, OnlyBoundUdpSocketsOfOnePortAreTaken) {
  const auto udp = [](uint16_t port) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_port = htons(port);
    EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
    return fd;
  };
  const auto refused = [](std::vector<int> fds) {
    return absl::IsInvalidArgument(
        HeldSockets::FromDescriptors(std::move(fds)).status());
  };
  EXPECT_TRUE(refused({socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)}));
  EXPECT_TRUE(refused({socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)}));
  EXPECT_TRUE(refused({udp(4501), udp(4502)}));
  const absl::StatusOr<HeldSockets> taken =
      HeldSockets::FromDescriptors({udp(4503)});
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->port(), 4503);
}

}  // namespace
}  // namespace espalier::runtime
