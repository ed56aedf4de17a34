#include "agent/guard/block_ranges.h"

#include <algorithm>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"

namespace espalier::guard {
namespace {

using base::IpAddress;
using base::IpPrefix;

// The address one below; not of the lowest.
IpAddress Before(const IpAddress& address) {
  const base::ByteSpan bytes = address.bytes();
  base::Bytes octets(bytes.begin(), bytes.end());
  for (size_t i = octets.size(); i-- > 0;) {
    if (octets[i]-- != 0) break;
  }
  return *IpAddress::FromBytes(octets);
}

std::map<IpPrefix, InsideBlock> Merged(const std::vector<InsideBlock>& blocks,
                                       base::Family family) {
  std::map<IpPrefix, InsideBlock> merged;
  for (const InsideBlock& block : blocks) {
    if (block.prefix.family() != family) continue;
    const auto [it, added] = merged.emplace(block.prefix, block);
    if (added) continue;
    InsideBlock& known = it->second;
    known.pods = known.pods || block.pods;
    known.plaintext_from_disabled &= block.plaintext_from_disabled;
    known.plaintext_from_preferred &= block.plaintext_from_preferred;
    known.plaintext_from_node &= block.plaintext_from_node;
  }
  return merged;
}

}  // namespace

std::vector<BlockRange> RangesOf(const std::vector<InsideBlock>& blocks,
                                 base::Family family) {
  std::vector<BlockRange> ranges;
  struct Open {
    IpAddress last;
    const InsideBlock* block;
  };
  std::vector<Open> open;       // each inside the one before
  std::optional<IpAddress> at;  // first address not yet told; unset: wrapped
  const auto tell = [&](const IpAddress& last, const InsideBlock& block) {
    if (at && *at <= last) ranges.push_back({*at, last, block});
  };
  const auto close = [&] {
    const Open top = open.back();
    open.pop_back();
    tell(top.last, *top.block);
    const IpAddress next = top.last.Plus(1);
    if (next > top.last) {
      at = next;
    } else {
      at.reset();
    }
  };
  // By address, the shorter prefix first: an outer block comes before its
  // inner ones.
  const std::map<IpPrefix, InsideBlock> merged = Merged(blocks, family);
  for (const auto& [prefix, block] : merged) {
    while (!open.empty() && open.back().last < prefix.First()) close();
    if (!open.empty() && prefix.First() > *at) {
      tell(Before(prefix.First()), *open.back().block);
    }
    at = prefix.First();
    open.push_back({prefix.Last(), &block});
  }
  while (!open.empty()) close();
  return ranges;
}

std::vector<std::string> RangesWhere(
    const std::vector<BlockRange>& ranges,
    const std::function<bool(const InsideBlock&)>& holds) {
  std::vector<std::pair<IpAddress, IpAddress>> joined;
  for (const BlockRange& range : ranges) {
    if (!holds(range.block)) continue;
    if (!joined.empty() && joined.back().second.Plus(1) == range.first) {
      joined.back().second = range.last;
    } else {
      joined.emplace_back(range.first, range.last);
    }
  }
  std::vector<std::string> texts;
  for (const auto& [first, last] : joined) {
    texts.push_back(first == last
                        ? first.ToString()
                        : absl::StrCat(first.ToString(), "-", last.ToString()));
  }
  return texts;
}

}  // namespace espalier::guard
