#include "agent/datapath/kernel/policy_set.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace espalier::datapath {
namespace {

using netlink::XfrmPolicy;

// In the middle of the range, so that an operator's own policies can stand
// before and behind.
constexpr uint32_t kBasePriority = 0x45000;

auto Order(const XfrmPolicy& policy) {
  return std::tie(policy.way, policy.source, policy.destination, policy.if_id,
                  policy.priority, policy.outer_source,
                  policy.outer_destination, policy.reqid, policy.protocol,
                  policy.mode);
}

bool Before(const XfrmPolicy& a, const XfrmPolicy& b) {
  return Order(a) < Order(b);
}

}  // namespace

std::vector<XfrmPolicy> Expand(const Policy& policy, uint32_t if_id) {
  std::vector<XfrmPolicy> inbound, outbound;
  for (const base::IpPrefix& local : policy.local) {
    for (const base::IpPrefix& remote : policy.remote) {
      if (local.family() != remote.family()) continue;
      XfrmPolicy one;
      one.priority =
          kBasePriority + static_cast<uint32_t>(128 - remote.length());
      one.reqid = policy.reqid;
      one.protocol = policy.protocol;
      one.mode = policy.mode;
      one.if_id = if_id;
      one.way = XfrmPolicy::Way::kOut;
      one.source = local;
      one.destination = remote;
      one.outer_source = policy.outer_source;
      one.outer_destination = policy.outer_destination;
      outbound.push_back(one);
      one.source = remote;
      one.destination = local;
      one.outer_source = policy.outer_destination;
      one.outer_destination = policy.outer_source;
      for (XfrmPolicy::Way way :
           {XfrmPolicy::Way::kIn, XfrmPolicy::Way::kForward}) {
        one.way = way;
        inbound.push_back(one);
      }
    }
  }
  inbound.insert(inbound.end(), outbound.begin(), outbound.end());
  return inbound;
}

Policy Collapse(const std::vector<XfrmPolicy>& policies) {
  Policy result;
  std::set<base::IpPrefix> local, remote;
  for (const XfrmPolicy& policy : policies) {
    result.reqid = policy.reqid;
    if (policy.way != XfrmPolicy::Way::kOut) continue;
    local.insert(policy.source);
    remote.insert(policy.destination);
    result.outer_source = policy.outer_source;
    result.outer_destination = policy.outer_destination;
    result.protocol = policy.protocol;
    result.mode = policy.mode;
  }
  result.local.assign(local.begin(), local.end());
  result.remote.assign(remote.begin(), remote.end());
  return result;
}

bool SamePolicies(std::vector<XfrmPolicy> a, std::vector<XfrmPolicy> b) {
  std::ranges::sort(a, Before);
  std::ranges::sort(b, Before);
  return a == b;
}

}  // namespace espalier::datapath
