#include "agent/mesh/kubernetes/known_nodes.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/kube/list_watch.h"

namespace espalier::mesh {
namespace {

bool Precedes(const std::string& a, const std::string& b) {
  return kube::CompareVersions(a, b).value_or(0) < 0;
}

// An earlier word of the same object than `held`.
bool IsStale(const kube::EspalierNode& node, const kube::EspalierNode& held) {
  return node.meta.uid == held.meta.uid &&
         (node.meta.generation < held.meta.generation ||
          Precedes(node.meta.resource_version, held.meta.resource_version));
}

// `cidrs` do not overlap: the controller saw to it. So only neighbours can.
bool OverlapsAny(const std::set<base::IpPrefix>& cidrs,
                 const base::IpPrefix& cidr) {
  const auto next = cidrs.lower_bound(cidr);
  return (next != cidrs.end() && next->Overlaps(cidr)) ||
         (next != cidrs.begin() && std::prev(next)->Overlaps(cidr));
}

bool Claims(const kube::EspalierNode& node, const kube::EspalierNode& holder) {
  if (!node.status || !holder.status) return false;
  return std::ranges::any_of(
      node.status->pod_cidrs, [&](const base::IpPrefix& a) {
        return std::ranges::any_of(
            holder.status->pod_cidrs,
            [&](const base::IpPrefix& b) { return a.Overlaps(b); });
      });
}

}  // namespace

void KnownNodes::Restore(std::vector<Node> nodes) {
  for (Node& node : nodes) {
    const std::string name = node->meta.name;
    held_[name] = {std::move(node), std::nullopt};
  }
  ++revision_;
}

bool KnownNodes::IsOlder(const std::string& resource_version) const {
  return !highest_.empty() && Precedes(resource_version, highest_);
}

void KnownNodes::Saw(const std::string& resource_version) {
  if (highest_.empty() || Precedes(highest_, resource_version)) {
    highest_ = resource_version;
  }
}

void KnownNodes::HandleRelist(base::Instant now, const std::vector<Node>& nodes,
                              const std::string& resource_version) {
  told_.clear();
  for (const Node& node : nodes) told_[node->meta.name] = node;
  told_version_ = resource_version;
  Judge(now);
}

std::set<base::IpPrefix> KnownNodes::ToldCidrs() const {
  std::set<base::IpPrefix> cidrs;
  for (const auto& [name, node] : told_) {
    if (!node->status) continue;
    cidrs.insert(node->status->pod_cidrs.begin(),
                 node->status->pod_cidrs.end());
  }
  return cidrs;
}

void KnownNodes::Judge(base::Instant now) {
  older_ = IsOlder(told_version_);
  const std::set<base::IpPrefix> cidrs = ToldCidrs();
  size_t known = 0;
  size_t missing = 0;
  for (const auto& [name, held] : held_) {
    const auto told = told_.find(name);
    // A restarted agent has its own memory to compare with, and no version.
    if (told != told_.end() && IsStale(*told->second, *held.node)) {
      older_ = true;
    }
    if (held.remove_at) continue;
    if (told == told_.end()) {
      // What it had is another's: that is said of it, and no lack of words.
      if (held.node->status &&
          std::ranges::any_of(held.node->status->pod_cidrs,
                              [&](const base::IpPrefix& cidr) {
                                return OverlapsAny(cidrs, cidr);
                              })) {
        continue;
      }
      ++missing;
    }
    ++known;
  }
  if (older_) {
    alarm_ = absl::StrCat(
        "the API server shows an older state than one seen (resourceVersion ",
        told_version_, " after ", highest_,
        "): it was restored, or another answers in its place");
    return;
  }
  if (4 * missing > known) {
    alarm_ = absl::StrCat("the API server lists ", known - missing, " of ",
                          known, " known nodes");
    return;
  }
  alarm_.clear();
  Saw(told_version_);
  for (const auto& [name, node] : told_) Take(now, node);
  bool leaving = false;
  for (auto& [name, held] : held_) {
    if (!told_.contains(name) && !held.remove_at) {
      held.remove_at = now + kRemoveAfter;
    }
    leaving = leaving || held.remove_at;
  }
  if (!leaving) return;
  for (const auto& [name, node] : told_) EndClaimed(*node);
}

void KnownNodes::Take(base::Instant now, const Node& node) {
  Held& held = held_[node->meta.name];
  if (held.node != nullptr && IsStale(*node, *held.node)) return;
  Node taken = node;
  std::optional<base::Instant> remove_at;
  if (!node->status && held.node != nullptr && held.node->status) {
    // Deleted and made anew: until the controller has looked at it again, its
    // tunnels go on as after a deletion. Its keys count at once.
    auto merged = std::make_shared<kube::EspalierNode>(*node);
    merged->status = held.node->status;
    taken = std::move(merged);
    remove_at = held.remove_at.value_or(now + kRemoveAfter);
  }
  if (held.node == nullptr || !(*held.node == *taken)) ++revision_;
  Saw(node->meta.resource_version);
  held = {std::move(taken), remove_at};
}

void KnownNodes::EndClaimed(const kube::EspalierNode& node) {
  const size_t ended = std::erase_if(held_, [&](const auto& entry) {
    return entry.second.remove_at && Claims(node, *entry.second.node);
  });
  if (ended > 0) ++revision_;
}

void KnownNodes::HandlePut(base::Instant now, Node node) {
  told_[node->meta.name] = node;
  if (Precedes(told_version_, node->meta.resource_version)) {
    told_version_ = node->meta.resource_version;
  }
  if (!older_) {
    Take(now, node);
    EndClaimed(*node);
  }
  if (!alarm_.empty()) Judge(now);
}

void KnownNodes::HandleDeleted(base::Instant now, const std::string& name,
                               const std::string& resource_version) {
  told_.erase(name);
  if (Precedes(told_version_, resource_version)) {
    told_version_ = resource_version;
  }
  const auto held = held_.find(name);
  if (!older_ && held != held_.end() && !held->second.remove_at) {
    held->second.remove_at = now + kRemoveAfter;
  }
  if (!alarm_.empty()) Judge(now);
}

void KnownNodes::HandleTimeout(base::Instant now) {
  const size_t removed = std::erase_if(held_, [&](const auto& entry) {
    return entry.second.remove_at && *entry.second.remove_at <= now;
  });
  if (removed > 0) ++revision_;
}

std::optional<base::Instant> KnownNodes::NextTimeout() const {
  std::optional<base::Instant> next;
  for (const auto& [name, held] : held_) {
    if (held.remove_at && (!next || *held.remove_at < *next)) {
      next = held.remove_at;
    }
  }
  return next;
}

const kube::EspalierNode* KnownNodes::Find(const std::string& name) const {
  const auto found = held_.find(name);
  return found == held_.end() ? nullptr : found->second.node.get();
}

const kube::EspalierNode* KnownNodes::Told(const std::string& name) const {
  const auto found = told_.find(name);
  return found == told_.end() ? nullptr : found->second.get();
}

KnownNodes::Nodes KnownNodes::nodes() const {
  Nodes nodes;
  for (const auto& [name, held] : held_) nodes[name] = held.node;
  return nodes;
}

std::set<std::string> LostKeys(const KnownNodes::Nodes& before,
                               const KnownNodes::Nodes& now) {
  std::set<std::string> lost;
  for (const auto& [name, node] : before) {
    const auto found = now.find(name);
    const bool lacks = std::ranges::any_of(
        node->spec.public_keys, [&](const base::Bytes& key) {
          return found == now.end() ||
                 std::ranges::find(found->second->spec.public_keys, key) ==
                     found->second->spec.public_keys.end();
        });
    if (lacks) lost.insert(name);
  }
  return lost;
}

}  // namespace espalier::mesh
