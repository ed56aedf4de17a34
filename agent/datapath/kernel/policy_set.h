// One tunnel policy as the kernel's SPD holds it, and back.
#ifndef ESPALIER_AGENT_DATAPATH_KERNEL_POLICY_SET_H_
#define ESPALIER_AGENT_DATAPATH_KERNEL_POLICY_SET_H_

#include <vector>

#include "agent/datapath/datapath.h"
#include "agent/netlink/xfrm_types.h"

namespace espalier::datapath {

// Every pair of a local and a remote prefix of one family becomes three
// policies: out, and in and forward, which make the kernel check that what came
// out of an SA is what that peer may send (RFC 4301 5.2). In the order in which
// they may be installed: what admits before what sends. A more specific remote
// prefix gets the better priority.
std::vector<netlink::XfrmPolicy> Expand(const Policy& policy, uint32_t if_id);

// The policy whose Expand() has these out policies; prefixes in order of value,
// each once. `policies` are all of one reqid.
Policy Collapse(const std::vector<netlink::XfrmPolicy>& policies);

// In any order.
bool SamePolicies(std::vector<netlink::XfrmPolicy> a,
                  std::vector<netlink::XfrmPolicy> b);

}  // namespace espalier::datapath

#endif  // ESPALIER_AGENT_DATAPATH_KERNEL_POLICY_SET_H_
