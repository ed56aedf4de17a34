#include "agent/main/source_state.h"

#include "absl/strings/str_cat.h"

namespace espalier::agent {

std::string SourceProblem(base::Instant now, const SourceState& state) {
  if (!state.alarm.empty()) return state.alarm;
  if (!state.published.ok()) return std::string(state.published.message());
  if (state.set_back) {
    return "the API server's state is older than what was seen: no pod's mode "
           "is weakened by it";
  }
  for (const SourceState::Watch& watch : state.watches) {
    const kube::ListWatchStats& stats = watch.stats;
    if (stats.failures > 0 && now - stats.last_contact > kWatchStaleAfter) {
      return absl::StrCat(watch.resource,
                          " are not watched: ", stats.last_failure.message());
    }
  }
  return "";
}

service::MetricsSnapshot::Source SourceMetrics(base::Instant now,
                                               const SourceState& state) {
  service::MetricsSnapshot::Source source;
  source.current = SourceProblem(now, state).empty();
  for (const SourceState::Watch& watch : state.watches) {
    const base::Instant contact = watch.stats.last_contact;
    service::MetricsSnapshot::Source::Watch& out =
        source.watches.emplace_back();
    out.resource = watch.resource;
    if (contact != absl::InfinitePast()) out.silent = now - contact;
    out.lists = watch.stats.lists;
    out.events = {{"object", watch.stats.events},
                  {"bookmark", watch.stats.bookmarks},
                  {"ignored", watch.stats.ignored}};
    out.bytes = watch.stats.octets;
  }
  return source;
}

}  // namespace espalier::agent
