// What pods' modes do to addresses, blocks and the guard.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "agent/pods/manager.h"
#include "agent/pods/names.h"
#include "tests/unit/ipam/fault_file_system.h"

namespace espalier::pods {
namespace {

using base::Mode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Remembers in which order things happened.
class FakeNetwork : public PodNetwork {
 public:
  absl::StatusOr<std::string> NamespaceId(const std::string& path) override {
    return "inode " + path;
  }
  absl::Status Attach(const PodNetworkSpec& spec,
                      const std::function<absl::Status()>& before_up) override {
    const absl::Status status = before_up();
    if (status.ok()) up[spec.owner] = spec;
    return status;
  }
  absl::Status Verify(const PodNetworkSpec&) override {
    return absl::OkStatus();
  }
  absl::Status CutOff(const PodNetworkSpec&) override {
    return absl::OkStatus();
  }
  absl::Status Destroy(const std::string& owner) override {
    up.erase(owner);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<OwnedInterface>> List() override {
    std::vector<OwnedInterface> out;
    for (const auto& [owner, spec] : up) {
      out.push_back({HostInterfaceName(owner), spec.network, owner, spec.mtu,
                     spec.addresses});
    }
    return out;
  }
  std::map<std::string, PodNetworkSpec> up;
};

class FakeGuard : public PodGuard {
 public:
  explicit FakeGuard(FakeNetwork* network) : network_(network) {}
  absl::Status Protect(const PodInfo& pod) override {
    EXPECT_FALSE(
        network_->up.contains(OwnerOf(pod.container_id, pod.interface_name)))
        << "up before it was guarded";
    protected_pods.push_back(pod);
    return status;
  }
  void SetPods(std::vector<PodInfo> pods) override {
    by_name.clear();
    for (PodInfo& pod : pods) by_name[pod.pod_name] = pod;
    ++times;
  }
  absl::Status status;
  std::vector<PodInfo> protected_pods;
  std::map<std::string, PodInfo> by_name;
  int times = 0;

 private:
  FakeNetwork* network_;
};

class NowExecutor : public base::Executor {
 public:
  void Post(std::function<void()> task) override { task(); }
};

class FakeClock : public base::Clock {
 public:
  base::Instant Now() override { return now; }
  base::Instant now = absl::FromUnixSeconds(1000);
};

class ManagerModesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "modes-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    settings_.pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/24"),
                           *base::IpPrefix::Parse("fd00::/64")};
    settings_.mtu = 1400;
    settings_.modes.namespaces["plain"].encryption = Mode::kDisabled;
    settings_.modes.namespaces["safe"].encryption = Mode::kRequired;
    Restart();
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Restart() {
    manager_ = std::make_unique<Manager>(
        root_ + "/run", root_ + "/state", settings_,
        Manager::Dependencies{&network_, &files_, &clock_, &executor_,
                              &executor_, &guard_});
    ASSERT_TRUE(manager_->Start().ok());
    manager_->SetReady(absl::OkStatus());
  }
  v1::AddResponse Add(const std::string& space, const std::string& name) {
    v1::AddRequest request;
    request.set_network("net");
    request.mutable_attachment()->set_container_id(name);
    request.mutable_attachment()->set_interface_name("eth0");
    request.set_network_namespace("/ns/" + name);
    request.mutable_pod()->set_namespace_(space);
    request.mutable_pod()->set_name(name);
    v1::AddResponse out;
    manager_->Add(request, [&](v1::AddResponse response) { out = response; });
    return out;
  }
  void Delete(const std::string& name) {
    v1::DeleteRequest request;
    request.set_network("net");
    request.mutable_attachment()->set_container_id(name);
    request.mutable_attachment()->set_interface_name("eth0");
    EXPECT_FALSE(manager_->Delete(request).has_error());
  }
  PodInfo Seen(const std::string& name) { return guard_.by_name.at(name); }
  std::vector<std::string> Blocks() {
    std::vector<std::string> out;
    for (const base::IpPrefix& block :
         manager_->TakeSnapshot().plaintext_blocks) {
      out.push_back(block.ToString());
    }
    return out;
  }
  void Pass(absl::Duration time) {
    clock_.now += time;
    manager_->Tick();
  }

  std::string root_;
  Settings settings_;
  FakeNetwork network_;
  FakeGuard guard_{&network_};
  ipam::FaultFileSystem files_;
  FakeClock clock_;
  NowExecutor executor_;
  std::unique_ptr<Manager> manager_;
};

TEST_F(ManagerModesTest, APodIsGuardedBeforeItIsUp) {
  ASSERT_TRUE(Add("safe", "a").has_attachment());
  ASSERT_THAT(guard_.protected_pods, SizeIs(1));
  const PodInfo& pod = guard_.protected_pods[0];
  EXPECT_EQ(pod.policy.encryption, Mode::kRequired);
  EXPECT_EQ(pod.mac, PodMac("a@eth0"));
  EXPECT_THAT(pod.addresses, SizeIs(2));
  EXPECT_TRUE(guard_.by_name.contains("a"));
}

TEST_F(ManagerModesTest, WithoutItsGuardAPodIsNotAttached) {
  guard_.status = absl::UnavailableError("nftables refused");
  const v1::AddResponse response = Add("safe", "a");
  EXPECT_EQ(response.error().code(), 11u);
  EXPECT_THAT(response.error().details(), HasSubstr("nftables refused"));
  EXPECT_THAT(network_.up, IsEmpty());
  EXPECT_THAT(guard_.by_name, IsEmpty());
  EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 0u);
}

