// Who holds which addresses.
#ifndef ESPALIER_AGENT_CONTROLLER_HOLDINGS_H_
#define ESPALIER_AGENT_CONTROLLER_HOLDINGS_H_

#include <map>
#include <string>

#include "agent/base/ip_address.h"

namespace espalier::controller {

// Disjoint blocks with their owners; each call is logarithmic.
class Holdings {
 public:
  // The owner of some block that overlaps `block`; null when it is free.
  const std::string* HolderOf(const base::IpPrefix& block) const {
    // Blocks are disjoint: the last one that begins no later than `block`
    // ends is the only candidate that need be looked at.
    auto after = blocks_.upper_bound(block.Last());
    if (after == blocks_.begin()) return nullptr;
    --after;
    // The map's order puts all of IPv4 before IPv6.
    if (after->second.block.family() != block.family()) return nullptr;
    return after->second.block.Overlaps(block) ? &after->second.owner : nullptr;
  }
  // False, and nothing changes, when some of it is held already.
  bool Take(const base::IpPrefix& block, const std::string& owner) {
    if (HolderOf(block) != nullptr) return false;
    blocks_.emplace(block.First(), Held{block, owner});
    return true;
  }

 private:
  struct Held {
    base::IpPrefix block;
    std::string owner;
  };
  std::map<base::IpAddress, Held> blocks_;  // by their first address
};

}  // namespace espalier::controller

#endif  // ESPALIER_AGENT_CONTROLLER_HOLDINGS_H_
