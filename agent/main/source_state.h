// How well this agent hears the API server, for people and for metrics.
#ifndef ESPALIER_AGENT_MAIN_SOURCE_STATE_H_
#define ESPALIER_AGENT_MAIN_SOURCE_STATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/kube/list_watch.h"
#include "agent/service/metrics.h"

namespace espalier::agent {

// A watch that fails for so long is reported.
inline constexpr absl::Duration kWatchStaleAfter = absl::Minutes(3);

struct SourceState {
  // Why the API server is not believed; empty: it is.
  std::string alarm;
  // Of what this node publishes.
  absl::Status published;
  // Of namespaces or pods it has an older state than was seen.
  bool set_back = false;
  struct Watch {
    const char* resource;  // as kubectl names it
    kube::ListWatchStats stats;
  };
  std::vector<Watch> watches;
};

// Empty when all is well.
std::string SourceProblem(base::Instant now, const SourceState& state);

service::MetricsSnapshot::Source SourceMetrics(base::Instant now,
                                               const SourceState& state);

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_SOURCE_STATE_H_
