#include "agent/pods/manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "agent/pods/names.h"
#include "tests/unit/ipam/fault_file_system.h"

namespace espalier::pods {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A kernel in memory.
class FakeNetwork : public PodNetwork {
 public:
  absl::StatusOr<std::string> NamespaceId(const std::string& path) override {
    const auto it = namespaces.find(path);
    if (it == namespaces.end()) return absl::NotFoundError(path);
    return it->second;
  }
  absl::Status Attach(const PodNetworkSpec& spec,
                      const std::function<absl::Status()>& before_up) override {
    ++attaches;
    if (const absl::Status status = before_up(); !status.ok()) return status;
    if (!attach_status.ok()) {
      if (attach_leaves_a_pair) pairs[spec.owner] = spec;
      return attach_status;
    }
    // Never two pods with one address, whatever the manager thinks.
    for (const auto& [owner, pair] : pairs) {
      if (cut_off.contains(owner)) continue;
      for (const auto& address : spec.addresses) {
        EXPECT_THAT(pair.addresses,
                    ::testing::Not(::testing::Contains(address)));
      }
    }
    EXPECT_FALSE(pairs.contains(spec.owner)) << "attached twice";
    pairs[spec.owner] = spec;
    return absl::OkStatus();
  }
  absl::Status Verify(const PodNetworkSpec& spec) override {
    if (!pairs.contains(spec.owner)) return absl::NotFoundError("no pair");
    return verify_status;
  }
  absl::Status CutOff(const PodNetworkSpec& spec) override {
    if (!cut_off_status.ok()) return cut_off_status;
    cut_off.insert(spec.owner);
    return absl::OkStatus();
  }
  absl::Status Destroy(const std::string& owner) override {
    ++destroys;
    if (!destroy_status.ok()) return destroy_status;
    pairs.erase(owner);
    cut_off.erase(owner);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<OwnedInterface>> List() override {
    if (!list_status.ok()) return list_status;
    std::vector<OwnedInterface> out;
    for (const auto& [owner, spec] : pairs) {
      out.push_back({HostInterfaceName(owner), spec.network, owner, spec.mtu,
                     cut_off.contains(owner) ? std::vector<base::IpAddress>()
                                             : spec.addresses});
    }
    return out;
  }

  std::map<std::string, std::string> namespaces;
  std::map<std::string, PodNetworkSpec> pairs;
  std::set<std::string> cut_off;
  absl::Status attach_status, verify_status, cut_off_status, destroy_status,
      list_status;
  bool attach_leaves_a_pair = false;
  int attaches = 0, destroys = 0;
};

// Runs tasks when told to.
class ManualExecutor : public base::Executor {
 public:
  void Post(std::function<void()> task) override {
    tasks_.push_back(std::move(task));
  }
  void RunAll() {
    while (!tasks_.empty()) {
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      task();
    }
  }
  size_t size() const { return tasks_.size(); }

 private:
  std::deque<std::function<void()>> tasks_;
};

class FakeClock : public base::Clock {
 public:
  base::Instant Now() override { return now; }
  base::Instant now = absl::FromUnixSeconds(1000);
};

class FakeModes : public ModeSource {
 public:
  absl::StatusOr<Wishes> Ask(const std::string& pod_namespace,
                             const std::string& pod_name,
                             const std::string& pod_uid) override {
    asked.push_back(pod_namespace + "/" + pod_name + "/" + pod_uid);
    return answer;
  }
  std::vector<std::string> asked;
  absl::StatusOr<Wishes> answer = absl::UnavailableError("no API server");
};

class ManagerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "manager-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    Restart();
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  Settings DefaultSettings() {
    Settings settings;
    settings.pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/29"),
                          *base::IpPrefix::Parse("fd00::/64")};
    settings.mtu = 1400;
    return settings;
  }

  // A new agent: what the old one had posted is lost with it.
  void Restart() { Restart(DefaultSettings()); }
  void Restart(Settings settings) {
    executor_ = std::make_unique<ManualExecutor>();
    manager_ = std::make_unique<Manager>(
        root_ + "/run", root_ + "/state", std::move(settings),
        Manager::Dependencies{&network_, &files_, &clock_, executor_.get(),
                              executor_.get(), nullptr, &modes_});
    (void)manager_->Start();
    manager_->SetReady(absl::OkStatus());
  }

