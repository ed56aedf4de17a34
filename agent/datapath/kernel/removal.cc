#include "agent/datapath/kernel/removal.h"

#include <linux/xfrm.h>
#include <netinet/in.h>

#include <utility>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/base/security_association.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/xfrm_types.h"

namespace espalier::datapath {
namespace {

bool Owned(base::Reqid reqid) {
  return reqid.value() >= base::kOwnedReqidFirst &&
         reqid.value() <= base::kOwnedReqidLast;
}

absl::StatusOr<std::vector<netlink::Request>> StateRemovals(
    netlink::Channel* xfrm) {
  ESPALIER_ASSIGN_OR_RETURN(std::vector<netlink::Reply> replies,
                            xfrm->Dump(netlink::DumpStatesRequest()));
  std::vector<netlink::Request> requests;
  for (netlink::Reply& reply : replies) {
    const absl::StatusOr<netlink::XfrmState> state =
        netlink::DecodeState(reply.payload);
    base::Wipe(reply.payload);  // it held keys
    // Larval states (SPI 0) end by themselves within seconds.
    if (!state.ok() || !Owned(state->reqid) || state->spi.value() == 0) {
      continue;
    }
    // The direction is no part of what names it in the kernel.
    const base::SaKey key{base::Direction::kInbound, state->destination,
                          state->spi};
    requests.push_back(netlink::DeleteStateRequest(
        key, state->protocol == IPPROTO_AH ? base::IpsecProtocol::kAh
                                           : base::IpsecProtocol::kEsp));
  }
  return requests;
}

absl::StatusOr<std::vector<netlink::Request>> PolicyRemovals(
    netlink::Channel* xfrm) {
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Reply> replies,
                            xfrm->Dump(netlink::DumpPoliciesRequest()));
  std::vector<netlink::Request> requests;
  for (const netlink::Reply& reply : replies) {
    const absl::StatusOr<netlink::XfrmPolicy> policy =
        netlink::DecodePolicy(reply.payload);
    if (policy.ok() && Owned(policy->reqid)) {
      requests.push_back(netlink::DeletePolicyRequest(*policy));
    }
  }
  return requests;
}

absl::StatusOr<size_t> RemoveAll(
    netlink::Channel* xfrm,
    absl::StatusOr<std::vector<netlink::Request>> requests) {
  ESPALIER_RETURN_IF_ERROR(requests.status());
  const size_t count = requests->size();
  absl::Status first;
  for (const absl::Status& status : xfrm->ExecuteBatch(*std::move(requests))) {
    if (!absl::IsNotFound(status)) first.Update(status);
  }
  ESPALIER_RETURN_IF_ERROR(first);
  return count;
}

}  // namespace

absl::StatusOr<RemovedTunnels> RemoveTunnels(netlink::Channel* xfrm) {
  RemovedTunnels removed;
  ESPALIER_ASSIGN_OR_RETURN(removed.sas, RemoveAll(xfrm, StateRemovals(xfrm)));
  ESPALIER_ASSIGN_OR_RETURN(removed.policies,
                            RemoveAll(xfrm, PolicyRemovals(xfrm)));
  return removed;
}

}  // namespace espalier::datapath
