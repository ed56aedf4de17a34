#include "cni/plugin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace espalier::cni {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What the agent and the run directory do, and what they were asked.
struct World {
  absl::Status transport;
  v1::AddResponse add;
  v1::DeleteResponse remove;
  v1::CheckResponse check;
  v1::CollectGarbageResponse collect;
  v1::StatusResponse status;
  absl::Status queue_status;
  std::optional<absl::Duration> heartbeat_age;

  int calls = 0;
  v1::AddRequest add_request;
  v1::CheckRequest check_request;
  v1::CollectGarbageRequest collect_request;
  std::vector<std::string> queued;
  std::string run_directory;
};

class FakeAgent : public AgentClient {
 public:
  explicit FakeAgent(World* world) : world_(world) {}
  absl::Status Add(const v1::AddRequest& request,
                   v1::AddResponse* response) override {
    world_->add_request = request;
    return Answer(world_->add, response);
  }
  absl::Status Delete(const v1::DeleteRequest&,
                      v1::DeleteResponse* response) override {
    return Answer(world_->remove, response);
  }
  absl::Status Check(const v1::CheckRequest& request,
                     v1::CheckResponse* response) override {
    world_->check_request = request;
    return Answer(world_->check, response);
  }
  absl::Status CollectGarbage(const v1::CollectGarbageRequest& request,
                              v1::CollectGarbageResponse* response) override {
    world_->collect_request = request;
    return Answer(world_->collect, response);
  }
  absl::Status Status(const v1::StatusRequest&,
                      v1::StatusResponse* response) override {
    return Answer(world_->status, response);
  }

 private:
  template <typename T>
  absl::Status Answer(const T& value, T* response) {
    ++world_->calls;
    *response = value;
    return world_->transport;
  }
  World* world_;
};

class FakeFiles : public RunFiles {
 public:
  explicit FakeFiles(World* world) : RunFiles("/nowhere"), world_(world) {}
  absl::Status QueueDeletion(const v1::DeleteRequest& request) override {
    if (world_->queue_status.ok()) {
      world_->queued.push_back(request.attachment().container_id());
    }
    return world_->queue_status;
  }
  std::optional<absl::Duration> HeartbeatAge() override {
    return world_->heartbeat_age;
  }

 private:
  World* world_;
};

class PluginTest : public ::testing::Test {
 protected:
  Output Run(const std::string& command, const std::string& input) {
    std::map<std::string, std::string> variables = {
        {"CNI_COMMAND", command},
        {"CNI_CONTAINERID", "c1"},
        {"CNI_NETNS", "/ns"},
        {"CNI_IFNAME", "eth0"},
        {"CNI_ARGS", "K8S_POD_NAME=p;K8S_POD_NAMESPACE=n;K8S_POD_UID=u"}};
    return cni::Run({
        .environment =
            [&variables](const char* name) { return variables[name]; },
        .read_input =
            [this, &input](std::string* out) {
              *out = input;
              return input_status_;
            },
        .connect =
            [this](const std::string& run_directory) {
              world_.run_directory = run_directory;
              return std::make_unique<FakeAgent>(&world_);
            },
        .files =
            [this](const std::string&) {
              return std::make_unique<FakeFiles>(&world_);
            },
    });
  }
  Output Run(const std::string& command) {
    return Run(command, Config("1.1.0"));
  }

  static std::string Config(const std::string& version,
                            const std::string& more = "") {
    return R"({"cniVersion":")" + version + R"(","name":"net","type":"x")" +
           more + "}";
  }

  static void ExpectError(const Output& output, uint32_t code,
                          const std::string& part,
                          const std::string& version = "1.1.0") {
    EXPECT_EQ(output.exit_code, 1);
    const json error = json::parse(output.standard_output);
    EXPECT_EQ(error["code"], code) << output.standard_output;
    EXPECT_EQ(error["cniVersion"], version);
    EXPECT_THAT(output.standard_output, HasSubstr(part));
  }

  static v1::Error AgentError(uint32_t code) {
    v1::Error error;
    error.set_code(code);
    error.set_message("what failed");
    error.set_details("why");
    return error;
  }

  World world_;
  absl::Status input_status_;
};

