// The CNI server in this process, called through the plugin's own client.
#include "agent/service/cni_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "agent/base/run_directory.h"
#include "cni/agent_client.h"
#include "tests/netns/private_namespace.h"

namespace espalier::service {
namespace {

class CniServerTest : public testing::PrivateNamespaceTest {
 protected:
  void SetUp() override {
    PrivateNamespaceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    std::string pattern = ::testing::TempDir() + "cni-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override {
    if (!root_.empty()) std::filesystem::remove_all(root_);
  }

  CniServer::Options Options() {
    CniServer::Options options;
    options.run_directory = root_ + "/run";
    options.state_directory = root_ + "/state";
    options.settings.mtu = 1400;
    options.settings.pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/24"),
                                  *base::IpPrefix::Parse("fd00::/64")};
    return options;
  }
  std::unique_ptr<cni::AgentClient> Client() {
    return cni::MakeAgentClient(base::RunDirectory(root_ + "/run").CniSocket());
  }
  v1::AddRequest AddRequest(const std::string& id,
                            const testing::OtherNamespace& pod) {
    v1::AddRequest request;
    request.set_network("net");
    request.mutable_attachment()->set_container_id(id);
    request.mutable_attachment()->set_interface_name("eth0");
    request.set_network_namespace(pod.path());
    return request;
  }
  uint32_t StatusCode(cni::AgentClient* client) {
    v1::StatusResponse response;
    const absl::Status status = client->Status({}, &response);
    EXPECT_TRUE(status.ok()) << status;
    return response.error().code();
  }

  std::string root_;
};

TEST_F(CniServerTest, ServesFromTheStartAndAttachesWhenReady) {
  auto server = CniServer::Start(Options());
  ASSERT_TRUE(server.ok()) << server.status();
  const auto client = Client();
  EXPECT_EQ(StatusCode(client.get()), 11u);
  (*server)->SetReady(absl::OkStatus());
  EXPECT_EQ(StatusCode(client.get()), 0u);
  (*server)->SetReady(absl::UnavailableError("not in sync"));
  EXPECT_EQ(StatusCode(client.get()), 11u);
}

TEST_F(CniServerTest, AddsAndDeletesOfManyAtOnce) {
  auto server = CniServer::Start(Options());
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->SetReady(absl::OkStatus());
  constexpr int kPods = 8;
  std::vector<testing::OtherNamespace> pods(kPods);
  std::atomic<int> added = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kPods; ++i) {
    threads.emplace_back([&, i] {
      const auto client = Client();
      v1::AddResponse response;
      const v1::AddRequest request =
          AddRequest("c" + std::to_string(i), pods[static_cast<size_t>(i)]);
      ASSERT_TRUE(client->Add(request, &response).ok());
      if (response.has_attachment()) ++added;
      if (i % 2 == 0) return;
      v1::DeleteRequest remove;
      remove.set_network("net");
      *remove.mutable_attachment() = request.attachment();
      v1::DeleteResponse removed;
      ASSERT_TRUE(client->Delete(remove, &removed).ok());
      EXPECT_FALSE(removed.has_error());
      // Waits for the DEL that is still under way.
      ASSERT_TRUE(client->Add(request, &response).ok());
      EXPECT_TRUE(response.has_attachment());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(added, kPods);
  std::promise<pods::Snapshot> snapshot;
  (*server)->TakeSnapshot(
      [&](pods::Snapshot value) { snapshot.set_value(std::move(value)); });
  EXPECT_THAT(snapshot.get_future().get().pods, ::testing::SizeIs(kPods));
}

TEST_F(CniServerTest, EndsWithCallsUnderWay) {
  auto server = CniServer::Start(Options());
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->SetReady(absl::OkStatus());
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        v1::StatusResponse response;
        (void)Client()->Status({}, &response);
      }
    });
  }
  server->reset();
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(CniServerTest, RefusesWhatCannotBeServed) {
  CniServer::Options options = Options();
  options.settings.pod_cidrs = {*base::IpPrefix::Parse("10.1.0.0/32")};
  EXPECT_FALSE(CniServer::Start(options).ok());
  auto first = CniServer::Start(Options());
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(CniServer::Start(Options()).ok()) << "two at one socket";
}

TEST_F(CniServerTest, ReconfiguresWhileItRuns) {
  auto server = CniServer::Start(Options());
  ASSERT_TRUE(server.ok());
  (*server)->SetReady(absl::OkStatus());
  pods::Settings settings = Options().settings;
  settings.mtu = 1300;
  settings.pod_cidrs.pop_back();
  std::promise<absl::Status> done;
  (*server)->Reconfigure(settings, [&](absl::Status s) { done.set_value(s); });
  EXPECT_TRUE(done.get_future().get().ok());
  testing::OtherNamespace pod;
  v1::AddResponse response;
  ASSERT_TRUE(Client()->Add(AddRequest("c1", pod), &response).ok());
  EXPECT_EQ(response.attachment().addresses_size(), 1);
  EXPECT_EQ(response.attachment().pod_interface().mtu(), 1300u);
}

}  // namespace
}  // namespace espalier::service
