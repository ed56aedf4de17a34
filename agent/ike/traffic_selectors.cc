#include "agent/ike/traffic_selectors.h"

#include <algorithm>
#include <optional>

namespace espalier::ike {
namespace {

bool Covered(const Selectors& selectors, const base::TrafficSelector& one) {
  return std::any_of(
      selectors.begin(), selectors.end(),
      [&](const base::TrafficSelector& s) { return s.Contains(one); });
}

}  // namespace

Selectors Narrow(const Selectors& proposed, const Selectors& configured) {
  Selectors result;
  for (const base::TrafficSelector& theirs : proposed) {
    for (const base::TrafficSelector& ours : configured) {
      const std::optional<base::TrafficSelector> common =
          theirs.Intersect(ours);
      if (!common || Covered(result, *common)) continue;
      std::erase_if(result, [&](const base::TrafficSelector& s) {
        return common->Contains(s);
      });
      result.push_back(*common);
      if (result.size() == kMaxSelectors) return result;
    }
  }
  return result;
}

bool IsNarrowing(const Selectors& answer, const Selectors& offered) {
  return !answer.empty() && std::all_of(answer.begin(), answer.end(),
                                        [&](const base::TrafficSelector& s) {
                                          return Covered(offered, s);
                                        });
}

}  // namespace espalier::ike
