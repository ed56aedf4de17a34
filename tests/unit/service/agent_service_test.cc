#include "agent/service/agent_service.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "agent/runtime/loop.h"
#include "agent/service/grpc_server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::service {
namespace {

using ::testing::HasSubstr;

class FakeBackend : public AgentBackend {
 public:
  void GetStatus(Done<v1::AgentStatus> done) override {
    on_thread = std::this_thread::get_id();
    v1::AgentStatus status;
    status.set_node("a");
    done(status);
  }
  void ListTunnels(Done<v1::ListTunnelsResponse> done) override {
    v1::ListTunnelsResponse response;
    response.add_tunnels()->set_peer("b");
    done(response);
  }
  void ShowTunnel(const std::string& peer, Done<v1::Tunnel> done) override {
    done(absl::NotFoundError(absl::StrCat("no peer '", peer, "'")));
  }
  void ListPods(Done<v1::ListPodsResponse> done) override {
    done(v1::ListPodsResponse());
  }
  void ListDrops(Done<v1::ListDropsResponse> done) override { done(drops); }
  void Verify(const v1::VerifyRequest& request,
              Done<v1::VerifyResponse> done) override {
    verified = request;
    done(proof);
  }
  v1::ListDropsResponse drops;
  v1::VerifyRequest verified;
  v1::VerifyResponse proof;
  void Rekey(const v1::RekeyRequest& request,
             Done<v1::RekeyResponse> done) override {
    rekeyed = request.peer();
    done(v1::RekeyResponse());
  }
  // Atomic for ThreadSanitizer, which does not see that gRPC orders the two.
  std::atomic<std::thread::id> on_thread;
  std::string rekeyed;
};

class AgentServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-service-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    // Another user must be able to come as far as the socket.
    ASSERT_EQ(chmod(pattern.c_str(), 0755), 0);
    path_ = folder_ / "agent.sock";
    thread_ = std::thread([this] { loop_.Run(); });
  }
  void TearDown() override {
    hub_.End();
    server_.reset();
    loop_.Stop();
    thread_.join();
    std::filesystem::remove_all(folder_);
  }
  void Start() {
    auto server = GrpcServer::Start(path_, {&service_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::Agent::NewStub(grpc::CreateChannel(
        absl::StrCat("unix:", path_), grpc::InsecureChannelCredentials()));
  }

  runtime::Loop loop_;
  FakeBackend backend_;
  EventHub hub_;
  AgentService service_{&loop_, &backend_, &hub_};
  std::filesystem::path folder_;
  std::string path_;
  std::thread thread_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::Agent::Stub> stub_;
};

TEST_F(AgentServiceTest, AnswersFromTheLoopsThread) {
  Start();
  grpc::ClientContext context;
  v1::AgentStatus status;
  ASSERT_TRUE(stub_->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.node(), "a");
  EXPECT_EQ(backend_.on_thread.load(), thread_.get_id());
}

TEST_F(AgentServiceTest, ErrorsKeepTheirCodeAndWords) {
  Start();
  grpc::ClientContext context;
  v1::ShowTunnelRequest request;
  request.set_peer("z");
  v1::Tunnel tunnel;
  const grpc::Status status = stub_->ShowTunnel(&context, request, &tunnel);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no peer 'z'");
  grpc::ClientContext second;
  v1::RekeyResponse response;
  EXPECT_EQ(stub_->Rekey(&second, {}, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(backend_.rekeyed, "");
}

TEST_F(AgentServiceTest, WatchCarriesEventsUntilTheEnd) {
  Start();
  grpc::ClientContext context;
  auto reader = stub_->Watch(&context, {});
  reader->WaitForInitialMetadata();
  v1::Event event;
  event.set_kind("ike-sa-up");
  hub_.Publish(event);
  v1::Event got;
  ASSERT_TRUE(reader->Read(&got));
  EXPECT_EQ(got.kind(), "ike-sa-up");
  hub_.End();
  EXPECT_FALSE(reader->Read(&got));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(AgentServiceTest, TheSocketIsItsOwnersAlone) {
  Start();
  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  server_.reset();
  EXPECT_NE(stat(path_.c_str(), &info), 0);
}

// What a connection of that user comes to: 0 refused or closed, 1 served.
int ServedAs(uid_t uid, const std::string& path) {
  const pid_t child = fork();
  if (child == 0) {
    if (uid != geteuid() && setuid(uid) != 0) _exit(9);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    memcpy(to.sun_path, path.data(), path.size());
    if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) {
      _exit(0);
    }
    // An HTTP/2 server speaks first: its SETTINGS frame.
    char c;
    _exit(read(fd, &c, 1) == 1 ? 1 : 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(AgentServiceTest, OtherUsersAreRefusedEvenWhereTheModeLetsThemIn) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  Start();
  EXPECT_EQ(ServedAs(65534, path_), 0);
  ASSERT_EQ(chmod(path_.c_str(), 0666), 0);
  EXPECT_EQ(ServedAs(65534, path_), 0);
  // The control: the same steps as root are served.
  EXPECT_EQ(ServedAs(0, path_), 1);
}

TEST_F(AgentServiceTest, ASocketLeftBehindIsReplacedALiveOneIsNot) {
  Start();
  AgentService other(&loop_, &backend_, &hub_);
  auto second = GrpcServer::Start(path_, {&other});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("already"));
  const std::string stale = folder_ / "stale.sock";
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  memcpy(at.sun_path, stale.data(), stale.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
  close(fd);
  EXPECT_TRUE(GrpcServer::Start(stale, {&other}).ok());
  const std::string file = folder_ / "file";
  std::ofstream(file) << "precious";
  EXPECT_EQ(GrpcServer::Start(file, {&other}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(std::filesystem::exists(file));
}

}  // namespace
}  // namespace espalier::service
