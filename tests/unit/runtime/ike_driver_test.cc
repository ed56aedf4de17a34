// Two protocol cores, each with its driver, talk over real sockets on the
// loopback: jobs run on the workers, actions reach the hooks, timers fire.
#include "agent/runtime/ike_driver.h"

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "agent/crypto/random.h"
#include "agent/runtime/ike_socket.h"
#include "agent/runtime/loop.h"
#include "gtest/gtest.h"

namespace espalier::runtime {
namespace {

base::IpPrefix Prefix(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

// A node: driver, socket, and a mesh that installs whatever it is told to.
class End {
 public:
  End(Loop* loop, WorkerPool* workers, const std::string& name)
      : loop_(loop), name_(name) {
    ike::CoreConfig config;
    config.identity = ike::Identity::Fqdn(name);
    config.retransmit_base = absl::Milliseconds(50);
    config.retry_base = absl::Milliseconds(50);
    driver_ = std::make_unique<IkeDriver>(config, &random_, &clock_, loop, loop,
                                          workers);
    auto socket = IkeSocket::Open(
        loop, {*base::IpAddress::Parse("127.0.0.1"), 0},
        [this](const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes) {
          if (drop_ > 0 && drop_-- > 0) return;
          driver_->HandleDatagram({local, remote}, bytes);
        });
    EXPECT_TRUE(socket.ok()) << socket.status();
    socket_ = *std::move(socket);
    IkeDriver::Hooks hooks;
    hooks.send = [this](const ike::Path& path, base::ByteSpan bytes) {
      ++sent_;
      EXPECT_TRUE(socket_->Send(path.remote, bytes).ok());
    };
    hooks.send_keepalive = [](const ike::Path&) {};
    hooks.mesh = [this](ike::Action& action) { HandleMesh(action); };
    hooks.log_keys = [](const ike::LogIkeKeys&) { ADD_FAILURE(); };
    driver_->SetHooks(std::move(hooks));
  }

  void Know(const End& other, const std::string& here, const std::string& there,
            bool initiate) {
    ike::PeerConfig peer;
    peer.id = ike::PeerId(1);
    peer.name = other.name_;
    peer.identity = ike::Identity::Fqdn(other.name_);
    peer.remote = other.socket_->local();
    peer.local = socket_->local().address;
    peer.auth = ike::PskAuth{
        base::SecretBytes(base::AsBytes("a pre-shared key of a test"))};
    peer.local_selectors = {base::TrafficSelector::FromPrefix(Prefix(here))};
    peer.remote_selectors = {base::TrafficSelector::FromPrefix(Prefix(there))};
    peer.reqid = base::Reqid(base::kOwnedReqidFirst + 1);
    peer.initiate = initiate;
    EXPECT_TRUE(
        driver_->core().UpsertPeer(driver_->Now(), std::move(peer)).ok());
    driver_->core().Establish(driver_->Now(), ike::PeerId(1));
    driver_->WakeSoon();
  }

  void set_drop(int count) { drop_ = count; }
  int sent() const { return sent_; }
  bool up() const { return up_; }
  const std::vector<base::Direction>& installed() const { return installed_; }
  IkeDriver& driver() { return *driver_; }
  std::function<void()> on_up;

 private:
  void HandleMesh(ike::Action& action) {
    if (auto* install = std::get_if<ike::InstallSa>(&action)) {
      installed_.push_back(install->sa.direction);
      // The answer comes from the loop, as a datapath's does, and the driver
      // is woken from inside nothing.
      loop_->Post([this, op = install->op] {
        driver_->core().HandleDatapathDone(driver_->Now(), op,
                                           absl::OkStatus());
        driver_->Wake();
      });
    } else if (const auto* event = std::get_if<ike::Event>(&action)) {
      if (event->kind != ike::Event::Kind::kChildSaUp) return;
      up_ = true;
      // Waking it from inside a hook neither recurses nor is lost.
      driver_->Wake();
      on_up();
    }
  }

  Loop* loop_;
  const std::string name_;
  crypto::SystemRandom random_;
  base::SteadyClock clock_;
  std::unique_ptr<IkeDriver> driver_;
  std::unique_ptr<IkeSocket> socket_;
  int drop_ = 0;
  int sent_ = 0;
  bool up_ = false;
  std::vector<base::Direction> installed_;
};

class IkeDriverTest : public ::testing::Test {
 protected:
  void Connect() {
    const auto both = [this] {
      if (a_.up() && b_.up()) loop_.Stop();
    };
    a_.on_up = both;
    b_.on_up = both;
    b_.Know(a_, "10.2.0.0/16", "10.1.0.0/16", false);
    a_.Know(b_, "10.1.0.0/16", "10.2.0.0/16", true);
    // A hang would end in ctest's time limit without a word.
    loop_.RunAfter(absl::Seconds(60), [this] {
      ADD_FAILURE() << "no CHILD_SA in a minute";
      loop_.Stop();
    });
    loop_.Run();
    EXPECT_TRUE(a_.up() && b_.up());
  }
  Loop loop_;
  WorkerPool workers_{2, 64};
  End a_{&loop_, &workers_, "a"};
  End b_{&loop_, &workers_, "b"};
};

TEST_F(IkeDriverTest, BringsUpAChildSa) {
  Connect();
  ASSERT_GE(a_.installed().size(), 2u);
  EXPECT_EQ(a_.installed()[0], base::Direction::kInbound);
  EXPECT_EQ(a_.driver().refused_jobs(), 0u);
}

TEST_F(IkeDriverTest, ItsTimersRetransmitWhatWasLost) {
  b_.set_drop(2);
  Connect();
  EXPECT_GE(a_.driver().core().counters().retransmissions, 2u);
}

TEST_F(IkeDriverTest, MayGoWhileJobsAreUnderWay) {
  a_.on_up = b_.on_up = [] {};
  // The core asks for its key exchange; the driver is gone before the answer.
  auto third = std::make_unique<End>(&loop_, &workers_, "c");
  third->Know(a_, "10.3.0.0/16", "10.1.0.0/16", true);
  third->driver().Wake();
  third.reset();
  loop_.RunAfter(absl::Milliseconds(50), [this] { loop_.Stop(); });
  loop_.Run();
}

}  // namespace
}  // namespace espalier::runtime
