// nftables, through libnftables.
#ifndef ESPALIER_AGENT_NETLINK_NFTABLES_H_
#define ESPALIER_AGENT_NETLINK_NFTABLES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace espalier::netlink {

// Virtual for tests. In the network namespace of the calling thread.
class Nftables {
 public:
  virtual ~Nftables() = default;
  // Runs commands in nft's language as one transaction and returns what they
  // printed. FailedPrecondition with nft's own text when it refuses.
  virtual absl::StatusOr<std::string> Run(const std::string& commands);
  // The same; what is listed comes without the values of counters, so that two
  // lists of a table that nobody changed are equal.
  virtual absl::StatusOr<std::string> RunStateless(const std::string& commands);
};

// Deletes the table inet `name`; whether it was there.
absl::StatusOr<bool> RemoveTable(Nftables* nftables, const std::string& name);

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_NFTABLES_H_