  static v1::AddRequest AddRequestOf(const std::string& id) {
    v1::AddRequest request;
    request.set_network("net");
    request.mutable_attachment()->set_container_id(id);
    request.mutable_attachment()->set_interface_name("eth0");
    request.set_network_namespace("/ns/" + id);
    request.mutable_pod()->set_namespace_("space");
    request.mutable_pod()->set_name("pod-" + id);
    return request;
  }
  v1::AddResponse Add(const std::string& id) {
    network_.namespaces.emplace("/ns/" + id, "inode-" + id);
    return Add(AddRequestOf(id));
  }
  v1::AddResponse Add(const v1::AddRequest& request) {
    v1::AddResponse out;
    bool called = false;
    manager_->Add(request, [&](v1::AddResponse response) {
      called = true;
      out = std::move(response);
    });
    EXPECT_TRUE(called) << "deferred";
    return out;
  }
  static v1::DeleteRequest DeleteRequestOf(const std::string& id) {
    v1::DeleteRequest request;
    request.set_network("net");
    request.mutable_attachment()->set_container_id(id);
    request.mutable_attachment()->set_interface_name("eth0");
    return request;
  }
  v1::DeleteResponse Delete(const std::string& id) {
    return manager_->Delete(DeleteRequestOf(id));
  }
  void DeleteAndFinish(const std::string& id) {
    EXPECT_FALSE(Delete(id).has_error());
    executor_->RunAll();
  }
  v1::CheckResponse Check(const std::string& id) {
    v1::CheckRequest request;
    request.set_network("net");
    *request.mutable_attachment() = AddRequestOf(id).attachment();
    request.set_network_namespace("/ns/" + id);
    for (const auto& pod : manager_->TakeSnapshot().pods) {
      if (pod.container_id != id) continue;
      for (const auto& address : pod.addresses) {
        request.add_addresses(base::IpPrefix::Host(address).ToString());
      }
    }
    return manager_->Check(request);
  }
  void Queue(const std::string& name, const std::string& contents) {
    std::ofstream(root_ + "/run/deletions/" + name) << contents;
  }
  size_t QueueSize() { return files_.List(root_ + "/run/deletions")->size(); }
  std::vector<std::string> Ids() {
    std::vector<std::string> out;
    for (const auto& pod : manager_->TakeSnapshot().pods) {
      out.push_back(pod.container_id);
    }
    return out;
  }

  std::string root_;
  FakeNetwork network_;
  ipam::FaultFileSystem files_;
  FakeClock clock_;
  FakeModes modes_;
  std::unique_ptr<ManualExecutor> executor_;
  std::unique_ptr<Manager> manager_;
};

TEST_F(ManagerTest, AddGivesAnAddressOfEachFamily) {
  const v1::AddResponse response = Add("c1");
  ASSERT_TRUE(response.has_attachment()) << response.error().message();
  const v1::Attachment& attachment = response.attachment();
  EXPECT_EQ(attachment.host_interface().name(), HostInterfaceName("c1@eth0"));
  EXPECT_EQ(attachment.pod_interface().name(), "eth0");
  EXPECT_EQ(attachment.pod_interface().mtu(), 1400u);
  ASSERT_EQ(attachment.addresses_size(), 2);
  EXPECT_EQ(attachment.addresses(0).address(), "10.1.0.2/32");
  EXPECT_EQ(attachment.addresses(0).gateway(), "169.254.1.1");
  EXPECT_EQ(attachment.addresses(1).address(), "fd00::2/128");
  EXPECT_EQ(attachment.addresses(1).gateway(), "fe80::1");
  EXPECT_EQ(attachment.routes(1).destination(), "::/0");
  const Snapshot snapshot = manager_->TakeSnapshot();
  ASSERT_THAT(snapshot.pods, SizeIs(1));
  EXPECT_EQ(snapshot.pods[0].pod_name, "pod-c1");
  EXPECT_EQ(snapshot.pods[0].network_namespace, "/ns/c1");
  EXPECT_EQ(snapshot.ipv4.used, 1u);
  EXPECT_EQ(snapshot.ipv4.capacity, 5u);
}

