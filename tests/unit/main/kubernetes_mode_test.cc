#include "agent/main/kubernetes_mode.h"

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "agent/mesh/kubernetes/last_known.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_kube_server.h"
#include "tests/unit/mesh/kubernetes/objects.h"

namespace espalier::agent {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

// The server outlives the mode that speaks to it.
class Shared : public kube::Transport {
 public:
  explicit Shared(kube::FakeKubeServer* server) : server_(server) {}
  absl::StatusOr<kube::HttpResponse> Do(const kube::HttpRequest& request,
                                        const Sink& sink) override {
    return server_->Do(request, sink);
  }

 private:
  kube::FakeKubeServer* const server_;
};

class KubernetesModeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-mode-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    server_.Set("/api/v1/namespaces/shop",
                R"({"apiVersion":"v1","kind":"Namespace","metadata":{
                    "name":"shop","annotations":{
                    "espalier.dev/encryption":"required"}}})");
    server_.Set("/api/v1/namespaces/shop/pods/web",
                R"({"apiVersion":"v1","kind":"Pod","metadata":{
                    "name":"web","namespace":"shop"},
                    "spec":{"nodeName":"n1"}})");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<KubernetesMode> Make() {
    absl::StatusOr<mesh::Config> base = mesh::ParseConfig(
        absl::StrCat("cluster: {source: kubernetes, podCIDRs: [10.1.0.0/16]}\n",
                     "stateDirectory: ", folder_, "\n"),
        "agent.yaml", "n1");
    EXPECT_TRUE(base.ok()) << base.status();
    ApiServer server;
    server.transport = std::make_unique<Shared>(&server_);
    auto mode = KubernetesMode::Create({.config_path = "agent.yaml",
                                        .base = *std::move(base),
                                        .patience = absl::Milliseconds(50),
                                        .look_every = absl::Milliseconds(5)},
                                       std::move(server));
    EXPECT_TRUE(mode.ok()) << mode.status();
    return *std::move(mode);
  }
  // As the controller would: after the agent has published.
  void Verify(int i) {
    kube::EspalierNode node = mesh::MakeNode(i);
    const std::string path = absl::StrCat(kube::kEspalierNodes, "/n", i);
    const kube::FakeKubeServer::Json object = server_.Object(path);
    if (!object.is_null()) {
      auto own = kube::Decode<kube::EspalierNode>(object.dump());
      ASSERT_TRUE(own.ok());
      node.spec = own->spec;
    }
    node.meta.uid.clear();
    node.meta.resource_version.clear();
    server_.Set(path, kube::Encode(node));
  }
  std::string Own() {
    return server_.Object(absl::StrCat(kube::kEspalierNodes, "/n1")).dump();
  }
  std::string PodUid() {
    return server_.Object(
        "/api/v1/namespaces/shop/pods/web")["metadata"]["uid"];
  }

  std::string folder_;
  kube::FakeKubeServer server_;
};

TEST_F(KubernetesModeTest, PublishesItsKeyAndWaitsForTheController) {
  Verify(2);
  auto mode = Make();
  std::thread controller([&] {
    // No sooner than the agent has said something, and then some.
    while (
        server_.Object(absl::StrCat(kube::kEspalierNodes, "/n1")).is_null()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    absl::SleepFor(absl::Milliseconds(100));
    Verify(1);
  });
  const absl::StatusOr<mesh::Config> config = mode->Bootstrap();
  controller.join();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->node.addresses.at(0).ToString(), "192.0.2.1");
  EXPECT_EQ(config->node.pod_cidrs.at(0).ToString(), "10.1.1.0/24");
  ASSERT_THAT(config->peers, SizeIs(1));
  EXPECT_EQ(config->peers[0].name, "n2");
  EXPECT_TRUE(config->modes.listed);
  EXPECT_EQ(config->modes.Resolve("shop", "web", PodUid()).encryption,
            base::Mode::kRequired);
  const auto own = kube::Decode<kube::EspalierNode>(Own());
  ASSERT_TRUE(own.ok());
  EXPECT_EQ(own->spec.public_keys.at(0), mode->key()->public_key()->der());
  EXPECT_EQ(own->spec.datapath, "user");
}

TEST_F(KubernetesModeTest, ARestartedAgentPublishesNothingNew) {
  {
    auto mode = Make();
    std::thread controller([&] {
      while (
          server_.Object(absl::StrCat(kube::kEspalierNodes, "/n1")).is_null()) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      Verify(1);
    });
    ASSERT_TRUE(mode->Bootstrap().ok());
    controller.join();
  }
  const size_t before = server_.Requests().size();
  auto mode = Make();
  ASSERT_TRUE(mode->Bootstrap().ok());
  const std::vector<std::string> requests = server_.Requests();
  for (size_t i = before; i < requests.size(); ++i) {
    EXPECT_THAT(requests[i], StartsWith("GET "));
  }
}

mesh::LastKnown Kept() {
  mesh::LastKnown known;
  for (int i : {1, 2}) {
    known.nodes[absl::StrCat("n", i)] = mesh::Share(mesh::MakeNode(i));
  }
  return known;
}

TEST_F(KubernetesModeTest, WithoutTheServerItGoesOnWithWhatItKnew) {
  ipam::FileSystem files;
  ASSERT_TRUE(files
                  .Replace(folder_ + "/cluster.last-known",
                           mesh::FormatLastKnown(Kept()), false)
                  .ok());
  server_.Answer(-1);
  auto mode = Make();
  const absl::StatusOr<mesh::Config> config = mode->Bootstrap();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->peers, SizeIs(1));
  // Never weaker for it: a pod that it does not know is required.
  EXPECT_EQ(config->modes.Resolve("shop", "new", "u").encryption,
            base::Mode::kRequired);
}

TEST_F(KubernetesModeTest, AnEmptyServerTakesNothingFromWhatItKnew) {
  ipam::FileSystem files;
  mesh::LastKnown kept = Kept();
  for (int i = 3; i <= 8; ++i) {
    kept.nodes[absl::StrCat("n", i)] = mesh::Share(mesh::MakeNode(i));
  }
  ASSERT_TRUE(files
                  .Replace(folder_ + "/cluster.last-known",
                           mesh::FormatLastKnown(kept), false)
                  .ok());
  Verify(1);
  auto mode = Make();
  const absl::StatusOr<mesh::Config> config = mode->Bootstrap();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->peers, SizeIs(7));
}

TEST_F(KubernetesModeTest, AskTellsWhatThePodAndItsNamespaceAskFor) {
  auto mode = Make();
  const auto wishes = mode->Ask("shop", "web", PodUid());
  ASSERT_TRUE(wishes.ok()) << wishes.status();
  EXPECT_EQ(wishes->of_namespace.encryption, base::Mode::kRequired);
  EXPECT_EQ(wishes->of_pod, base::PodWish{});
}

TEST_F(KubernetesModeTest, AskRefusesAnotherPodOfTheName) {
  auto mode = Make();
  const auto wishes = mode->Ask("shop", "web", "another");
  EXPECT_THAT(wishes.status().message(), HasSubstr("is another"));
  EXPECT_FALSE(mode->Ask("shop", "gone", "u").ok());
  server_.Remove("/api/v1/namespaces/shop");
  EXPECT_FALSE(mode->Ask("shop", "web", PodUid()).ok());
}

}  // namespace
}  // namespace espalier::agent
