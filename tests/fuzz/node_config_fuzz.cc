// The standalone configuration: any text gives a configuration, or errors
// that all name their place.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "agent/mesh/config/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<espalier::mesh::Config> config =
      espalier::mesh::ParseConfig(text, "f");
  if (config.ok()) {
    // What is accepted keeps the promises that the rest of the agent rests on.
    if (config->node.name.empty() || config->node.addresses.empty() ||
        config->node.pod_cidrs.empty() || config->cluster_pod_cidrs.empty()) {
      std::abort();
    }
    for (const espalier::mesh::Peer& peer : config->peers) {
      if (peer.name.empty() || peer.addresses.empty() ||
          peer.ike_proposals.empty() || peer.child_proposals.empty()) {
        std::abort();
      }
    }
    return 0;
  }
  if (!absl::IsInvalidArgument(config.status())) std::abort();
  for (absl::string_view line :
       absl::StrSplit(config.status().message(), '\n')) {
    if (!absl::StartsWith(line, "f:")) std::abort();
  }
  return 0;
}
