// nftables, through libnftables.
#ifndef ESPALIER_AGENT_NETWORK_NFTABLES_H_
#define ESPALIER_AGENT_NETWORK_NFTABLES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::network {

// Virtual for tests. In the network namespace of the calling thread.
class Nftables {
 public:
  virtual ~Nftables() = default;
  // Runs commands in nft's language as one transaction and returns what they
  // printed. FailedPrecondition with nft's own text when it refuses.
  virtual absl::StatusOr<std::string> Run(const std::string& commands);
};

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_NFTABLES_H_
