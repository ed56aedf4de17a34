// What nodes may call theirs: addresses and pod CIDRs as their Nodes claim
// them, judged against the cluster's plan and against each other (DESIGN 6).
#ifndef ESPALIER_AGENT_CONTROLLER_VERIFIER_H_
#define ESPALIER_AGENT_CONTROLLER_VERIFIER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/ip_address.h"
#include "agent/kube/objects.h"

namespace espalier::controller {

// Condition types and reasons of EspalierNode's status.
inline constexpr char kVerified[] = "Verified";
inline constexpr char kConflict[] = "Conflict";

struct AddressPlan {
  std::vector<base::IpPrefix> cluster_pod_cidrs;
  // Empty: any unicast address outside the pod CIDRs.
  std::vector<base::IpPrefix> node_cidrs;
};

using Nodes = std::map<std::string, std::shared_ptr<const kube::Node>>;
using EspalierNodes =
    std::map<std::string, std::shared_ptr<const kube::EspalierNode>>;
using Statuses = std::map<std::string, kube::EspalierNode::Status>;

// The status that each EspalierNode should have. An address or a block that
// two Nodes claim stays with the one whose status has it already (and whose
// Node is the same one, by its uid); what nobody has goes to the older Node.
// Both are set by the API server, never by who claims. A Node without an
// EspalierNode holds what it claims, too. An EspalierNode without a Node keeps
// what no Node claims: an absent Node may be a faulty list, and tunnels must
// not end by one.
Statuses Verify(const AddressPlan& plan, const Nodes& nodes,
                const EspalierNodes& espalier_nodes, absl::Time now);

// Whether any address or block of one is inside the other's.
bool Overlap(const kube::EspalierNode::Status& a,
             const kube::EspalierNode::Status& b);

}  // namespace espalier::controller

#endif  // ESPALIER_AGENT_CONTROLLER_VERIFIER_H_
