#include "agent/pods/removal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "agent/ipam/checkpoint.h"
#include "agent/pods/names.h"

namespace espalier::pods {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kWeb[] = "c0ffee01@eth0";
constexpr char kDb[] = "c0ffee02@eth0";

class FakeNetwork : public PodNetwork {
 public:
  absl::StatusOr<std::string> NamespaceId(const std::string&) override {
    return "1";
  }
  absl::Status Attach(const PodNetworkSpec&,
                      const std::function<absl::Status()>&) override {
    return absl::UnimplementedError("");
  }
  absl::Status Verify(const PodNetworkSpec&) override {
    return absl::UnimplementedError("");
  }
  absl::Status CutOff(const PodNetworkSpec&) override {
    return absl::UnimplementedError("");
  }
  absl::Status Destroy(const std::string& owner) override {
    if (owner == stuck) return absl::ResourceExhaustedError("no buffers");
    std::erase_if(interfaces, [&](const OwnedInterface& one) {
      return one.owner == owner;
    });
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<OwnedInterface>> List() override {
    return interfaces;
  }
  void Add(const std::string& owner, bool with_way = true) {
    OwnedInterface one{HostInterfaceName(owner), "espalier", owner, 1400, {}};
    if (with_way) one.addresses = {*base::IpAddress::Parse("10.1.0.2")};
    interfaces.push_back(one);
  }

  std::vector<OwnedInterface> interfaces;
  std::string stuck;
};

class RemovalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-pods-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    std::filesystem::create_directories(run_directory().DeletionQueue());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  base::RunDirectory run_directory() const {
    return base::RunDirectory(folder_ + "/run");
  }
  void Checkpoint(const std::string& owner, const std::string& name) {
    ipam::State state;
    state.leases.push_back({owner,
                            {*base::IpAddress::Parse("10.1.0.2")},
                            {{kPodNamespace, "shop"}, {kPodName, name}}});
    std::ofstream(folder_ + "/" + kCheckpointFile)
        << ipam::FormatState(state, "boot");
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    const auto attached =
        AttachedPods(&network_, &files_, folder_, run_directory());
    EXPECT_TRUE(attached.ok()) << attached.status();
    for (const AttachedPod& pod :
         attached.value_or(std::vector<AttachedPod>())) {
      names.push_back(pod.name);
    }
    return names;
  }

  std::string folder_;
  FakeNetwork network_;
  ipam::FileSystem files_;
};

TEST_F(RemovalTest, AttachedIsWhoseInterfaceStands) {
  EXPECT_THAT(Names(), IsEmpty());
  network_.Add(kWeb);
  network_.Add(kDb);
  Checkpoint(kWeb, "web");
  EXPECT_THAT(Names(), ElementsAre("shop/web", "c0ffee02"));
  // Without a checkpoint that can be read they are there all the same.
  std::ofstream(folder_ + "/" + kCheckpointFile) << "{";
  EXPECT_THAT(Names(), ElementsAre("c0ffee01", "c0ffee02"));
}

TEST_F(RemovalTest, ALeaseWithoutAnInterfaceIsNoPod) {
  Checkpoint(kWeb, "web");
  EXPECT_THAT(Names(), IsEmpty());
}

// What the agent would have taken away.
TEST_F(RemovalTest, WhatIsBeingDeletedIsNotAttached) {
  network_.Add(kWeb, /*with_way=*/false);
  network_.Add(kDb);
  std::ofstream(run_directory().DeletionQueue() + "/" +
                base::DeletionFileName("c0ffee02", "eth0"))
      << "x";
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(RemoveInterfaces(&network_).value(), 2u);
  EXPECT_THAT(network_.interfaces, IsEmpty());
  EXPECT_EQ(RemoveInterfaces(&network_).value(), 0u) << "again";
}

TEST_F(RemovalTest, OneThatStaysDoesNotKeepTheOthers) {
  network_.Add(kWeb);
  network_.Add(kDb);
  network_.stuck = kWeb;
  EXPECT_THAT(RemoveInterfaces(&network_).status().message(),
              HasSubstr(HostInterfaceName(kWeb)));
  ASSERT_EQ(network_.interfaces.size(), 1u);
  EXPECT_EQ(network_.interfaces[0].owner, kWeb);
}

}  // namespace
}  // namespace espalier::pods
