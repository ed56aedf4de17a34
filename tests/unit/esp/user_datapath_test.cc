// The driver against an espd that the test plays by hand.
#include "agent/datapath/user/user_datapath.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "agent/esp/control/channel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"
#include "tests/support/manual_loop.h"

namespace espalier::datapath {
namespace {

using esp::control::Channel;
using esp::control::Frame;
using esp::testing::Address;
using esp::testing::MakeSa;
namespace control = esp::control;

class UserDatapathTest : public ::testing::Test {
 protected:
  UserDatapathTest() {
    char folder[] = "/tmp/user-datapath-XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/espd.sock";
    driver_ = std::make_unique<UserDatapath>(
        &loop_, UserDatapath::Options{.socket_path = path_});
    Events events;
    events.ready = [this] { ++ready_; };
    events.lost = [this](const absl::Status&) { ++lost_; };
    events.inbound_seen = [this](const SaKey& key) { seen_.push_back(key); };
    events.expired = [this](const SaKey& key, bool hard) {
      if (hard) expired_.push_back(key);
    };
    events.acquire = [this](base::Reqid reqid) { acquired_.push_back(reqid); };
    driver_->SetEvents(std::move(events));
  }
  ~UserDatapathTest() override {
    driver_.reset();
    StopEspd();
    rmdir(folder_.c_str());
  }