TEST_F(ManagerTest, AddTwiceIsAddOnce) {
  const v1::AddResponse first = Add("c1");
  EXPECT_EQ(Add("c1").SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(network_.attaches, 1);
  Restart();
  EXPECT_EQ(Add("c1").SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(network_.attaches, 1);
}

TEST_F(ManagerTest, AddAnewWhatIsNotWhole) {
  Add("c1");
  network_.verify_status = absl::FailedPreconditionError("a route is missing");
  const v1::AddResponse again = Add("c1");
  EXPECT_TRUE(again.has_attachment());
  EXPECT_EQ(network_.attaches, 2);
  EXPECT_THAT(network_.pairs, SizeIs(1));
  // The same name in another namespace is another pod.
  network_.verify_status = absl::OkStatus();
  network_.namespaces["/ns/c1"] = "another-inode";
  EXPECT_TRUE(Add("c1").has_attachment());
  EXPECT_EQ(network_.attaches, 3);
  EXPECT_THAT(Ids(), ElementsAre("c1"));
}

TEST_F(ManagerTest, AddIsRefusedUntilReady) {
  manager_->SetReady(absl::UnavailableError("peers are not known yet"));
  const v1::AddResponse response = Add("c1");
  EXPECT_EQ(response.error().code(), 11u);
  EXPECT_THAT(response.error().details(), HasSubstr("peers are not known"));
  EXPECT_EQ(manager_->Status().error().code(), 11u);
  manager_->SetReady(absl::OkStatus());
  EXPECT_FALSE(manager_->Status().has_error());
  EXPECT_TRUE(Add("c1").has_attachment());
}

TEST_F(ManagerTest, NothingIsServedBeforeTheCheckpointIsRead) {
  Add("c1");
  executor_ = std::make_unique<ManualExecutor>();
  manager_ = std::make_unique<Manager>(
      root_ + "/run", root_ + "/state", DefaultSettings(),
      Manager::Dependencies{&network_, &files_, &clock_, executor_.get(),
                            executor_.get()});
  manager_->SetReady(absl::OkStatus());
  EXPECT_EQ(Add("c2").error().code(), 11u);
  EXPECT_EQ(Delete("c1").error().code(), 11u);
  EXPECT_EQ(Check("c1").error().code(), 11u);
  EXPECT_EQ(manager_->CollectGarbage({}).error().code(), 11u);
  EXPECT_EQ(manager_->Status().error().code(), 11u);
  manager_->Tick();  // tries again
  EXPECT_FALSE(manager_->Status().has_error());
  EXPECT_THAT(Ids(), ElementsAre("c1"));
}

TEST_F(ManagerTest, ANamespaceThatIsNotThere) {
  const v1::AddResponse response = Add(AddRequestOf("gone"));
  EXPECT_EQ(response.error().code(), 8u);
  EXPECT_THAT(response.error().message(), HasSubstr("/ns/gone"));
  EXPECT_THAT(Ids(), IsEmpty());
  // Or that goes while the pod is attached.
  network_.namespaces["/ns/c1"] = "inode";
  network_.attach_status = absl::FailedPreconditionError("own namespace");
  EXPECT_EQ(Add("c1").error().code(), 8u);
  EXPECT_THAT(Ids(), IsEmpty());
}

TEST_F(ManagerTest, NamesThatWouldBePathsAreRefused) {
  for (const std::string bad : {"../x", "a@b", "a b", "", ".."}) {
    v1::AddRequest request = AddRequestOf("c1");
    request.mutable_attachment()->set_container_id(bad);
    EXPECT_EQ(Add(request).error().code(), 4u) << bad;
    request = AddRequestOf("c1");
    request.mutable_attachment()->set_interface_name(bad);
    EXPECT_EQ(Add(request).error().code(), 4u) << bad;
    request = AddRequestOf("c1");
    request.set_network(bad);
    EXPECT_EQ(Add(request).error().code(), 4u) << bad;
  }
}

TEST_F(ManagerTest, AFailedAddLeavesNothing) {
  const std::pair<absl::Status, uint32_t> failures[] = {
      {absl::AlreadyExistsError("interface eth0 exists"), 103},
      {absl::PermissionDeniedError("no"), 100},
  };
  for (const auto& [status, code] : failures) {
    network_.attach_status = status;
    const v1::AddResponse response = Add("c1");
    EXPECT_EQ(response.error().code(), code);
    EXPECT_EQ(response.error().details(), status.message());
    EXPECT_THAT(Ids(), IsEmpty());
    EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 0u);
  }
  network_.attach_status = absl::OkStatus();
  EXPECT_TRUE(Add("c1").has_attachment());
}

TEST_F(ManagerTest, AnAddressWhosePairRemainsIsNotReused) {
  network_.attach_status = absl::InternalError("no");
  network_.attach_leaves_a_pair = true;
  network_.destroy_status = absl::InternalError("nor undone");
  EXPECT_EQ(Add("c1").error().code(), 100u);
  EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 1u);
  EXPECT_THAT(Ids(), IsEmpty());
  network_.attach_status = absl::OkStatus();
  EXPECT_EQ(Add("c2").attachment().addresses(0).address(), "10.1.0.3/32");
  network_.destroy_status = absl::OkStatus();
  manager_->Tick();
  executor_->RunAll();
  EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 1u);
  EXPECT_THAT(network_.pairs, SizeIs(1));
}

