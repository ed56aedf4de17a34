#include "agent/controller/verifier.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/controller/holdings.h"

namespace espalier::controller {
namespace {

using base::IpAddress;
using base::IpPrefix;
using Status = kube::EspalierNode::Status;

// What is wrong with a node's claims, in the order in which a person would
// look at it.
enum class Fault {
  kNodeMissing,
  kConflict,
  kNoPodCidrs,
  kPodCidrRefused,
  kNoAddress,
  kAddressRefused,
  kUnreadable,
};

const char* ReasonOf(Fault fault) {
  switch (fault) {
    case Fault::kNodeMissing:
      return "NodeMissing";
    case Fault::kConflict:
      return "Conflict";
    case Fault::kNoPodCidrs:
      return "NoPodCIDRs";
    case Fault::kPodCidrRefused:
      return "PodCIDRRefused";
    case Fault::kNoAddress:
      return "NoAddress";
    case Fault::kAddressRefused:
      return "AddressRefused";
    case Fault::kUnreadable:
      break;
  }
  return "Unreadable";
}

struct Claims {
  const kube::Node* node = nullptr;
  const kube::EspalierNode* published = nullptr;  // null: it has no agent
  std::vector<IpAddress> addresses;               // that the plan allows
  std::vector<IpPrefix> pod_cidrs;
  std::multimap<Fault, std::string> faults;

