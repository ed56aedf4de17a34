#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "agent/esp/control/channel.h"
#include "agent/esp/control/messages.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_control_samples.h"
#include "tests/support/esp_end.h"

namespace espalier::esp::control {
namespace {

TEST(Messages, RoundTripEveryKind) {
  std::set<size_t> kinds;
  for (const Frame& frame : testing::SampleFrames()) {
    kinds.insert(frame.message.index());
    const base::SecretBytes octets = Encode(frame);
    const auto decoded = Decode(octets.span());
    ASSERT_TRUE(decoded.ok()) << frame.message.index() << decoded.status();
    EXPECT_EQ(decoded->id, frame.id);
    EXPECT_EQ(decoded->message.index(), frame.message.index());
    // What is the same encodes the same.
    const base::SecretBytes again = Encode(*decoded);
    EXPECT_TRUE(base::ConstantTimeEqual(octets.span(), again.span()));
  }
  EXPECT_EQ(kinds.size(), std::variant_size_v<Message>);
}

TEST(Messages, EveryTruncationAndExtraOctetIsRefused) {
  for (const Frame& frame : testing::SampleFrames()) {
    // An IKE message of any length stands at the end of these.
    if (std::holds_alternative<SendIke>(frame.message) ||
        std::holds_alternative<IkeDatagram>(frame.message)) {
      continue;
    }
    const base::SecretBytes octets = Encode(frame);
    for (size_t size = 0; size < octets.size(); ++size) {
      EXPECT_FALSE(Decode(octets.span().first(size)).ok())
          << frame.message.index() << " cut to " << size;
    }
    base::Bytes longer(octets.span().begin(), octets.span().end());
    longer.push_back(0);
    EXPECT_FALSE(Decode(longer).ok()) << frame.message.index();
  }
}

TEST(Messages, OtherVersionsAndTypesAreRefused) {
  base::SecretBytes octets = Encode({1, ListSas{}});
  EXPECT_TRUE(Decode(octets.span()).ok());
  octets.mutable_span()[0] = 2;
  EXPECT_TRUE(absl::IsUnimplemented(Decode(octets.span()).status()));
  octets.mutable_span()[0] = kVersion;
  for (const uint8_t type : {0, 28, 255}) {
    octets.mutable_span()[1] = type;
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(octets.span()).status()));
  }
}

class ChannelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/espd-control-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/espd.sock";
  }
  void TearDown() override {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }
  std::string folder_, path_;
};

TEST_F(ChannelTest, SocketIsPrivateAndReplacesADeadOne) {
  EXPECT_TRUE(absl::IsUnavailable(Channel::Connect(path_).status()));
  auto listener = Listen(path_);
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_TRUE(absl::IsAlreadyExists(Listen(path_).status()));
  close(*listener);  // the process dies, its socket stays in the file system
  auto second = Listen(path_);
  ASSERT_TRUE(second.ok()) << second.status();
  close(*second);
  EXPECT_TRUE(absl::IsInvalidArgument(Listen(std::string(200, 'x')).status()));
}

TEST_F(ChannelTest, FramesPassAndQueueWhileTheOtherEndIsSlow) {
  auto listener = Listen(path_);
  ASSERT_TRUE(listener.ok());
  auto client = Channel::Connect(path_);
  ASSERT_TRUE(client.ok()) << client.status();
  Channel server(accept4(*listener, nullptr, nullptr, SOCK_NONBLOCK));
  EXPECT_TRUE(CheckPeer(server.fd()).ok());
  EXPECT_FALSE(server.Receive().value().has_value());

  constexpr uint32_t kFrames = 500;
  for (uint32_t i = 1; i <= kFrames; ++i) {
    ASSERT_TRUE(
        (*client)->Send({i, SendIke{{}, {}, base::Bytes(4000, 1)}}).ok());
  }
  EXPECT_TRUE((*client)->wants_write());
  for (uint32_t i = 1; i <= kFrames;) {
    ASSERT_TRUE((*client)->Flush().ok());
    auto frame = server.Receive();
    ASSERT_TRUE(frame.ok());
    if (!frame->has_value()) continue;
    EXPECT_EQ((*frame)->id, i++);
  }
  EXPECT_FALSE((*client)->wants_write());
  client->reset();
  EXPECT_TRUE(absl::IsUnavailable(server.Receive().status()));
  close(*listener);
}

TEST_F(ChannelTest, AnEndThatNeverReadsIsGivenUp) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
  Channel sender(fds[0]);
  absl::Status status;
  size_t sent = 0;
  while (status.ok() && sent < 2 * kMaxQueuedFrames) {
    status = sender.Send({1, ListSas{}});
    ++sent;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status << sent;
  close(fds[1]);
}

}  // namespace
}  // namespace espalier::esp::control