TEST_F(ManagerTest, AFullPoolIsAClearError) {
  for (const char* id : {"a", "b", "c", "d", "e"}) Add(id);
  const v1::AddResponse response = Add("f");
  EXPECT_EQ(response.error().code(), 101u);
  EXPECT_THAT(response.error().details(),
              HasSubstr("no free IPv4 address in 10.1.0.0/29 (5 of 5 used)"));
  // Such a node can still serve its pods: STATUS would have them evicted.
  EXPECT_FALSE(manager_->Status().has_error());
  DeleteAndFinish("c");
  EXPECT_TRUE(Add("f").has_attachment());
}

TEST_F(ManagerTest, AFullPoolWaitsForADeleteUnderWay) {
  for (const char* id : {"a", "b", "c", "d", "e"}) Add(id);
  network_.namespaces["/ns/f"] = "inode-f";
  network_.namespaces["/ns/g"] = "inode-g";
  Delete("c");
  bool added = false;
  uint32_t code = 0;
  manager_->Add(AddRequestOf("f"), [&](v1::AddResponse response) {
    added = response.has_attachment();
  });
  manager_->Add(AddRequestOf("g"), [&](v1::AddResponse response) {
    code = response.error().code();
  });
  EXPECT_FALSE(added);
  executor_->RunAll();
  EXPECT_TRUE(added);
  EXPECT_EQ(code, 101u);
  // But not for one that keeps failing.
  network_.destroy_status = absl::InternalError("busy");
  Delete("a");
  code = 0;
  manager_->Add(AddRequestOf("g"), [&](v1::AddResponse response) {
    code = response.error().code();
  });
  executor_->RunAll();
  EXPECT_EQ(code, 101u);
}

TEST_F(ManagerTest, AFullPoolLooksForWhatIsGone) {
  for (const char* id : {"a", "b", "c", "d", "e"}) Add(id);
  network_.pairs.erase("b@eth0");
  EXPECT_EQ(Add("f").error().code(), 101u) << "its namespace is still there";
  network_.namespaces.erase("/ns/b");
  EXPECT_TRUE(Add("f").has_attachment());
}

TEST_F(ManagerTest, DeleteCutsOffAndThenDestroys) {
  Add("c1");
  EXPECT_FALSE(Delete("c1").has_error());
  EXPECT_TRUE(network_.cut_off.contains("c1@eth0"));
  EXPECT_TRUE(network_.pairs.contains("c1@eth0"));
  EXPECT_THAT(Ids(), IsEmpty());
  // As long as the pair is there, so is the lease.
  EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 1u);
  EXPECT_EQ(Check("c1").error().code(), 3u);
  executor_->RunAll();
  EXPECT_THAT(network_.pairs, IsEmpty());
  EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 0u);
  // Again, and of what never was.
  EXPECT_FALSE(Delete("c1").has_error());
  EXPECT_FALSE(Delete("never").has_error());
}

