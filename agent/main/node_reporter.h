// Tells people: this node's EspalierNodeReport, and events on pods whose
// traffic was dropped. Both bounded, whatever happens on the node.
#ifndef ESPALIER_AGENT_MAIN_NODE_REPORTER_H_
#define ESPALIER_AGENT_MAIN_NODE_REPORTER_H_

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/random.h"
#include "agent/guard/guard.h"
#include "agent/kube/objects.h"
#include "agent/mesh/mesh.h"
#include "agent/pods/manager.h"

namespace espalier::agent {

// What a report is made of.
struct NodeFacts {
  std::vector<mesh::PeerStatus> peers;
  std::vector<pods::PodInfo> pods;
  std::vector<std::pair<std::string, guard::VerdictCount>> counters;
  std::string datapath;
  // Empty: all is well.
  std::string not_ready;
  std::string guard_problem;
  std::string source_problem;
  int64_t unprotected_pods = 0;
  // Of what others do on the node; their times are set by MakeReport.
  std::vector<kube::Condition> surroundings;
};

// Drops are counted by the mode of the pod that they are about; conditions
// keep their time from `before` while they say the same.
kube::EspalierNodeReport::Status MakeReport(
    const NodeFacts& facts, const kube::EspalierNodeReport::Status& before,
    absl::Time now);

// One thread; no IO.
class NodeReporter {
 public:
  // A report at most so often, and at least, changed or not.
  static constexpr absl::Duration kSoonest = absl::Seconds(60);
  static constexpr absl::Duration kLatest = absl::Minutes(5);
  // Whoever has just installed waits to read that all is well: the report that
  // first says so comes as soon as it is true, if that is so soon.
  static constexpr absl::Duration kSettling = absl::Minutes(2);
  static constexpr absl::Duration kLookEvery = absl::Seconds(2);
  // An event of one pod and reason at most so often, and of the node.
  static constexpr absl::Duration kEventEvery = absl::Minutes(10);
  static constexpr int kEventsAMinute = 10;

  NodeReporter(std::string node, base::RandomSource* random)
      : node_(std::move(node)), random_(random) {}

  // Whether facts are wanted now.
  bool Due(base::Instant now);
  // The report to be written; nullopt when it says nothing new, or may wait.
  std::optional<kube::EspalierNodeReport> Report(base::Instant now,
                                                 absl::Time wall,
                                                 const NodeFacts& facts);

  // The events for drops that came since the last call. `uid_of` is empty for
  // a pod that is not known.
  std::vector<kube::Event> Events(
      base::Instant now, const std::deque<guard::DropEvent>& drops,
      const std::function<std::string(const std::string& pod)>& uid_of);

 private:
  const std::string node_;
  base::RandomSource* const random_;
  base::Instant next_ = absl::InfinitePast();
  base::Instant look_ = absl::InfinitePast();
  base::Instant look_until_ = absl::InfiniteFuture();
  bool in_turn_ = true;   // of what Due said last: by next_, not by look_
  bool settled_ = false;  // all was well once
  base::Instant written_ = absl::InfinitePast();
  kube::EspalierNodeReport::Status last_;
  absl::Time last_drop_ = absl::InfinitePast();
  std::map<std::pair<std::string, std::string>, base::Instant> told_;
  base::Instant minute_ = absl::InfinitePast();
  int this_minute_ = 0;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_NODE_REPORTER_H_
