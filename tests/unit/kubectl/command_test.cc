#include "agent/kubectl/command.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <mutex>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "agent/runtime/loop.h"
#include "agent/service/agent_service.h"
#include "agent/service/grpc_server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kubectl {
namespace {

using ::testing::HasSubstr;

// Called on the loop's thread, looked at on the test's. gRPC orders the two,
// but ThreadSanitizer does not see into Debian's gRPC: hence the lock.
class FakeBackend : public service::AgentBackend {
 public:
  void GetStatus(Done<v1::AgentStatus> done) override {
    const std::lock_guard lock(mutex_);
    done(status_);
  }
  void ListTunnels(Done<v1::ListTunnelsResponse> done) override {
    v1::ListTunnelsResponse response;
    response.add_tunnels()->set_peer("node-b");
    done(response);
  }
  void ShowTunnel(const std::string& peer, Done<v1::Tunnel> done) override {
    if (peer != "node-b") {
      done(absl::NotFoundError("there is no peer 'x'; there are: node-b"));
      return;
    }
    v1::Tunnel tunnel;
    tunnel.set_peer(peer);
    done(tunnel);
  }
  void ListPods(Done<v1::ListPodsResponse> done) override {
    done(v1::ListPodsResponse());
  }
  void ListDrops(Done<v1::ListDropsResponse> done) override {
    v1::ListDropsResponse response;
    v1::Drop* drop = response.add_drops();
    drop->set_pod("shop/web-0");
    drop->set_source("10.244.1.2");
    drop->set_destination("10.244.2.3");
    drop->set_destination_port(443);
    drop->set_reason("plaintext of a required pod towards the inside");
    done(response);
  }
  void Verify(const v1::VerifyRequest& request,
              Done<v1::VerifyResponse> done) override {
    const std::lock_guard lock(mutex_);
    verified_ = request;
    done(proof_);
  }
  void Rekey(const v1::RekeyRequest& request,
             Done<v1::RekeyResponse> done) override {
    const std::lock_guard lock(mutex_);
    rekey_ = request;
    done(v1::RekeyResponse());
  }

  void SetStatus(const v1::AgentStatus& status) {
    const std::lock_guard lock(mutex_);
    status_ = status;
  }
  void SetProof(const v1::VerifyResponse& proof) {
    const std::lock_guard lock(mutex_);
    proof_ = proof;
  }
  v1::VerifyRequest verified() {
    const std::lock_guard lock(mutex_);
    return verified_;
  }
  v1::RekeyRequest rekey() {
    const std::lock_guard lock(mutex_);
    return rekey_;
  }

