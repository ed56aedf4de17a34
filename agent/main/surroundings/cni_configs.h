// The network configurations beside ours in the container runtime's folder.
#ifndef ESPALIER_AGENT_MAIN_SURROUNDINGS_CNI_CONFIGS_H_
#define ESPALIER_AGENT_MAIN_SURROUNDINGS_CNI_CONFIGS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace espalier::agent {

inline constexpr char kConflistName[] = "00-espalier.conflist";

// One that attaches pods without Espalier.
struct ForeignCniConfig {
  std::string file;
  std::string network;  // its name; empty when it cannot be read
  // A runtime takes the first it can read, in the order of names.
  bool before_ours = false;
  friend bool operator==(const ForeignCniConfig&,
                         const ForeignCniConfig&) = default;
};

struct CniConfigs {
  std::vector<ForeignCniConfig> foreign;  // in the order of names
  // A list that chains the bandwidth plugin behind espalier-cni; empty: none.
  std::string with_bandwidth;
  friend bool operator==(const CniConfigs&, const CniConfigs&) = default;
};

// As libcni reads it: files *.conf, *.conflist and *.json, in the order of
// their names. A list that only makes loopback is no network. Bounded: of more
// than kMostCniConfigs files the first are read.
inline constexpr size_t kMostCniConfigs = 256;
absl::StatusOr<CniConfigs> ReadCniConfigs(const std::string& folder);

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_SURROUNDINGS_CNI_CONFIGS_H_