TEST_F(PluginTest, AddAsksTheAgentAndPrintsTheResult) {
  world_.add.mutable_attachment()->mutable_pod_interface()->set_name("eth0");
  const Output output =
      Run("ADD", Config("0.4.0", R"(,"runDirectory":"/run/other")"));
  EXPECT_EQ(output.exit_code, 0);
  const json result = json::parse(output.standard_output);
  EXPECT_EQ(result["cniVersion"], "0.4.0");
  EXPECT_EQ(result["interfaces"][1]["sandbox"], "/ns");
  EXPECT_EQ(world_.run_directory, "/run/other");
  EXPECT_EQ(world_.add_request.network(), "net");
  EXPECT_EQ(world_.add_request.attachment().container_id(), "c1");
  EXPECT_EQ(world_.add_request.attachment().interface_name(), "eth0");
  EXPECT_EQ(world_.add_request.network_namespace(), "/ns");
  EXPECT_EQ(world_.add_request.pod().namespace_(), "n");
  EXPECT_EQ(world_.add_request.pod().name(), "p");
  EXPECT_EQ(world_.add_request.pod().uid(), "u");
}

TEST_F(PluginTest, AddMustBeFirstOfTheList) {
  ExpectError(Run("ADD", Config("1.0.0", R"(,"prevResult":{})")), 7,
              "prevResult", "1.0.0");
  EXPECT_EQ(world_.calls, 0);
}

TEST_F(PluginTest, AddPassesTheAgentsErrorOn) {
  *world_.add.mutable_error() = AgentError(101);
  ExpectError(Run("ADD"), 101, "what failed");
  // An answer without a code is still an error.
  *world_.add.mutable_error() = AgentError(0);
  ExpectError(Run("ADD"), 100, "what failed");
  world_.add.Clear();
  ExpectError(Run("ADD"), 100, "answered ADD with nothing");
}

TEST_F(PluginTest, AddWithoutAgentIsToBeTriedAgain) {
  world_.transport = absl::UnavailableError("no such file");
  ExpectError(Run("ADD"), 11, "/run/espalier/cni.sock");
  world_.transport = absl::DeadlineExceededError("30 s");
  ExpectError(Run("ADD"), 11, "in time");
  world_.transport = absl::UnimplementedError("no such method");
  ExpectError(Run("ADD"), 100, "no such method");
}

TEST_F(PluginTest, DelOfAnything) {
  EXPECT_EQ(Run("DEL").exit_code, 0);
  EXPECT_EQ(Run("DEL").standard_output, "");
  // Whatever prevResult holds.
  for (const char* previous : {"null", "7", "[]", R"({"ips":[{}]})"}) {
    EXPECT_EQ(
        Run("DEL", Config("1.0.0", std::string(R"(,"prevResult":)") + previous))
            .exit_code,
        0);
  }
  EXPECT_THAT(world_.queued, ElementsAre());
}

TEST_F(PluginTest, DelWithoutAgentIsQueued) {
  world_.transport = absl::UnavailableError("no such file");
  EXPECT_EQ(Run("DEL").exit_code, 0);
  world_.transport = absl::DeadlineExceededError("20 s");
  EXPECT_EQ(Run("DEL").exit_code, 0);
  world_.transport = absl::OkStatus();
  *world_.remove.mutable_error() = AgentError(11);
  EXPECT_EQ(Run("DEL").exit_code, 0);
  EXPECT_THAT(world_.queued, ElementsAre("c1", "c1", "c1"));
}

TEST_F(PluginTest, DelFailsWhenItWouldBeForgotten) {
  world_.transport = absl::UnavailableError("no such file");
  world_.queue_status = absl::PermissionDeniedError("read-only file system");
  ExpectError(Run("DEL"), 5, "read-only file system");
}

TEST_F(PluginTest, DelThatTheAgentRefusesIsNotQueued) {
  *world_.remove.mutable_error() = AgentError(100);
  ExpectError(Run("DEL"), 100, "what failed");
  EXPECT_THAT(world_.queued, ElementsAre());
}