  // What its status has, if that was read from this very Node.
  const Status* held() const {
    return published != nullptr && published->status.has_value() &&
                   published->status->node_uid == node->meta.uid
               ? &*published->status
               : nullptr;
  }
};

bool Inside(const std::vector<IpPrefix>& plan, const IpPrefix& block) {
  return std::any_of(plan.begin(), plan.end(), [&](const IpPrefix& allowed) {
    return allowed.Contains(block);
  });
}

bool Touches(const std::vector<IpPrefix>& plan, const IpPrefix& block) {
  return std::any_of(plan.begin(), plan.end(), [&](const IpPrefix& other) {
    return other.Overlaps(block);
  });
}

std::string Text(const std::vector<IpPrefix>& blocks) {
  return absl::StrJoin(blocks, ",",
                       [](std::string* out, const IpPrefix& block) {
                         *out += block.ToString();
                       });
}

template <typename T>
bool Has(const std::vector<T>& all, const T& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

bool IsUnicast(const IpAddress& address) {
  static const IpPrefix kNever[] = {
      *IpPrefix::Parse("0.0.0.0/8"), *IpPrefix::Parse("127.0.0.0/8"),
      *IpPrefix::Parse("240.0.0.0/4"), *IpPrefix::Parse("::/128"),
      *IpPrefix::Parse("::1/128"),
      // IPv4 in disguise would go past the comparison with the real one.
      *IpPrefix::Parse("::ffff:0:0/96")};
  if (address.IsMulticast() || address.IsLinkLocal()) return false;
  return std::none_of(
      std::begin(kNever), std::end(kNever),
      [&](const IpPrefix& never) { return never.Contains(address); });
}

// The Node's claims as far as the plan allows them.
Claims Read(const AddressPlan& plan, const kube::Node& node,
            const kube::EspalierNode* published) {
  Claims claims{.node = &node, .published = published};
  for (const IpPrefix& block : node.pod_cidrs) {
    if (!Inside(plan.cluster_pod_cidrs, block)) {
      claims.faults.emplace(
          Fault::kPodCidrRefused,
          absl::StrCat("pod CIDR ", block.ToString(),
                       " is not inside clusterPodCIDRs (",
                       Text(plan.cluster_pod_cidrs),
                       "): correct the chart's value or the Node"));
    } else if (!Touches(claims.pod_cidrs, block)) {
      claims.pod_cidrs.push_back(block);
    }
  }
  if (node.pod_cidrs.empty()) {
    claims.faults.emplace(
        Fault::kNoPodCidrs,
        absl::StrCat("Node ", node.meta.name,
                     " has no podCIDRs: kube-controller-manager must run with "
                     "--allocate-node-cidrs=true and --cluster-cidr=",
                     Text(plan.cluster_pod_cidrs)));
  }
  for (const IpAddress& address : node.internal_addresses) {
    const IpPrefix host = IpPrefix::Host(address);
    std::string why;
    if (!IsUnicast(address)) {
      why = "no node can be reached at it";
    } else if (Touches(plan.cluster_pod_cidrs, host)) {
      why = "it is inside clusterPodCIDRs, so a pod's";
    } else if (!plan.node_cidrs.empty() && !Inside(plan.node_cidrs, host)) {
      why = absl::StrCat("it is not inside nodeCIDRs (", Text(plan.node_cidrs),
                         "): correct the chart's value or the Node");
    } else if (!Has(claims.addresses, address)) {
      claims.addresses.push_back(address);
    }
    if (!why.empty()) {
      claims.faults.emplace(
          Fault::kAddressRefused,
          absl::StrCat("address ", address.ToString(), " is refused: ", why));
    }
  }
  if (node.internal_addresses.empty()) {
    claims.faults.emplace(Fault::kNoAddress,
                          absl::StrCat("Node ", node.meta.name,
                                       " has no address of type InternalIP"));
  }
  if (!node.problem.empty()) {
    claims.faults.emplace(
        Fault::kUnreadable,
        absl::StrCat("Node ", node.meta.name, ": ", node.problem));
  }
  return claims;
}

// What of `claims` is in the status already.
void TakeHeld(const Claims& claims, Holdings* holdings) {
  const Status* held = claims.held();
  if (held == nullptr) return;
  const std::string& name = claims.node->meta.name;
  for (const IpAddress& address : claims.addresses) {
    if (Has(held->addresses, address)) {
      holdings->Take(IpPrefix::Host(address), name);
    }
  }
  for (const IpPrefix& block : claims.pod_cidrs) {
    if (Has(held->pod_cidrs, block)) holdings->Take(block, name);
  }
}

// Takes what is free; true when it is the claimant's in the end.
bool Grant(const IpPrefix& block, const std::string& what, Claims* claims,
           Holdings* holdings) {
  const std::string& name = claims->node->meta.name;
  if (holdings->Take(block, name)) return true;
  const std::string& holder = *holdings->HolderOf(block);
  if (holder == name) return true;
  claims->faults.emplace(
      Fault::kConflict,
      absl::StrCat(what, " is held by node ", holder, ", which keeps it; node ",
                   name,
                   " does not get it. Delete the Node that is wrong, or give "
                   "it another"));
  return false;
}

kube::Condition MakeCondition(const char* type, const char* status,
                              std::string reason, std::string message,
                              const std::optional<Status>& before,
                              absl::Time now) {
  // The CRD's bound.
  constexpr size_t kLongest = 2048;
  if (message.size() > kLongest) {
    message.resize(kLongest);
    message += "...";
  }
  kube::Condition condition{
      .type = type,
      .status = status,
      .reason = std::move(reason),
      .message = std::move(message),
      .last_transition = absl::FromUnixSeconds(absl::ToUnixSeconds(now))};
  const kube::Condition* old =
      before.has_value() ? kube::FindCondition(before->conditions, type)
                         : nullptr;
  if (old != nullptr && old->status == condition.status) {
    condition.last_transition = old->last_transition;
  }
  return condition;
}

void AddConditions(const std::multimap<Fault, std::string>& faults,
                   const std::optional<Status>& before, absl::Time now,
                   Status* status) {
  std::vector<std::string> all;
  std::vector<std::string> conflicts;
  for (const auto& [fault, text] : faults) {
    all.push_back(text);
    if (fault == Fault::kConflict) conflicts.push_back(text);
  }
  status->conditions.push_back(MakeCondition(
      kVerified, faults.empty() ? "True" : "False",
      faults.empty() ? "Verified" : ReasonOf(faults.begin()->first),
      absl::StrJoin(all, "; "), before, now));
  status->conditions.push_back(
      MakeCondition(kConflict, conflicts.empty() ? "False" : "True",
                    conflicts.empty() ? "NoConflict" : "HeldByAnotherNode",
                    absl::StrJoin(conflicts, "; "), before, now));
}

Status WithoutNode(const kube::EspalierNode& published, absl::Time now,
                   Holdings* holdings) {
  const std::string& name = published.meta.name;
  std::multimap<Fault, std::string> faults;
  faults.emplace(Fault::kNodeMissing,
                 absl::StrCat("there is no Node ", name,
                              ": this object is deleted when that lasts"));
  Status status;
  if (published.status.has_value()) {
    status.node_uid = published.status->node_uid;
    for (const IpAddress& address : published.status->addresses) {
      if (holdings->Take(IpPrefix::Host(address), name)) {
        status.addresses.push_back(address);
      }
    }
    for (const IpPrefix& block : published.status->pod_cidrs) {
      if (holdings->Take(block, name)) status.pod_cidrs.push_back(block);
    }
  }
  AddConditions(faults, published.status, now, &status);
  return status;
}

}  // namespace

Statuses Verify(const AddressPlan& plan, const Nodes& nodes,
                const EspalierNodes& espalier_nodes, absl::Time now) {
  std::vector<Claims> all;
  for (const auto& [name, node] : nodes) {
    const auto published = espalier_nodes.find(name);
    all.push_back(Read(
        plan, *node,
        published == espalier_nodes.end() ? nullptr : published->second.get()));
  }
  std::sort(all.begin(), all.end(), [](const Claims& a, const Claims& b) {
    return std::tie(a.node->meta.created, a.node->meta.name) <
           std::tie(b.node->meta.created, b.node->meta.name);
  });
  Holdings holdings;
  for (const Claims& claims : all) TakeHeld(claims, &holdings);
  Statuses statuses;
  for (Claims& claims : all) {
    Status status;
    status.node_uid = claims.node->meta.uid;
    for (const IpAddress& address : claims.addresses) {
      if (Grant(IpPrefix::Host(address),
                absl::StrCat("address ", address.ToString()), &claims,
                &holdings)) {
        status.addresses.push_back(address);
      }
    }
    for (const IpPrefix& block : claims.pod_cidrs) {
      if (Grant(block, absl::StrCat("pod CIDR ", block.ToString()), &claims,
                &holdings)) {
        status.pod_cidrs.push_back(block);
      }
    }
    if (claims.published == nullptr) continue;
    AddConditions(claims.faults, claims.published->status, now, &status);
    statuses.emplace(claims.node->meta.name, std::move(status));
  }
  for (const auto& [name, published] : espalier_nodes) {
    if (nodes.contains(name)) continue;
    statuses.emplace(name, WithoutNode(*published, now, &holdings));
  }
  return statuses;
}

bool Overlap(const kube::EspalierNode::Status& a,
             const kube::EspalierNode::Status& b) {
  const auto blocks = [](const Status& status) {
    std::vector<IpPrefix> all = status.pod_cidrs;
    for (const IpAddress& address : status.addresses) {
      all.push_back(IpPrefix::Host(address));
    }
    return all;
  };
  const std::vector<IpPrefix> others = blocks(b);
  for (const IpPrefix& block : blocks(a)) {
    if (Touches(others, block)) return true;
  }
  return false;
}

}  // namespace espalier::controller
