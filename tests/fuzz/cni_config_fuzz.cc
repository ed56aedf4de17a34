// Standard input of espalier-cni, for every command: any octets give a
// configuration or an error, and the answer is JSON.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cni/network_config.h"
#include "cni/plugin.h"

namespace {

using namespace espalier;  // NOLINT: the test's own

// Answers as an agent that has nothing to say.
class Agent : public cni::AgentClient {
 public:
  absl::Status Add(const v1::AddRequest&, v1::AddResponse* out) override {
    out->mutable_attachment();
    return absl::OkStatus();
  }
  absl::Status Delete(const v1::DeleteRequest&, v1::DeleteResponse*) override {
    return absl::OkStatus();
  }
  absl::Status Check(const v1::CheckRequest&, v1::CheckResponse*) override {
    return absl::OkStatus();
  }
  absl::Status CollectGarbage(const v1::CollectGarbageRequest&,
                              v1::CollectGarbageResponse*) override {
    return absl::OkStatus();
  }
  absl::Status Status(const v1::StatusRequest&, v1::StatusResponse*) override {
    return absl::OkStatus();
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  for (const char* command :
       {"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"}) {
    const cni::Output output = cni::Run({
        .environment = [command](const char* name) -> std::string {
          const std::string variable = name;
          if (variable == "CNI_COMMAND") return command;
          if (variable == "CNI_CONTAINERID") return "c1";
          if (variable == "CNI_IFNAME") return "eth0";
          if (variable == "CNI_NETNS") return "/run/netns/x";
          return "";
        },
        .read_input =
            [&input](std::string* out) {
              *out = input;
              return absl::OkStatus();
            },
        .connect = [](const std::string&) { return std::make_unique<Agent>(); },
        .files =
            [](const std::string& path) {
              return std::make_unique<cni::RunFiles>(path);
            },
    });
    if (!output.standard_output.empty() &&
        !nlohmann::json::accept(output.standard_output)) {
      std::abort();
    }
    if (output.exit_code != 0 && output.standard_output.empty()) std::abort();
  }
  return 0;
}