TEST_F(ManagerModesTest, TheGuardHasThePodUntilItsInterfaceIsGone) {
  Add("safe", "a");
  Delete("a");
  EXPECT_THAT(guard_.by_name, IsEmpty());
  Restart();
  EXPECT_THAT(guard_.by_name, IsEmpty());
  Add("safe", "a");
  const int times = guard_.times;
  Restart();
  EXPECT_GT(guard_.times, times);
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kRequired);
}

// Nothing tells the namespace of a pod that only its interface is known of.
TEST_F(ManagerModesTest, APodWithoutACheckpointIsRequired) {
  Add("plain", "a");
  std::filesystem::remove(root_ + "/state/pods.json");
  Restart();
  ASSERT_THAT(guard_.by_name, SizeIs(1));
  const PodInfo& pod = guard_.by_name.begin()->second;
  EXPECT_EQ(pod.policy.encryption, Mode::kRequired);
  EXPECT_THAT(pod.policy.problem, HasSubstr("without a checkpoint"));
}

TEST_F(ManagerModesTest, DisabledPodsHaveBlocksOfTheirOwn) {
  Add("safe", "a");
  EXPECT_THAT(Blocks(), IsEmpty());
  Add("plain", "b");
  EXPECT_THAT(Blocks(),
              ElementsAre("10.1.0.240/28", "fd00::ffff:ffff:ffff:fff0/124"));
  EXPECT_EQ(Seen("b").policy.encryption, Mode::kDisabled);
  EXPECT_EQ(Seen("b").addresses[0].ToString(), "10.1.0.240");
  EXPECT_EQ(Seen("a").addresses[0].ToString(), "10.1.0.2");
  Restart();
  EXPECT_THAT(Blocks(), SizeIs(2));
  EXPECT_EQ(Seen("b").policy.encryption, Mode::kDisabled);
}

TEST_F(ManagerModesTest, AWeakenedPodStaysEspUntilItIsMadeAnew) {
  Add("default", "a");
  settings_.modes.namespaces["default"].encryption = Mode::kDisabled;
  ASSERT_TRUE(manager_->Reconfigure(settings_).ok());
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kPreferred);
  EXPECT_THAT(Seen("a").policy.problem, HasSubstr("made anew"));
}

TEST_F(ManagerModesTest, AStrengthenedPodIsGuardedAtOnceAndSettlesLater) {
  Add("plain", "a");
  Add("plain", "b");
  settings_.modes.pods["plain/a"].encryption = Mode::kRequired;
  ASSERT_TRUE(manager_->Reconfigure(settings_).ok());
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kRequired);
  EXPECT_TRUE(Seen("a").settling);
  // Its block is no longer published, so the other is ESP to its peers too.
  EXPECT_THAT(Blocks(), IsEmpty());
  EXPECT_EQ(Seen("b").policy.encryption, Mode::kPreferred);
  Pass(absl::Seconds(29));
  EXPECT_TRUE(Seen("a").settling);
  Restart();
  EXPECT_TRUE(Seen("a").settling);
  Pass(absl::Seconds(2));
  EXPECT_FALSE(Seen("a").settling);
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kRequired);
}

// Peers may still send plaintext there.
TEST_F(ManagerModesTest, AWithdrawnBlockHoldsNothingStrongerBeforeItsTime) {
  settings_.pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/27")};
  Restart();
  Add("plain", "a");
  Delete("a");
  EXPECT_THAT(Blocks(), IsEmpty());
  int added = 0;
  while (Add("safe", "s" + std::to_string(added)).has_attachment()) ++added;
  EXPECT_EQ(added, 14);  // of the lower half, less network and tunnel
  Pass(absl::Seconds(31));
  EXPECT_TRUE(Add("safe", "late").has_attachment());
  EXPECT_EQ(Seen("late").addresses[0].ToString(), "10.1.0.16");
}

TEST_F(ManagerModesTest, WithoutABlockADisabledPodGetsEsp) {
  settings_.pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/28")};
  Restart();
  ASSERT_TRUE(Add("plain", "a").has_attachment());
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kPreferred);
  EXPECT_THAT(Blocks(), IsEmpty());
}

TEST_F(ManagerModesTest, AModeChangesWhilePodsRun) {
  Add("default", "a");
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kPreferred);
  settings_.modes.default_mode = Mode::kRequired;
  ASSERT_TRUE(manager_->Reconfigure(settings_).ok());
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kRequired);
  settings_.modes.default_mode = Mode::kPreferred;
  ASSERT_TRUE(manager_->Reconfigure(settings_).ok());
  EXPECT_EQ(Seen("a").policy.encryption, Mode::kPreferred);
}

TEST_F(ManagerModesTest, ARefusalKeepsNoPodThatIsThere) {
  EXPECT_TRUE(Add("safe", "a").has_attachment());
  EXPECT_TRUE(Add("safe", "b").has_attachment());
  manager_->SetRefusal(
      absl::FailedPreconditionError("x.conflist chains the bandwidth plugin"));
  const v1::AddResponse refused = Add("safe", "c");
  EXPECT_EQ(refused.error().code(), 11u);
  EXPECT_THAT(refused.error().details(), HasSubstr("x.conflist chains"));
  EXPECT_EQ(manager_->Status().error().code(), 50u);
  EXPECT_THAT(manager_->Status().error().details(),
              HasSubstr("x.conflist chains"));
  Delete("b");
  EXPECT_TRUE(guard_.by_name.contains("a"));
  EXPECT_FALSE(guard_.by_name.contains("b"));
  manager_->SetRefusal(absl::OkStatus());
  EXPECT_FALSE(manager_->Status().has_error());
  EXPECT_TRUE(Add("safe", "c").has_attachment());
}

}  // namespace
}  // namespace espalier::pods
