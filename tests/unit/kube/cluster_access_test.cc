#include "agent/kube/cluster_access.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kube {
namespace {

using ::testing::HasSubstr;

std::string Text(const base::SecretBytes& secret) {
  return std::string(secret.span().begin(), secret.span().end());
}

class ClusterAccessTest : public ::testing::Test {
 protected:
  ClusterAccessTest() {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              absl::StrCat("kube-access-", getpid());
    std::filesystem::create_directories(folder_);
    SetAddress("10.96.0.1", "443");
  }
  ~ClusterAccessTest() override { std::filesystem::remove_all(folder_); }

  static void SetAddress(const char* host, const char* port) {
    setenv("KUBERNETES_SERVICE_HOST", host, 1);
    setenv("KUBERNETES_SERVICE_PORT", port, 1);
  }
  std::string Write(const std::string& name, const std::string& text) {
    // As kubelet does: the new file takes the old one's place at once.
    std::ofstream(folder_ / (name + ".new")) << text;
    std::filesystem::rename(folder_ / (name + ".new"), folder_ / name);
    return folder_ / name;
  }

  std::filesystem::path folder_;
};

TEST_F(ClusterAccessTest, ServiceAccount) {
  Write("ca.crt", "CA");
  Write("token", "abc.def\n");
  Write("namespace", "espalier-system");
  const auto parts = ClusterAccess::ServiceAccount(folder_);
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(parts->server, "https://10.96.0.1:443");
  EXPECT_EQ(parts->name_space, "espalier-system");
}

TEST_F(ClusterAccessTest, TheServersAddressInBothFamiliesAndByName) {
  SetAddress("fd00::1", "6443");
  EXPECT_EQ(ClusterAccess::ServiceAccount(folder_)->server,
            "https://[fd00::1]:6443");
  SetAddress("api.example.org", "6443");
  EXPECT_EQ(ClusterAccess::ServiceAccount(folder_)->server,
            "https://api.example.org:6443");
  for (const char* wrong : {"", "a/b", "x@y", "a b", "[fd00::1]"}) {
    SetAddress(wrong, "443");
    EXPECT_FALSE(ClusterAccess::ServiceAccount(folder_).ok()) << wrong;
  }
  for (const char* wrong : {"", "0", "65536", "https"}) {
    SetAddress("10.96.0.1", wrong);
    EXPECT_FALSE(ClusterAccess::ServiceAccount(folder_).ok()) << wrong;
  }
}

TEST_F(ClusterAccessTest, OutsideAPodTheErrorTellsWhatToDo) {
  unsetenv("KUBERNETES_SERVICE_HOST");
  const auto parts = ClusterAccess::Find("");
  EXPECT_THAT(parts.status().message(), HasSubstr("kubeconfig"));
}

TEST_F(ClusterAccessTest, RenewedFilesAreReadAndLostOnesRemembered) {
  Write("ca.crt", "CA1");
  const std::string token = Write("token", "one\n");
  ClusterAccess access(*ClusterAccess::ServiceAccount(folder_));
  EXPECT_EQ(Text(access.Read()->token), "one");
  Write("token", "two");
  Write("ca.crt", "CA2");
  absl::StatusOr<Credentials> read = access.Read();
  EXPECT_EQ(Text(read->token), "two");
  EXPECT_EQ(read->ca, "CA2");
  std::filesystem::remove(token);
  EXPECT_EQ(Text(access.Read()->token), "two");
  Write("token", "");
  EXPECT_EQ(Text(access.Read()->token), "two");
}

TEST_F(ClusterAccessTest, WithoutAFileFromTheStartItFails) {
  ClusterAccess access(*ClusterAccess::ServiceAccount(folder_));
  const absl::Status status = access.Read().status();
  EXPECT_THAT(status.message(), HasSubstr("CA certificate"));
  EXPECT_THAT(status.message(), HasSubstr("ca.crt"));
}

// A token with a line end inside would add a header of its own.
TEST_F(ClusterAccessTest, ATokenThatIsNoneIsRefusedAndNotShown) {
  Write("ca.crt", "CA");
  Write("token", "secret\r\nImpersonate-User: admin");
  ClusterAccess access(*ClusterAccess::ServiceAccount(folder_));
  const absl::Status status = access.Read().status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), ::testing::Not(HasSubstr("secret")));
}

