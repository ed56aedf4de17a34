// The network configuration that a runtime writes to standard input.
#ifndef ESPALIER_CNI_NETWORK_CONFIG_H_
#define ESPALIER_CNI_NETWORK_CONFIG_H_

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/base/run_directory.h"
#include "cni/error.h"
#include "cni/invocation.h"
#include "cni/version.h"

namespace espalier::cni {

// What of "prevResult" speaks of one attachment.
struct PreviousAttachment {
  std::string mac;                     // may be empty
  std::vector<std::string> addresses;  // with their prefix lengths
};

struct NetworkConfig {
  Version version = Version::k110;
  std::string name;
  std::string run_directory = base::kDefaultRunDirectory;
  nlohmann::json dns = nlohmann::json::object();  // goes into the result
  nlohmann::json previous_result;                 // null when there is none
  // For GC: container ids with interface names; nullopt when the runtime did
  // not say.
  std::optional<std::vector<std::pair<std::string, std::string>>> valid;
};

// Largest input that is read at all, and the deepest nesting.
inline constexpr size_t kMaxConfigBytes = 8 << 20;
inline constexpr int kMaxConfigDepth = 64;

// "cniVersion" of any JSON object that has it as a text; for VERSION, and for
// the errors of a configuration that is wrong elsewhere.
std::optional<std::string> FindVersion(const std::string& text);

// Errors: 6 when it is no JSON object, 1 for versions that are not supported
// or do not have this command, 2 for fields that Espalier cannot honour, 7 for
// the rest; each names the field.
Outcome<NetworkConfig> ParseNetworkConfig(const std::string& text,
                                          Command command);

// Of the interface `name` inside `network_namespace`. Error 7 when
// prevResult is missing, malformed, or does not speak of it.
Outcome<PreviousAttachment> FindPreviousAttachment(
    const NetworkConfig& config, const std::string& name,
    const std::string& network_namespace);

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_NETWORK_CONFIG_H_