  void StartEspd() { listener_ = control::Listen(path_).value(); }
  void StopEspd() {
    espd_.reset();
    if (listener_ >= 0) close(listener_);
    listener_ = -1;
    unlink(path_.c_str());
  }
  // Takes the driver's connection and answers its Hello.
  void Greet(uint64_t instance) {
    espd_ = std::make_unique<Channel>(
        accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    const Frame hello = Next();
    ASSERT_TRUE(std::get<control::Hello>(hello.message).subscribe);
    Answer(hello.id, control::HelloReply{instance, "espalier0"});
  }
  Frame Next() {
    auto frame = espd_->Receive();
    if (!frame.ok() || !frame->has_value()) {
      ADD_FAILURE() << "no frame from the driver";
      return {};
    }
    return **std::move(frame);
  }
  void Answer(uint32_t id, control::Message message) {
    ASSERT_TRUE(espd_->Send({id, std::move(message)}).ok());
    loop_.PollAll();
  }
  Done Into(std::optional<absl::Status>* status) {
    return [status](absl::Status s) { *status = std::move(s); };
  }

  testing::ManualLoop loop_;
  std::string folder_, path_;
  int listener_ = -1;
  std::unique_ptr<Channel> espd_;
  std::unique_ptr<UserDatapath> driver_;
  int ready_ = 0, lost_ = 0;
  std::vector<SaKey> seen_, expired_;
  std::vector<base::Reqid> acquired_;
};

TEST_F(UserDatapathTest, ConnectsOnceEspdIsThere) {
  driver_->Start();
  std::optional<absl::Status> status;
  driver_->InstallSa(MakeSa(base::Direction::kInbound, 0x1000, {}),
                     Into(&status));
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(absl::IsUnavailable(*status));
  StartEspd();
  loop_.Advance(absl::Seconds(1));
  Greet(1);
  EXPECT_EQ(ready_, 1);
  EXPECT_EQ(lost_, 0);
  EXPECT_TRUE(driver_->connected());
  EXPECT_EQ(driver_->tunnel_interface(), "espalier0");
}

TEST_F(UserDatapathTest, InstallsAndReportsWhatEspdSays) {
  StartEspd();
  driver_->Start();
  Greet(1);
  std::optional<absl::Status> first, second;
  driver_->InstallSa(MakeSa(base::Direction::kInbound, 0x1000, {}),
                     Into(&first));
  driver_->InstallSa(MakeSa(base::Direction::kInbound, 0x1000, {}),
                     Into(&second));
  const Frame a = Next(), b = Next();
  EXPECT_EQ(std::get<control::InstallSa>(a.message).sa.spi, base::Spi(0x1000));
  EXPECT_FALSE(first.has_value());
  Answer(a.id, control::Reply{absl::OkStatus()});
  Answer(b.id, control::Reply{absl::AlreadyExistsError("it is there")});
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_TRUE(first->ok());
  EXPECT_TRUE(absl::IsAlreadyExists(*second));
}

TEST_F(UserDatapathTest, JoinsListsOfSeveralFrames) {
  StartEspd();
  driver_->Start();
  Greet(1);
  std::optional<size_t> count;
  driver_->ListSas([&](absl::StatusOr<std::vector<InstalledSa>> sas) {
    ASSERT_TRUE(sas.ok());
    count = sas->size();
  });
  const Frame request = Next();
  Answer(request.id, control::SaList{true, std::vector<InstalledSa>(3)});
  EXPECT_FALSE(count.has_value());
  Answer(request.id, control::SaList{false, std::vector<InstalledSa>(2)});
  EXPECT_EQ(count, 5u);
}

TEST_F(UserDatapathTest, PassesEventsAndIke) {
  StartEspd();
  base::Bytes received;
  driver_->SetIkeHandler([&](const base::Endpoint& local, const base::Endpoint&,
                             base::ByteSpan bytes) {
    EXPECT_EQ(local.port, 4500);
    received.assign(bytes.begin(), bytes.end());
  });
  driver_->Start();
  Greet(1);
  const base::Endpoint local{Address("192.0.2.1"), 4500};
  const base::Endpoint remote{Address("192.0.2.2"), 4500};
  const SaKey key{base::Direction::kInbound, local.address, base::Spi(0x1000)};
  Answer(0, control::IkeDatagram{local, remote, base::Bytes{1, 2, 3}});
  Answer(0, control::InboundSeen{key});
  Answer(0, control::SaExpired{key, true});
  Answer(0, control::Acquire{base::Reqid(5)});
  EXPECT_EQ(received, (base::Bytes{1, 2, 3}));
  EXPECT_THAT(seen_, ::testing::ElementsAre(key));
  EXPECT_THAT(expired_, ::testing::ElementsAre(key));
  EXPECT_THAT(acquired_, ::testing::ElementsAre(base::Reqid(5)));

  driver_->SendIke(local, remote, base::Bytes{9});
  const Frame sent = Next();
  EXPECT_EQ(std::get<control::SendIke>(sent.message).bytes, base::Bytes{9});
}

TEST_F(UserDatapathTest, ALostConnectionEndsWhatIsUnderWayAndComesBack) {
  StartEspd();
  driver_->Start();
  Greet(1);
  std::optional<absl::Status> status;
  driver_->RemovePolicy(base::Reqid(1), Into(&status));
  espd_.reset();
  loop_.PollAll();
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(absl::IsUnavailable(*status));
  EXPECT_FALSE(driver_->connected());
  loop_.Advance(absl::Seconds(1));
  Greet(1);  // the same process: its SAs are still there
  EXPECT_EQ(ready_, 2);
  EXPECT_EQ(lost_, 0);
}

TEST_F(UserDatapathTest, AnotherEspdProcessMeansThatAllIsLost) {
  StartEspd();
  driver_->Start();
  Greet(1);
  StopEspd();
  loop_.PollAll();
  StartEspd();
  loop_.Advance(absl::Seconds(1));
  Greet(2);
  EXPECT_EQ(lost_, 1);
  EXPECT_EQ(ready_, 2);
}

TEST_F(UserDatapathTest, GarbageFromEspdEndsTheConnection) {
  StartEspd();
  driver_->Start();
  Greet(1);
  const char garbage[] = "garbage";
  ASSERT_GT(send(espd_->fd(), garbage, sizeof garbage, 0), 0);
  loop_.PollAll();
  EXPECT_FALSE(driver_->connected());
}

}  // namespace
}  // namespace espalier::datapath
