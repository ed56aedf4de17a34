#include "absl/strings/str_cat.h"
#include "agent/mesh/config/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::mesh {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kKubernetes[] = R"(cluster:
  source: kubernetes
  podCIDRs: [10.0.0.0/8]
)";

std::string ErrorOf(const std::string& text, const std::string& node = "n1") {
  const absl::StatusOr<Config> config = ParseConfig(text, "f.yaml", node);
  EXPECT_FALSE(config.ok());
  return std::string(config.status().message());
}

TEST(ClusterSource, KubernetesNeedsNoMoreThanPodCidrs) {
  const absl::StatusOr<Config> config =
      ParseConfig(kKubernetes, "f.yaml", "n1");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->source, ClusterSource::kKubernetes);
  EXPECT_EQ(config->node.name, "n1");
  EXPECT_EQ(config->node.identity.type, ike::Identity::Type::kFqdn);
  EXPECT_EQ(std::string(config->node.identity.data.begin(),
                        config->node.identity.data.end()),
            "n1");
  EXPECT_THAT(config->node.addresses, IsEmpty());
  ASSERT_TRUE(config->private_key.has_value());
  EXPECT_EQ(config->private_key->file.path, "/var/lib/espalier/node.key");
  EXPECT_TRUE(config->private_key->generate);
}

TEST(ClusterSource, TheFileNamesTheNodeBeforeTheEnvironmentDoes) {
  const absl::StatusOr<Config> config = ParseConfig(
      absl::StrCat(kKubernetes, "node: {name: other, uplinkMTU: 9000}\n"),
      "f.yaml", "n1");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->node.name, "other");
  EXPECT_EQ(config->node.identity.data, base::Bytes({'o', 't', 'h', 'e', 'r'}));
  EXPECT_EQ(config->node.uplink_mtu, 9000u);
}

TEST(ClusterSource, ANodeWithoutANameIsAnError) {
  EXPECT_THAT(ErrorOf(kKubernetes, ""), HasSubstr("NODE_NAME"));
}

constexpr char kSecure[] =
    "sockets: {secureMetrics: {listen: '[::]:9470', certificateFile: /c, "
    "keyFile: /k}}\n";

TEST(ClusterSource, MetricsForOthersAreOverTls) {
  const absl::StatusOr<Config> config =
      ParseConfig(absl::StrCat(kKubernetes, kSecure), "f.yaml", "n1");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_TRUE(config->secure_metrics.has_value());
  EXPECT_EQ(config->secure_metrics->listen.ToString(), "[::]:9470");
  EXPECT_EQ(config->secure_metrics->certificate_file, "/c");
  EXPECT_EQ(config->secure_metrics->key_file, "/k");
  EXPECT_EQ(config->metrics_listen->ToString(), "127.0.0.1:9469");
  EXPECT_THAT(ErrorOf(absl::StrCat(
                  kKubernetes, "sockets: {secureMetrics: {listen: here}}\n")),
              AllOf(HasSubstr("secureMetrics.listen is 'here'"),
                    HasSubstr("certificateFile is missing"),
                    HasSubstr("keyFile is missing")));
}

TEST(ClusterSource, PlainMetricsStayOnTheNode) {
  for (const char* address : {"0.0.0.0:1", "192.0.2.1:1", "'[::]:1'"}) {
    EXPECT_THAT(ErrorOf(absl::StrCat(kKubernetes,
                                     "sockets: {metrics: ", address, "}\n")),
                HasSubstr("expected a loopback address"));
  }
  for (const char* address :
       {"127.0.0.2:1", "localhost:1", "'[::1]:1'", "none"}) {
    EXPECT_TRUE(ParseConfig(absl::StrCat(kKubernetes,
                                         "sockets: {metrics: ", address, "}\n"),
                            "f.yaml", "n1")
                    .ok());
  }
}

TEST(ClusterSource, AFileKnowsNobodyWhoAsksForMetrics) {
  EXPECT_THAT(ErrorOf(absl::StrCat("node: {name: a}\n", kSecure)),
              HasSubstr("known by the API server alone"));
}

TEST(ClusterSource, TheKeyFollowsTheStateDirectory) {
  const absl::StatusOr<Config> config = ParseConfig(
      absl::StrCat(kKubernetes, "stateDirectory: /state\n"), "f.yaml", "n1");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->private_key->file.path, "/state/node.key");
}

TEST(ClusterSource, WhatTheApiServerAnswersForIsNotTakenFromTheFile) {
  const std::string error = ErrorOf(absl::StrCat(kKubernetes, R"(node:
  addresses: [192.0.2.1]
  podCIDRs: [10.1.0.0/24]
  identity: "fqdn:x"
modes:
  namespaces: {a: {encryption: required}}
  pods: {a/b: {encryption: required}}
peers: []
auth: {pskFile: x}
)"));
  for (const char* field :
       {"f.yaml:5:14: node.addresses is not for", "node.podCIDRs is not for",
        "node.identity is not for", "modes.namespaces is not for",
        "modes.pods is not for", "peers is not for", "auth is not for"}) {
    EXPECT_THAT(error, HasSubstr(field));
  }
}

TEST(ClusterSource, DefaultModeStaysWithTheFile) {
  const absl::StatusOr<Config> config =
      ParseConfig(absl::StrCat(kKubernetes, "modes: {default: required}\n"),
                  "f.yaml", "n1");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->modes.default_mode, base::Mode::kRequired);
}

TEST(ClusterSource, UnknownSourceAndStrayKubernetesAreErrors) {
  EXPECT_THAT(ErrorOf("cluster: {source: kubernets, podCIDRs: [10.0.0.0/8]}\n"),
              HasSubstr("cluster.source"));
  EXPECT_THAT(ErrorOf(R"(node: {name: a, addresses: [192.0.2.1], podCIDRs: []}
cluster: {podCIDRs: [10.0.0.0/8]}
kubernetes: {kubeconfig: /k}
)"),
              HasSubstr("cluster.source is 'file'"));
}

TEST(ClusterSource, AFileNodeIsNotNamedByTheEnvironment) {
  EXPECT_THAT(ErrorOf(R"(node: {addresses: [192.0.2.1], podCIDRs: []}
cluster: {podCIDRs: [10.0.0.0/8]}
)"),
              HasSubstr("node.name is missing"));
}

}  // namespace
}  // namespace espalier::mesh
