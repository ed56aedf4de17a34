#include "agent/esp/policy_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::esp {

absl::Status PolicyTable::Set(base::TunnelPolicy policy) {
  ++generation_;
  const auto found = policies_.find(policy.reqid);
  if (found != policies_.end()) {
    RemoveIndex(found->second);
    policies_.erase(found);
  } else if (policies_.size() >= kMaxPolicies) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kMaxPolicies, " policies are held"));
  }
  Index(policy);
  policies_.emplace(policy.reqid, std::move(policy));
  return absl::OkStatus();
}

bool PolicyTable::Remove(base::Reqid reqid) {
  const auto found = policies_.find(reqid);
  if (found == policies_.end()) return false;
  ++generation_;
  RemoveIndex(found->second);
  policies_.erase(found);
  return true;
}

void PolicyTable::Index(const base::TunnelPolicy& policy) {
  for (const base::IpPrefix& remote : policy.remote) {
    auto& reqids = by_remote_[remote];
    if (reqids.empty()) {
      auto& lengths =
          remote.family() == base::Family::kIpv4 ? lengths_v4_ : lengths_v6_;
      ++lengths[remote.length()];
    }
    reqids.push_back(policy.reqid);
  }
}

void PolicyTable::RemoveIndex(const base::TunnelPolicy& policy) {
  for (const base::IpPrefix& remote : policy.remote) {
    const auto entry = by_remote_.find(remote);
    if (entry == by_remote_.end()) continue;
    auto& reqids = entry->second;
    const auto place = std::find(reqids.begin(), reqids.end(), policy.reqid);
    if (place != reqids.end()) reqids.erase(place);
    if (!reqids.empty()) continue;
    by_remote_.erase(entry);
    auto& lengths =
        remote.family() == base::Family::kIpv4 ? lengths_v4_ : lengths_v6_;
    const auto length = lengths.find(remote.length());
    if (length != lengths.end() && --length->second == 0) {
      lengths.erase(length);
    }
  }
}

std::optional<base::Reqid> PolicyTable::Find(const InnerPacket& inner) const {
  const base::IpAddress destination = inner.destination();
  const base::IpAddress source = inner.source();
  const auto& lengths = inner.is_v4() ? lengths_v4_ : lengths_v6_;
  for (const auto& [length, count] : lengths) {
    const auto prefix = base::IpPrefix::Make(destination, length);
    if (!prefix.ok()) continue;
    const auto found = by_remote_.find(*prefix);
    if (found == by_remote_.end()) continue;
    for (const base::Reqid reqid : found->second) {
      const base::TunnelPolicy& policy = policies_.at(reqid);
      if (std::any_of(policy.local.begin(), policy.local.end(),
                      [&](const base::IpPrefix& local) {
                        return local.Contains(source);
                      })) {
        return reqid;
      }
    }
  }
  return std::nullopt;
}

}  // namespace espalier::esp