TEST_F(ManagerTest, DeleteTwiceAtOnceDestroysOnce) {
  Add("c1");
  EXPECT_FALSE(Delete("c1").has_error());
  EXPECT_FALSE(Delete("c1").has_error());
  EXPECT_EQ(executor_->size(), 1u);
  manager_->Tick();
  EXPECT_EQ(executor_->size(), 1u);
}

TEST_F(ManagerTest, DeleteThatFailsSaysSo) {
  Add("c1");
  network_.cut_off_status = absl::InternalError("netlink is down");
  EXPECT_EQ(Delete("c1").error().code(), 100u);
  EXPECT_THAT(Ids(), ElementsAre("c1"));
  network_.cut_off_status = absl::OkStatus();
  network_.destroy_status = absl::InternalError("busy");
  EXPECT_FALSE(Delete("c1").has_error());
  executor_->RunAll();
  EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 1u);
  network_.destroy_status = absl::OkStatus();
  manager_->Tick();
  executor_->RunAll();
  EXPECT_EQ(manager_->TakeSnapshot().ipv4.used, 0u);
}

TEST_F(ManagerTest, AddWaitsForTheDeleteBeforeIt) {
  Add("c1");
  Delete("c1");
  int answers = 0;
  manager_->Add(AddRequestOf("c1"), [&](v1::AddResponse response) {
    ++answers;
    EXPECT_TRUE(response.has_attachment());
  });
  // Another container in the same namespace, under the same interface's name.
  v1::AddRequest other = AddRequestOf("c2");
  other.set_network_namespace("/ns/c1");
  manager_->Add(other, [&](v1::AddResponse) { ++answers; });
  EXPECT_EQ(answers, 0);
  // One that has nothing to do with it does not wait.
  EXPECT_TRUE(Add("c3").has_attachment());
  executor_->RunAll();
  EXPECT_EQ(answers, 2);
  EXPECT_TRUE(network_.pairs.contains("c1@eth0"));
}

TEST_F(ManagerTest, ADeleteThatFailsInTheBackgroundDoesNotHoldAddForever) {
  Add("c1");
  Delete("c1");
  network_.destroy_status = absl::InternalError("busy");
  uint32_t code = 0;
  manager_->Add(AddRequestOf("c1"), [&](v1::AddResponse response) {
    code = response.error().code();
  });
  executor_->RunAll();
  EXPECT_EQ(code, 100u);
}

TEST_F(ManagerTest, CheckComparesAll) {
  Add("c1");
  EXPECT_FALSE(Check("c1").has_error());
  EXPECT_EQ(Check("c2").error().code(), 3u);
  network_.verify_status = absl::FailedPreconditionError("a route is missing");
  EXPECT_EQ(Check("c1").error().code(), 102u);
  EXPECT_EQ(Check("c1").error().details(), "a route is missing");
  network_.verify_status = absl::OkStatus();

  v1::CheckRequest request;
  request.set_network("net");
  *request.mutable_attachment() = AddRequestOf("c1").attachment();
  request.set_network_namespace("/ns/c1");
  request.add_addresses("10.1.0.2/32");
  EXPECT_THAT(manager_->Check(request).error().details(),
              HasSubstr("fd00::2/128"));
  request.add_addresses("fd00:0:0::2/128");
  EXPECT_THAT(manager_->Check(request).error().details(),
              HasSubstr("fd00::2/128"));
  request.set_addresses(1, "fd00::2/128");
  EXPECT_FALSE(manager_->Check(request).has_error());
  request.add_addresses("10.1.0.3/32");
  EXPECT_THAT(manager_->Check(request).error().details(),
              HasSubstr("10.1.0.3/32"));
  request.mutable_addresses()->RemoveLast();
  request.set_mac("02:00:00:00:00:01");
  EXPECT_THAT(manager_->Check(request).error().details(), HasSubstr("MAC"));
  request.clear_mac();
  request.set_network("other");
  EXPECT_THAT(manager_->Check(request).error().details(), HasSubstr("net"));
}

