// Takes away what the kernel datapath leaves behind: an agent that ends never
// does.
#ifndef ESPALIER_AGENT_DATAPATH_KERNEL_REMOVAL_H_
#define ESPALIER_AGENT_DATAPATH_KERNEL_REMOVAL_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "agent/netlink/channel.h"

namespace espalier::datapath {

struct RemovedTunnels {
  size_t sas = 0;
  size_t policies = 0;
};
// SAs and policies whose reqid is of Espalier's range, over a NETLINK_XFRM
// channel. The policies last: without its SA a packet that one of them matches
// is dropped. The error of the first that stays.
absl::StatusOr<RemovedTunnels> RemoveTunnels(netlink::Channel* xfrm);

}  // namespace espalier::datapath

#endif  // ESPALIER_AGENT_DATAPATH_KERNEL_REMOVAL_H_
