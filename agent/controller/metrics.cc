#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/controller/controller.h"

namespace espalier::controller {
namespace {

template <typename T>
void Add(std::string* out, absl::string_view name, absl::string_view type,
         absl::string_view help, T value) {
  absl::StrAppend(out, "# HELP ", name, " ", help, "\n# TYPE ", name, " ", type,
                  "\n", name, " ", value, "\n");
}

}  // namespace

std::string RenderMetrics(const ControllerState& s) {
  std::string out;
  Add(&out, "espalier_controller_leader", "gauge",
      "1 while this replica verifies nodes", s.leader ? 1 : 0);
  Add(&out, "espalier_controller_nodes", "gauge", "EspalierNodes there are",
      s.tally.nodes);
  Add(&out, "espalier_controller_verified_nodes", "gauge",
      "EspalierNodes whose addresses and pod CIDRs are all verified",
      s.tally.verified);
  Add(&out, "espalier_controller_conflicts", "gauge",
      "EspalierNodes that claim what another node holds", s.tally.conflicts);
  Add(&out, "espalier_controller_waiting", "gauge",
      "Objects that are still to be written", s.waiting);
  Add(&out, "espalier_controller_writes_total", "counter",
      "Writes that the API server took", s.counters.writes);
  Add(&out, "espalier_controller_write_failures_total", "counter",
      "Writes that failed and are tried again", s.counters.failures);
  Add(&out, "espalier_controller_stale_writes_total", "counter",
      "Of those, refused because the object had changed meanwhile",
      s.counters.refused_stale);
  Add(&out, "espalier_controller_suspicious_lists_total", "counter",
      "Lists that were older than what was seen, or lost a quarter of it",
      s.counters.suspicious_relists);
  Add(&out, "espalier_controller_weakened_namespaces_total", "counter",
      "Events about weakened namespaces", s.events);
  absl::StrAppend(&out,
                  "# HELP espalier_controller_watch_silent_seconds Since the "
                  "API server last said something; -1: never\n"
                  "# TYPE espalier_controller_watch_silent_seconds gauge\n");
  for (const ControllerState::Watch& watch : s.watches) {
    absl::StrAppend(&out, "espalier_controller_watch_silent_seconds{kind=\"",
                    watch.kind, "\"} ", watch.silent_seconds, "\n");
  }
  absl::StrAppend(&out,
                  "# HELP espalier_controller_watch_events_total Events that "
                  "were taken\n"
                  "# TYPE espalier_controller_watch_events_total counter\n");
  for (const ControllerState::Watch& watch : s.watches) {
    absl::StrAppend(&out, "espalier_controller_watch_events_total{kind=\"",
                    watch.kind, "\"} ", watch.events, "\n");
  }
  return out;
}

}  // namespace espalier::controller
