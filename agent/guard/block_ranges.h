// Blocks of which the longest prefix decides, as ranges that do not overlap:
// for matchers that know no longest prefix.
#ifndef ESPALIER_AGENT_GUARD_BLOCK_RANGES_H_
#define ESPALIER_AGENT_GUARD_BLOCK_RANGES_H_

#include <functional>
#include <string>
#include <vector>

#include "agent/guard/guard.h"

namespace espalier::guard {

struct BlockRange {
  base::IpAddress first;
  base::IpAddress last;
  InsideBlock block;  // the one that decides there
};

// Of one family, in the order of their addresses. Of two blocks with the same
// prefix the stricter decides in each respect.
std::vector<BlockRange> RangesOf(const std::vector<InsideBlock>& blocks,
                                 base::Family family);

// The addresses of the ranges that `holds` is true for, neighbours joined, as
// "FIRST-LAST" or "ADDRESS".
std::vector<std::string> RangesWhere(
    const std::vector<BlockRange>& ranges,
    const std::function<bool(const InsideBlock&)>& holds);

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_BLOCK_RANGES_H_