TEST_F(ManagerTest, GarbageOfOneNetwork) {
  for (const char* id : {"a", "b", "c"}) Add(id);
  v1::AddRequest other = AddRequestOf("d");
  network_.namespaces["/ns/d"] = "inode-d";
  other.set_network("other");
  Add(other);
  v1::CollectGarbageRequest request;
  request.set_network("net");
  request.set_has_valid(true);
  *request.add_valid() = AddRequestOf("b").attachment();
  *request.add_valid() = AddRequestOf("unknown").attachment();
  const auto response = manager_->CollectGarbage(request);
  EXPECT_FALSE(response.has_error());
  EXPECT_EQ(response.collected(), 2u);
  executor_->RunAll();
  EXPECT_THAT(Ids(), ElementsAre("b", "d"));
}

TEST_F(ManagerTest, GarbageWithoutAListIsOnlyWhatIsGone) {
  for (const char* id : {"a", "b"}) Add(id);
  network_.pairs.erase("a@eth0");
  network_.namespaces.erase("/ns/a");
  v1::CollectGarbageRequest request;
  request.set_network("net");
  EXPECT_FALSE(manager_->CollectGarbage(request).has_error());
  executor_->RunAll();
  EXPECT_THAT(Ids(), ElementsAre("b"));
  network_.list_status = absl::UnavailableError("netlink is down");
  EXPECT_EQ(manager_->CollectGarbage(request).error().code(), 100u);
}

TEST_F(ManagerTest, GarbageGoesOnAfterAFailure) {
  for (const char* id : {"a", "b"}) Add(id);
  network_.cut_off_status = absl::InternalError("netlink is down");
  v1::CollectGarbageRequest request;
  request.set_network("net");
  request.set_has_valid(true);
  const auto response = manager_->CollectGarbage(request);
  EXPECT_EQ(response.error().code(), 100u);
  EXPECT_THAT(response.error().details(), HasSubstr("a@eth0"));
  EXPECT_THAT(response.error().details(), HasSubstr("b@eth0"));
}

TEST_F(ManagerTest, ARestartKnowsItsPods) {
  Add("c1");
  Add("c2");
  DeleteAndFinish("c2");
  Delete("c1");  // the agent ends before the pair is gone
  Restart();
  EXPECT_THAT(Ids(), IsEmpty());
  executor_->RunAll();
  EXPECT_THAT(network_.pairs, IsEmpty());
  // c2's address, then c1's, rest.
  EXPECT_EQ(Add("c3").attachment().addresses(0).address(), "10.1.0.4/32");
}

TEST_F(ManagerTest, ARestartWithoutCheckpointGoesByTheInterfaces) {
  Add("c1");
  Add("c2");
  Delete("c2");  // cut off, its pair still there
  std::filesystem::remove(root_ + "/state/pods.json");
  Restart();
  EXPECT_THAT(Ids(), ElementsAre("c1"));
  executor_->RunAll();
  EXPECT_THAT(network_.pairs, SizeIs(1));
  EXPECT_EQ(Add("c3").attachment().addresses(0).address(), "10.1.0.3/32");
  EXPECT_FALSE(Check("c1").has_error());
  DeleteAndFinish("c1");
  EXPECT_THAT(Ids(), ElementsAre("c3"));
}

TEST_F(ManagerTest, ACheckpointThatIsRubbishIsKeptAside) {
  Add("c1");
  std::ofstream(root_ + "/state/pods.json") << "rubbish";
  Restart();
  EXPECT_THAT(Ids(), ElementsAre("c1"));
  EXPECT_TRUE(std::filesystem::exists(root_ + "/state/pods.json.unusable"));
}

TEST_F(ManagerTest, AfterARebootNobodyHoldsAnything) {
  Add("c1");
  network_.pairs.clear();
  // The path may exist again.
  const std::string path = root_ + "/state/pods.json";
  std::string text = *files_.Read(path, 1 << 20);
  const size_t at = text.find("bootId\": \"") + 10;
  text[at] = text[at] == 'x' ? 'y' : 'x';
  std::ofstream(path) << text;
  Restart();
  EXPECT_THAT(Ids(), IsEmpty());
  EXPECT_FALSE(Delete("c1").has_error());
}