TEST_F(ClusterAccessTest, ALongFileIsRefused) {
  Write("token", "t");
  Write("ca.crt", std::string(900000, 'x'));
  ClusterAccess access(*ClusterAccess::ServiceAccount(folder_));
  EXPECT_EQ(access.Read()->ca.size(), 900000u);
  Write("ca.crt", std::string(1200000, 'x'));
  ClusterAccess fresh(*ClusterAccess::ServiceAccount(folder_));
  EXPECT_THAT(fresh.Read().status().message(), HasSubstr("1 MiB"));
}

constexpr char kConfig[] = R"(
apiVersion: v1
kind: Config
current-context: one
contexts:
- name: one
  context: {cluster: c, user: files, namespace: ns}
- name: two
  context: {cluster: c, user: inline}
- name: plugin
  context: {cluster: c, user: plugin}
- name: plain
  context: {cluster: plain, user: inline}
- name: blind
  context: {cluster: blind, user: inline}
- name: lost
  context: {cluster: nowhere, user: inline}
- name: half
  context: {cluster: c, user: half}
clusters:
- name: c
  cluster: {server: "https://127.0.0.1:6443/", certificate-authority: ca.pem, tls-server-name: api}
- name: plain
  cluster: {server: "http://127.0.0.1:6443"}
- name: blind
  cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}
users:
- name: files
  user: {client-certificate: c.pem, client-key: /k.pem, tokenFile: tok, token: unused}
- name: inline
  user: {token: abc, client-certificate-data: QUI=, client-key-data: Q0Q=}
- name: plugin
  user: {exec: {command: aws}}
- name: half
  user: {client-certificate-data: QUI=}
)";

TEST_F(ClusterAccessTest, KubeconfigWithFilesAndWithData) {
  const std::string path = Write("config", kConfig);
  const auto files = ClusterAccess::Kubeconfig(path);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->server, "https://127.0.0.1:6443");
  EXPECT_EQ(files->tls_server_name, "api");
  EXPECT_EQ(files->name_space, "ns");
  EXPECT_EQ(files->ca.file, folder_ / "ca.pem");
  EXPECT_EQ(files->client_certificate.file, folder_ / "c.pem");
  EXPECT_EQ(files->client_key.file, "/k.pem");
  EXPECT_EQ(files->token.file, folder_ / "tok");
  const auto data = ClusterAccess::Kubeconfig(path, "two");
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->name_space, "default");
  EXPECT_EQ(Text(data->token.data), "abc");
  EXPECT_EQ(Text(data->client_certificate.data), "AB");
  EXPECT_EQ(Text(data->client_key.data), "CD");
}

TEST_F(ClusterAccessTest, WhatIsUnsafeOrNotUnderstoodIsRefused) {
  const std::string path = Write("config", kConfig);
  const auto error = [&](const char* context) {
    return std::string(
        ClusterAccess::Kubeconfig(path, context).status().message());
  };
  EXPECT_THAT(error("plain"), HasSubstr("https://"));
  EXPECT_THAT(error("blind"), HasSubstr("insecure-skip-tls-verify"));
  EXPECT_THAT(error("plugin"), HasSubstr("plugin"));
  EXPECT_THAT(error("lost"), HasSubstr("no cluster \"nowhere\""));
  EXPECT_THAT(error("none"), HasSubstr("no context \"none\""));
  EXPECT_THAT(error("half"), HasSubstr("belong together"));
  EXPECT_THAT(ClusterAccess::Kubeconfig("/nonexistent").status().message(),
              HasSubstr("/nonexistent"));
  for (const char* text : {"", "[", "- a", "contexts: 5", "a: *b",
                           "contexts: [1]\ncurrent-context: x",
                           "contexts: {a: b}\ncurrent-context: x"}) {
    EXPECT_FALSE(ClusterAccess::Kubeconfig(Write("bad", text)).ok()) << text;
  }
}

}  // namespace
}  // namespace espalier::kube
