// Takes away what NodeNetwork and a datapath left, by its marks of ownership
// (ownership.h). Kernel settings stay: others may have come to need them.
#ifndef ESPALIER_AGENT_NETWORK_REMOVAL_H_
#define ESPALIER_AGENT_NETWORK_REMOVAL_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "agent/netlink/channel.h"

namespace espalier::network {

// Deletes the interface through which our routes lead, of kind xfrm or tun; a
// TUN outlives its espalier-espd. With `policy_based` the routes lead through
// the node's uplink, so only `name`, what both datapaths call theirs, counts.
// Returns its name; empty when there is none. FailedPrecondition when `name` is
// of another kind.
absl::StatusOr<std::string> RemoveTunnelInterface(netlink::Channel* channel,
                                                  const std::string& name,
                                                  bool policy_based);

struct RemovedNetwork {
  size_t rules = 0;
  size_t routes = 0;
  size_t addresses = 0;  // those on loopback; others went with their interface
};
// In an order in which no inside traffic finds the uplink before the last of
// it: what leads nowhere goes last. The error of the first that stays.
absl::StatusOr<RemovedNetwork> RemoveRoutes(netlink::Channel* channel);

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_REMOVAL_H_
