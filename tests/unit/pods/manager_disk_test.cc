// The checkpoint of an ADD is written on another thread while the pod's pair is
// made and guarded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "agent/ipam/checkpoint.h"
#include "agent/pods/manager.h"
#include "agent/pods/names.h"

namespace espalier::pods {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kLong = absl::Seconds(30);

class ThreadExecutor : public base::Executor {
 public:
  void Post(std::function<void()> task) override {
    thread_ = std::jthread(std::move(task));
  }

 private:
  std::jthread thread_;  // an earlier one is waited for
};

class NowExecutor : public base::Executor {
 public:
  void Post(std::function<void()> task) override { task(); }
};

// Its fsync takes until `go`; one file is written at a time.
class SlowDisk : public ipam::FileSystem {
 public:
  absl::StatusOr<int> Create(const std::string& path) override {
    EXPECT_EQ(writing.fetch_add(1), 0) << "two at once";
    return FileSystem::Create(path);
  }
  absl::Status Sync(int fd) override {
    const absl::Time deadline = absl::Now() + kLong;
    while (!go && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_TRUE(go);
    return status.ok() ? FileSystem::Sync(fd) : status;
  }
  absl::Status Close(int fd) override {
    --writing;
    return FileSystem::Close(fd);
  }
  std::atomic<bool> go = true;
  absl::Status status;
  std::atomic<int> writing = 0;
};

class FakeNetwork : public PodNetwork {
 public:
  absl::StatusOr<std::string> NamespaceId(const std::string& path) override {
    return "inode " + path;
  }
  absl::Status Attach(const PodNetworkSpec& spec,
                      const std::function<absl::Status()>& before_up) override {
    if (!attach_status.ok()) return attach_status;
    down[spec.owner] = spec;
    const absl::Status status = before_up();
    if (status.ok()) up[spec.owner] = spec;
    when_up();
    return status;
  }
  absl::Status Verify(const PodNetworkSpec&) override {
    return absl::OkStatus();
  }
  absl::Status CutOff(const PodNetworkSpec&) override {
    return absl::OkStatus();
  }
  absl::Status Destroy(const std::string& owner) override {
    down.erase(owner);
    up.erase(owner);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<OwnedInterface>> List() override {
    return std::vector<OwnedInterface>();
  }
  std::map<std::string, PodNetworkSpec> down, up;
  std::function<void()> when_up = [] {};
  absl::Status attach_status;
};

class FakeGuard : public PodGuard {
 public:
  absl::Status Protect(const PodInfo&) override {
    when_protected();
    return status;
  }
  void SetPods(std::vector<PodInfo>) override {}
  std::function<void()> when_protected = [] {};
  absl::Status status;
};

class ManagerDiskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "disk-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    Settings settings;
    settings.pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/24")};
    settings.mtu = 1400;
    manager_ =
        std::make_unique<Manager>(root_ + "/run", root_ + "/state", settings,
                                  Manager::Dependencies{.network = &network_,
                                                        .files = &files_,
                                                        .clock = &clock_,
                                                        .self = &executor_,
                                                        .reaper = &executor_,
                                                        .guard = &guard_,
                                                        .disk = &disk_});
    ASSERT_TRUE(manager_->Start().ok());
    manager_->SetReady(absl::OkStatus());
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  v1::AddResponse Add(const std::string& id) {
    v1::AddRequest request;
    request.set_network("net");
    request.mutable_attachment()->set_container_id(id);
    request.mutable_attachment()->set_interface_name("eth0");
    request.set_network_namespace("/ns/" + id);
    request.mutable_pod()->set_namespace_("space");
    request.mutable_pod()->set_name(id);
    v1::AddResponse out;
    manager_->Add(request, [&](v1::AddResponse response) { out = response; });
    return out;
  }
  size_t LeasesOnDisk() {
    ipam::FileSystem files;
    return ipam::Checkpoint(&files, root_ + "/state/" + kCheckpointFile)
        .Load()
        ->state.leases.size();
  }

  std::string root_;
  SlowDisk files_;
  FakeNetwork network_;
  FakeGuard guard_;
  base::SteadyClock clock_;
  NowExecutor executor_;
  ThreadExecutor disk_;
  std::unique_ptr<Manager> manager_;
};

TEST_F(ManagerDiskTest, IsWrittenWhileThePodIsGuardedAndBeforeItIsUp) {
  files_.go = false;
  guard_.when_protected = [&] {
    EXPECT_EQ(LeasesOnDisk(), 0u);
    files_.go = true;
  };
  network_.when_up = [&] { EXPECT_EQ(LeasesOnDisk(), 1u); };
  EXPECT_TRUE(Add("a").has_attachment());
  EXPECT_THAT(network_.up, SizeIs(1));
}

TEST_F(ManagerDiskTest, APodThatCannotBeNotedIsNeverUp) {
  files_.status = absl::UnknownError("disk full");
  network_.when_up = [&] { EXPECT_THAT(network_.up, IsEmpty()); };
  const v1::AddResponse refused = Add("a");
  EXPECT_EQ(refused.error().code(), v1::ERROR_CODE_IO);
  EXPECT_THAT(refused.error().details(), HasSubstr("disk full"));
  EXPECT_THAT(network_.down, IsEmpty());
  EXPECT_THAT(manager_->TakeSnapshot().pods, IsEmpty());
  files_.status = absl::OkStatus();
  network_.when_up = [] {};
  EXPECT_TRUE(Add("a").has_attachment());
  EXPECT_EQ(LeasesOnDisk(), 1u);
}

TEST_F(ManagerDiskTest, AFailedAttachmentWaitsForIt) {
  network_.attach_status = absl::UnavailableError("no pair");
  EXPECT_TRUE(Add("a").has_error());
  EXPECT_EQ(LeasesOnDisk(), 0u);
  network_.attach_status = absl::OkStatus();
  guard_.status = absl::UnavailableError("no guard");
  EXPECT_EQ(Add("b").error().code(), v1::ERROR_CODE_TRY_AGAIN_LATER);
  EXPECT_EQ(LeasesOnDisk(), 0u);
  EXPECT_THAT(manager_->TakeSnapshot().pods, IsEmpty());
}

}  // namespace
}  // namespace espalier::pods
