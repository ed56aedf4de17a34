// Narrowing of traffic selectors (RFC 7296 2.9).
#ifndef ESPALIER_AGENT_IKE_TRAFFIC_SELECTORS_H_
#define ESPALIER_AGENT_IKE_TRAFFIC_SELECTORS_H_

#include <vector>

#include "agent/base/security_association.h"

namespace espalier::ike {

using Selectors = std::vector<base::TrafficSelector>;

// All that both lists allow, in the order of `proposed`, without what another
// result already covers. Empty: nothing is common. At most kMaxSelectors.
inline constexpr size_t kMaxSelectors = 64;
Selectors Narrow(const Selectors& proposed, const Selectors& configured);

// Whether each of `answer` lies inside one of `offered`, and there is one: a
// responder may narrow, never widen.
bool IsNarrowing(const Selectors& answer, const Selectors& offered);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TRAFFIC_SELECTORS_H_