TEST_F(ManagerTest, SweepsPodsThatAreGone) {
  Add("c1");
  Add("c2");
  Add("c3");
  network_.pairs.erase("c1@eth0");
  network_.namespaces.erase("/ns/c1");
  network_.pairs.erase("c2@eth0");  // its namespace is still there
  network_.pairs.erase("c3@eth0");
  network_.namespaces["/ns/c3"] = "another-inode";
  manager_->Tick();
  EXPECT_THAT(Ids(), ElementsAre("c2"));
  // What cannot be looked at is not gone.
  network_.list_status = absl::UnavailableError("netlink is down");
  manager_->Tick();
  EXPECT_THAT(Ids(), ElementsAre("c2"));
}

TEST_F(ManagerTest, ReplaysQueuedDeletions) {
  Add("c1");
  Add("c2");
  Queue("c1@eth0", DeleteRequestOf("c1").SerializeAsString());
  Queue("rubbish", "\xff\xff\xff");
  Queue("never@eth0", DeleteRequestOf("never").SerializeAsString());
  Queue(".c2@eth0.77",
        DeleteRequestOf("c2").SerializeAsString());  // unfinished
  Restart();
  EXPECT_THAT(Ids(), ElementsAre("c2"));
  EXPECT_EQ(QueueSize(), 0u);
  // And while it runs.
  Queue("c2@eth0", DeleteRequestOf("c2").SerializeAsString());
  manager_->Tick();
  EXPECT_THAT(Ids(), IsEmpty());
}

TEST_F(ManagerTest, AQueuedDeletionNeverTakesALaterPod) {
  Add("c1");
  Queue("c1@eth0", DeleteRequestOf("c1").SerializeAsString());
  int answers = 0;
  manager_->Add(AddRequestOf("c1"), [&](v1::AddResponse response) {
    ++answers;
    EXPECT_TRUE(response.has_attachment());
  });
  executor_->RunAll();
  EXPECT_EQ(answers, 1);
  manager_->Tick();
  EXPECT_THAT(Ids(), ElementsAre("c1"));
}

TEST_F(ManagerTest, AQueuedDeletionThatFailsStays) {
  Add("c1");
  Queue("c1@eth0", DeleteRequestOf("c1").SerializeAsString());
  network_.cut_off_status = absl::InternalError("netlink is down");
  manager_->Tick();
  EXPECT_EQ(QueueSize(), 1u);
  network_.cut_off_status = absl::OkStatus();
  manager_->Tick();
  EXPECT_EQ(QueueSize(), 0u);
}

TEST_F(ManagerTest, HeartbeatOnlyWhileReady) {
  const std::string path = root_ + "/run/heartbeat";
  const auto read = [&] {
    return base::Heartbeat::Parse(files_.Read(path, 256).value_or(""));
  };
  ASSERT_TRUE(read().has_value());
  EXPECT_EQ(read()->at, clock_.now);
  clock_.now += absl::Seconds(10);
  manager_->Tick();
  EXPECT_EQ(read()->at, clock_.now);
  manager_->SetReady(absl::UnavailableError("peers are not known"));
  clock_.now += absl::Seconds(10);
  manager_->Tick();
  EXPECT_EQ(read()->at, clock_.now - absl::Seconds(10));
}

TEST_F(ManagerTest, WithoutPodCidrs) {
  Restart(Settings());
  EXPECT_EQ(manager_->Status().error().code(), 50u);
  EXPECT_THAT(manager_->Status().error().details(),
              HasSubstr("--allocate-node-cidrs"));
  EXPECT_EQ(Add("c1").error().code(), 11u);
  ASSERT_TRUE(manager_->Reconfigure(DefaultSettings()).ok());
  EXPECT_FALSE(manager_->Status().has_error());
  EXPECT_TRUE(Add("c1").has_attachment());
}

TEST_F(ManagerTest, ReconfigureKeepsAttachedPods) {
  Add("c1");
  Settings settings = DefaultSettings();
  settings.pod_cidrs = {*base::IpPrefix::Parse("10.2.0.0/24")};
  settings.mtu = 1300;
  ASSERT_TRUE(manager_->Reconfigure(settings).ok());
  EXPECT_FALSE(Check("c1").has_error());
  const auto response = Add("c2");
  EXPECT_EQ(response.attachment().addresses_size(), 1);
  EXPECT_EQ(response.attachment().pod_interface().mtu(), 1300u);
  EXPECT_EQ(manager_->TakeSnapshot().pods[0].mtu, 1400u);
  settings.pod_cidrs = {*base::IpPrefix::Parse("10.2.0.0/32")};
  EXPECT_FALSE(manager_->Reconfigure(settings).ok());
  EXPECT_TRUE(Add("c3").has_attachment());
}

