#include "agent/main/reload.h"

#include <fstream>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/source_dir.h"

namespace espalier::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(StartOnlyChanges, PeersAndLogLevelAreNotAmongThem) {
  mesh::Config running;
  mesh::Config wanted;
  wanted.peers.emplace_back();
  wanted.log_level = base::LogLevel::kDebug;
  wanted.timers.grace = absl::Seconds(1);
  wanted.cluster_pod_cidrs.push_back(*base::IpPrefix::Parse("10.0.0.0/8"));
  EXPECT_THAT(StartOnlyChanges(running, wanted), IsEmpty());
}

TEST(StartOnlyChanges, NamesFieldsAsTheFileDoes) {
  mesh::Config running;
  mesh::Config wanted;
  wanted.node.uplink_mtu = 9000;
  wanted.lifetimes.child.soft_bytes = 1;
  wanted.metrics_listen = base::Endpoint{base::IpAddress(), 1};
  wanted.key_log_directory = "/tmp/x";
  EXPECT_THAT(StartOnlyChanges(running, wanted),
              ElementsAre("node.uplinkMTU", "lifetimes.child.rekeyAfterBytes",
                          "sockets.metrics", "keyLogDirectory"));
}

// With everything different, the list is what docs/configuration.md marks as
// read at the start.
TEST(StartOnlyChanges, IsWhatTheDocumentationSays) {
  std::ifstream stream(testing::InSource("docs/configuration.md"));
  ASSERT_TRUE(stream.good());
  std::set<std::string> documented;
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind("| `", 0) == 0 && line.size() > 9 &&
        line.substr(line.size() - 9) == "| start |") {
      documented.insert(line.substr(3, line.find('`', 3) - 3));
    }
  }
  // Read at the start and not compared: it matters only while there is no key.
  documented.erase("auth.generatePrivateKey");
  mesh::Config a;
  mesh::Config b;
  b.source = mesh::ClusterSource::kKubernetes;
  b.kubeconfig = "k";
  b.node.name = "b";
  b.node.identity.data = {1};
  b.node.addresses.emplace_back();
  b.node.pod_cidrs.emplace_back();
  b.node.uplink_mtu = 1;
  b.private_key.emplace().file.path = "k";
  b.lifetimes.ike_soft = b.lifetimes.ike_hard = absl::Seconds(1);
  b.lifetimes.child = {absl::Seconds(1), absl::Seconds(1), 1, 1, 1, 1};
  b.timers = {
      absl::Seconds(1), absl::Seconds(1), absl::Seconds(1), absl::Seconds(1),
      absl::Seconds(1), absl::Seconds(1), absl::Seconds(1), 1};
  b.fragment_size = b.cookie_threshold = 1;
  b.crypto_threads = 9;
  b.replay_window = 1;
  b.guard = {.bpf = mesh::GuardBpf::kOff, .nftables = false};
  b.datapath_driver = mesh::DatapathDriver::kAuto;
  b.kernel_routing = mesh::KernelRouting::kPolicyBased;
  b.per_cpu_sas = 1;
  b.espd_socket = b.run_directory = b.state_directory = "/x";
  b.key_log_directory = "/x";
  b.metrics_listen = base::Endpoint{base::IpAddress(), 1};
  b.secure_metrics = {*b.metrics_listen, "/c", "/k"};
  const std::vector<std::string> changed = StartOnlyChanges(a, b);
  EXPECT_EQ(std::set<std::string>(changed.begin(), changed.end()), documented);
}

}  // namespace
}  // namespace espalier::agent