TEST_F(PluginTest, CheckHandsOverThePreviousResult) {
  const std::string previous = R"(,"prevResult":{"interfaces":[
      {"name":"eth0","mac":"02:00:5e:00:53:01","sandbox":"/ns"}],
      "ips":[{"interface":0,"address":"10.0.0.2/32"}]})";
  EXPECT_EQ(Run("CHECK", Config("0.4.0", previous)).exit_code, 0);
  EXPECT_THAT(world_.check_request.addresses(), ElementsAre("10.0.0.2/32"));
  EXPECT_EQ(world_.check_request.mac(), "02:00:5e:00:53:01");
  *world_.check.mutable_error() = AgentError(102);
  ExpectError(Run("CHECK", Config("1.0.0", previous)), 102, "why", "1.0.0");
  ExpectError(Run("CHECK"), 7, "prevResult");
  ExpectError(Run("CHECK", Config("0.3.1", previous)), 1, "CHECK", "0.3.1");
}

TEST_F(PluginTest, GarbageTellsWhatIsValid) {
  const std::string valid =
      R"(,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}])";
  EXPECT_EQ(Run("GC", Config("1.1.0", valid)).exit_code, 0);
  ASSERT_EQ(world_.collect_request.valid_size(), 1);
  EXPECT_EQ(world_.collect_request.valid(0).container_id(), "a");
  EXPECT_EQ(world_.collect_request.network(), "net");
  EXPECT_TRUE(world_.collect_request.has_valid());
  // An empty list is not the same as none.
  EXPECT_EQ(Run("GC", Config("1.1.0", R"(,"cni.dev/valid-attachments":[])"))
                .exit_code,
            0);
  EXPECT_TRUE(world_.collect_request.has_valid());
  EXPECT_EQ(Run("GC").exit_code, 0);
  EXPECT_FALSE(world_.collect_request.has_valid());
}

TEST_F(PluginTest, StatusToleratesAnAbsentAgentForTwoMinutes) {
  EXPECT_EQ(Run("STATUS").exit_code, 0);
  for (const bool starting : {false, true}) {
    if (starting) {
      world_.transport = absl::OkStatus();
      *world_.status.mutable_error() = AgentError(11);
    } else {
      world_.transport = absl::UnavailableError("no such file");
    }
    world_.heartbeat_age.reset();
    ExpectError(Run("STATUS"), 50, starting ? "what failed" : "cni.sock");
    world_.heartbeat_age = absl::Minutes(2);
    EXPECT_EQ(Run("STATUS").exit_code, 0);
    world_.heartbeat_age = absl::Minutes(2) + absl::Nanoseconds(1);
    ExpectError(Run("STATUS"), 50, "");
  }
}

TEST_F(PluginTest, StatusBelievesAnAgentThatSaysNo) {
  world_.heartbeat_age = absl::Seconds(1);
  *world_.status.mutable_error() = AgentError(50);
  ExpectError(Run("STATUS"), 50, "what failed");
}

TEST_F(PluginTest, VersionNeedsNoAgent) {
  world_.transport = absl::UnavailableError("no such file");
  for (const char* input : {R"({"cniVersion":"0.4.0"})", "", "{}", "x"}) {
    const Output output = Run("VERSION", input);
    EXPECT_EQ(output.exit_code, 0);
    EXPECT_THAT(json::parse(output.standard_output)["supportedVersions"],
                ElementsAre("0.3.1", "0.4.0", "1.0.0", "1.1.0"));
  }
  EXPECT_EQ(json::parse(Run("VERSION", R"({"cniVersion":"0.4.0"})")
                            .standard_output)["cniVersion"],
            "0.4.0");
  EXPECT_EQ(world_.calls, 0);
}

TEST_F(PluginTest, ErrorsBeforeTheAgent) {
  ExpectError(Run("RESIZE"), 4, "CNI_COMMAND");
  ExpectError(Run("ADD", "{"), 6, "JSON");
  ExpectError(Run("ADD", Config("0.2.0")), 1, "0.3.1");
  ExpectError(Run("ADD", R"({"cniVersion":"0.4.0"})"), 7, "name", "0.4.0");
  input_status_ = absl::UnknownError("bad descriptor");
  ExpectError(Run("ADD"), 5, "bad descriptor");
  EXPECT_EQ(world_.calls, 0);
}

}  // namespace
}  // namespace espalier::cni