// Each file operation of a day's work fails once, in turn: no operation lies
// about having succeeded, and when the fault is over all is well again.
TEST_F(ManagerTest, EveryFileOperationMayFail) {
  for (int n = 1;; ++n) {
    SCOPED_TRACE(n);
    network_ = FakeNetwork();
    std::filesystem::remove_all(root_ + "/run");
    std::filesystem::remove_all(root_ + "/state");
    files_.Reset();
    files_.FailAt(n);
    Restart();
    if (files_.failed()) manager_->Tick();
    const bool added = Add("c1").has_attachment();
    EXPECT_EQ(network_.pairs.contains("c1@eth0"), added);
    EXPECT_TRUE(Add("c1").has_attachment()) << "the fault is over";
    Add("c2");
    EXPECT_FALSE(Delete("c2").has_error());
    executor_->RunAll();
    manager_->Tick();
    const bool failed = files_.failed();
    files_.Reset();
    Restart();
    executor_->RunAll();
    EXPECT_THAT(Ids(), ElementsAre("c1"));
    EXPECT_THAT(network_.pairs, SizeIs(1));
    if (!failed) {
      EXPECT_GT(n, 30);
      return;
    }
  }
}

// DESIGN 7, "Mode at ADD": never the default.
TEST_F(ManagerTest, AModeThatIsNotKnownIsAskedForAndElseTheAddIsRefused) {
  Settings settings = DefaultSettings();
  settings.modes.listed = true;
  settings.modes.default_mode = base::Mode::kPreferred;
  Restart(settings);
  const v1::AddResponse refused = Add("c1");
  EXPECT_EQ(refused.error().code(), v1::ERROR_CODE_TRY_AGAIN_LATER);
  EXPECT_EQ(refused.error().details(), "no API server");
  EXPECT_EQ(modes_.asked, std::vector<std::string>{"space/pod-c1/"});
  EXPECT_TRUE(Ids().empty());

  modes_.answer = ModeSource::Wishes{.of_pod = {.outside_denied = true}};
  ASSERT_FALSE(Add("c1").has_error());
  auto pods = manager_->TakeSnapshot().pods;
  ASSERT_EQ(pods.size(), 1u);
  EXPECT_EQ(pods[0].policy.encryption, base::Mode::kPreferred);
  EXPECT_TRUE(pods[0].policy.outside_denied);

  // Settings that were made before, and the API server's forgetting the pod,
  // leave what is known of one that is attached.
  ASSERT_TRUE(manager_->Reconfigure(settings).ok());
  EXPECT_EQ(manager_->TakeSnapshot().pods[0].policy.encryption,
            base::Mode::kPreferred);
  // What they do say counts.
  settings.modes.namespaces["space"].encryption = base::Mode::kRequired;
  ASSERT_TRUE(manager_->Reconfigure(settings).ok());
  EXPECT_EQ(manager_->TakeSnapshot().pods[0].policy.encryption,
            base::Mode::kRequired);
}

TEST_F(ManagerTest, AModeThatIsKnownIsNotAskedFor) {
  Settings settings = DefaultSettings();
  settings.modes.listed = true;
  settings.modes.namespaces["space"].encryption = base::Mode::kRequired;
  settings.modes.pods["space/pod-c1/"];
  Restart(settings);
  ASSERT_FALSE(Add("c1").has_error());
  EXPECT_TRUE(modes_.asked.empty());
}

TEST_F(ManagerTest, ARestartedManagerThatKnowsNoModesKeepsPodsRequired) {
  ASSERT_FALSE(Add("c1").has_error());
  Settings settings = DefaultSettings();
  settings.modes.listed = true;
  Restart(settings);
  EXPECT_EQ(manager_->TakeSnapshot().pods.at(0).policy.encryption,
            base::Mode::kRequired);
}

}  // namespace
}  // namespace espalier::pods