 private:
  std::mutex mutex_;
  v1::AgentStatus status_;
  v1::RekeyRequest rekey_;
  v1::VerifyRequest verified_;
  v1::VerifyResponse proof_;
};

class CommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-kubectl-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    socket_ = folder_ / "agent.sock";
    thread_ = std::thread([this] { loop_.Run(); });
    auto server = service::GrpcServer::Start(socket_, {&service_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    server_.reset();
    loop_.Stop();
    thread_.join();
    std::filesystem::remove_all(folder_);
  }
  int Run(std::vector<std::string> arguments) {
    out_.str("");
    err_.str("");
    arguments.insert(arguments.begin(), {"--socket", socket_});
    return RunCommand(arguments, out_, err_);
  }

  runtime::Loop loop_;
  FakeBackend backend_;
  service::EventHub hub_;
  service::AgentService service_{&loop_, &backend_, &hub_};
  std::unique_ptr<service::GrpcServer> server_;
  std::filesystem::path folder_;
  std::string socket_;
  std::thread thread_;
  std::ostringstream out_, err_;
};

TEST_F(CommandTest, TunnelsInEveryFormat) {
  EXPECT_EQ(Run({"tunnels"}), kExitOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("PEER"));
  EXPECT_EQ(Run({"tunnels", "-o", "json"}), kExitOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("\"peer\": \"node-b\""));
  EXPECT_EQ(Run({"tunnels", "-o", "yaml"}), kExitOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("- peer: \"node-b\""));
  EXPECT_EQ(Run({"tunnels", "-o", "wide"}), kExitOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("POD-CIDRS"));
  EXPECT_EQ(Run({"tunnels", "-o", "xml"}), kExitUsage);
}

TEST_F(CommandTest, StatusExitsByHealth) {
  v1::AgentStatus status;
  EXPECT_EQ(Run({"status"}), kExitDegraded);
  status.set_ready(true);
  backend_.SetStatus(status);
  EXPECT_EQ(Run({"status"}), kExitOk) << err_.str();
  status.set_tunnels_wanted(2);
  status.set_tunnels_up(1);
  backend_.SetStatus(status);
  EXPECT_EQ(Run({"status"}), kExitDegraded);
  EXPECT_THAT(out_.str(), HasSubstr("1 of 2 up"));
}

TEST_F(CommandTest, DropsAreShown) {
  EXPECT_EQ(Run({"drops"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("shop/web-0"));
  EXPECT_THAT(out_.str(), HasSubstr("10.244.2.3 443"));
  EXPECT_EQ(Run({"drops", "-o", "json"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("\"pod\": \"shop/web-0\""));
}

TEST_F(CommandTest, VerifyEndsWithWhatWasProven) {
  EXPECT_EQ(Run({"verify"}), kExitNotProven);
  EXPECT_EQ(backend_.verified().name(), "");
  v1::VerifyResponse proof;
  proof.set_proven(true);
  backend_.SetProof(proof);
  EXPECT_EQ(Run({"verify"}), kExitNotProven) << "no pod, no proof";
  EXPECT_THAT(out_.str(), HasSubstr("no pod here is `required`"));
  proof.add_pods()->set_proven(true);
  backend_.SetProof(proof);
  EXPECT_EQ(Run({"verify", "shop/web-0"}), kExitOk);
  EXPECT_EQ(backend_.verified().namespace_(), "shop");
  EXPECT_EQ(backend_.verified().name(), "web-0");
  EXPECT_EQ(Run({"verify", "web-0"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("NAMESPACE/NAME"));
}

TEST_F(CommandTest, ShowAndRekeyNeedAPeerThatExists) {
  EXPECT_EQ(Run({"show"}), kExitUsage);
  EXPECT_EQ(Run({"show", "x"}), kExitRefused);
  EXPECT_THAT(err_.str(), HasSubstr("there are: node-b"));
  EXPECT_EQ(Run({"show", "node-b"}), kExitOk);
  EXPECT_EQ(Run({"rekey", "node-b"}), kExitOk);
  EXPECT_EQ(backend_.rekey().what(), v1::RekeyRequest::WHAT_CHILD);
  EXPECT_EQ(Run({"rekey", "node-b", "--ike"}), kExitOk);
  EXPECT_EQ(backend_.rekey().what(), v1::RekeyRequest::WHAT_IKE);
}

TEST_F(CommandTest, UsageAndHelp) {
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_EQ(Run({"tunels"}), kExitUsage);
  EXPECT_EQ(Run({"--help"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("Examples:"));
  EXPECT_THAT(out_.str(), HasSubstr("Exit codes:"));
}

TEST_F(CommandTest, AnAbsentAgentInClearWords) {
  server_.reset();
  EXPECT_EQ(Run({"status"}), kExitNoAgent);
  EXPECT_THAT(err_.str(), HasSubstr("is espalier-agent running"));
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  memcpy(at.sun_path, socket_.data(), socket_.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
  close(fd);
  EXPECT_EQ(Run({"status"}), kExitNoAgent);
  EXPECT_THAT(err_.str(), HasSubstr("ended; see its log"));
}

}  // namespace
}  // namespace espalier::kubectl
