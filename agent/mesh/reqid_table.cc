#include "agent/mesh/reqid_table.h"

#include <algorithm>
#include <set>

namespace espalier::mesh {
namespace {

constexpr uint32_t kReqids = base::kOwnedReqidLast - base::kOwnedReqidFirst + 1;

}  // namespace

// FNV-1a: the same in every build, which std::hash is not.
uint32_t ReqidTable::HashOf(const ike::Identity& identity) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto mix = [&](uint8_t octet) {
    hash = (hash ^ octet) * 0x100000001b3;
  };
  mix(static_cast<uint8_t>(identity.type));
  for (uint8_t octet : identity.data) mix(octet);
  return static_cast<uint32_t>((hash ^ (hash >> 32)) % kReqids);
}

void ReqidTable::SetPeers(const std::vector<ike::Identity>& identities) {
  // In the order of the identities, whatever that of the source is.
  const std::set<ike::Identity> wanted(identities.begin(), identities.end());
  std::erase_if(reqids_, [&](const auto& entry) {
    return !wanted.contains(entry.first);
  });
  std::set<base::Reqid> taken;
  for (const auto& [identity, reqid] : reqids_) taken.insert(reqid);
  for (const ike::Identity& identity : wanted) {
    if (reqids_.contains(identity) || taken.size() >= kReqids) continue;
    uint32_t offset = HashOf(identity);
    while (taken.contains(base::Reqid(base::kOwnedReqidFirst + offset))) {
      offset = (offset + 1) % kReqids;
    }
    const base::Reqid reqid(base::kOwnedReqidFirst + offset);
    taken.insert(reqid);
    reqids_[identity] = reqid;
  }
}

}  // namespace espalier::mesh
