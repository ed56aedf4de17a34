#include "agent/main/node_reporter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace espalier::agent {
namespace {

constexpr size_t kMaxTold = 4096;

void AddCondition(kube::Condition condition,
                  const kube::EspalierNodeReport::Status& before,
                  absl::Time now, kube::EspalierNodeReport::Status* out) {
  condition.message = condition.message.substr(0, 1000);
  condition.last_transition = now;
  const kube::Condition* known =
      kube::FindCondition(before.conditions, condition.type);
  if (known != nullptr && known->status == condition.status) {
    condition.last_transition = known->last_transition;
  }
  out->conditions.push_back(std::move(condition));
}

void AddCondition(const char* type, const std::string& problem,
                  const char* reason,
                  const kube::EspalierNodeReport::Status& before,
                  absl::Time now, kube::EspalierNodeReport::Status* out) {
  AddCondition({.type = type,
                .status = problem.empty() ? "True" : "False",
                .reason = problem.empty() ? "AsExpected" : reason,
                .message = problem},
               before, now, out);
}

bool AllIsWell(const kube::EspalierNodeReport::Status& status) {
  return status.tunnels.up == status.tunnels.wanted &&
         std::ranges::none_of(status.conditions,
                              [](const kube::Condition& condition) {
                                return condition.status == "False";
                              });
}

std::string Packet(const guard::DropEvent& drop) {
  if (!drop.source || !drop.destination) return "";
  const auto end = [](const base::IpAddress& address, uint16_t port) {
    return port == 0 ? address.ToString()
                     : base::Endpoint{address, port}.ToString();
  };
  return absl::StrCat(": ", end(*drop.source, drop.source_port), " to ",
                      end(*drop.destination, drop.destination_port),
                      ", protocol ", drop.protocol);
}

}  // namespace

kube::EspalierNodeReport::Status MakeReport(
    const NodeFacts& facts, const kube::EspalierNodeReport::Status& before,
    absl::Time now) {
  kube::EspalierNodeReport::Status status;
  status.agent_version = ESPALIER_VERSION;
  status.datapath = facts.datapath;
  status.tunnels.wanted = static_cast<int64_t>(facts.peers.size());
  for (const mesh::PeerStatus& peer : facts.peers) {
    if (peer.state == mesh::TunnelState::kUp) ++status.tunnels.up;
    if (peer.fell_back) ++status.tunnels.fallback;
  }
  std::map<std::string, const char*> mode_of;  // by host interface
  for (const pods::PodInfo& pod : facts.pods) {
    switch (pod.policy.encryption) {
      case base::Mode::kRequired:
        // To its peers it is not yet while they may go by an old block.
        ++(pod.settling ? status.pods.preferred : status.pods.required);
        break;
      case base::Mode::kPreferred:
        ++status.pods.preferred;
        break;
      case base::Mode::kDisabled:
        ++status.pods.disabled;
        break;
    }
    mode_of[pod.host_interface] = base::ModeName(pod.policy.encryption);
  }
  status.pods.unprotected = facts.unprotected_pods;
  status.drops["required"] = 0;
  for (const auto& [guard, count] : facts.counters) {
    if (!count.drop) continue;
    const auto mode = mode_of.find(count.interface);
    status.drops[mode == mode_of.end() ? "other" : mode->second] +=
        static_cast<int64_t>(count.packets);
  }
  AddCondition("Ready", facts.not_ready, "NotReady", before, now, &status);
  AddCondition("GuardsInPlace", facts.guard_problem, "GuardProblem", before,
               now, &status);
  AddCondition("SourceCurrent", facts.source_problem, "SourceProblem", before,
               now, &status);
  for (const kube::Condition& condition : facts.surroundings) {
    AddCondition(condition, before, now, &status);
  }
  status.last_report = now;
  return status;
}

bool NodeReporter::Due(base::Instant now) {
  in_turn_ = now >= next_;
  if (!in_turn_) {
    if (settled_ || now < look_ || now >= look_until_) return false;
    look_ = now + kLookEvery;
    return true;
  }
  if (look_until_ == absl::InfiniteFuture()) look_until_ = now + kSettling;
  // A fleet that starts at once does not write at once: jitter of a quarter.
  next_ = now + kSoonest +
          kSoonest / 4 * (static_cast<double>(random_->U32()) / 0xffffffffU);
  return true;
}

std::optional<kube::EspalierNodeReport> NodeReporter::Report(
    base::Instant now, absl::Time wall, const NodeFacts& facts) {
  kube::EspalierNodeReport report;
  report.meta.name = node_;
  report.status = MakeReport(facts, last_, wall);
  const bool well = AllIsWell(*report.status);
  if (!in_turn_ && !well) return std::nullopt;
  if (well) settled_ = true;
  kube::EspalierNodeReport::Status timeless = *report.status;
  timeless.last_report = last_.last_report;
  if (timeless == last_ && now - written_ < kLatest) return std::nullopt;
  last_ = *report.status;
  written_ = now;
  return report;
}

std::vector<kube::Event> NodeReporter::Events(
    base::Instant now, const std::deque<guard::DropEvent>& drops,
    const std::function<std::string(const std::string& pod)>& uid_of) {
  if (now - minute_ >= absl::Minutes(1)) {
    minute_ = now;
    this_minute_ = 0;
  }
  std::erase_if(told_, [&](const auto& entry) {
    return now - entry.second >= kEventEvery;
  });
  std::vector<kube::Event> events;
  const absl::Time before = last_drop_;
  for (const guard::DropEvent& drop : drops) {
    if (drop.time <= before) continue;
    last_drop_ = std::max(last_drop_, drop.time);
    const size_t slash = drop.pod.find('/');
    if (slash == std::string::npos || this_minute_ >= kEventsAMinute ||
        told_.size() >= kMaxTold || told_.contains({drop.pod, drop.verdict})) {
      continue;
    }
    const std::string uid = uid_of(drop.pod);
    if (uid.empty()) continue;
    told_[{drop.pod, drop.verdict}] = now;
    ++this_minute_;
    kube::Event event;
    event.about = {.api_version = "v1",
                   .kind = "Pod",
                   .name_space = drop.pod.substr(0, slash),
                   .name = drop.pod.substr(slash + 1),
                   .uid = uid};
    event.meta.name_space = event.about.name_space;
    event.meta.name = absl::StrCat(event.about.name.substr(0, 200), ".",
                                   absl::Hex(random_->U64(), absl::kZeroPad16));
    event.type = "Warning";
    event.reason = "EspalierDropped";
    event.message = absl::StrCat(drop.text, Packet(drop));
    event.component = "espalier-agent";
    event.host = node_;
    event.first = event.last = drop.time;
    event.count = 1 + drop.suppressed;
    events.push_back(std::move(event));
  }
  return events;
}

}  // namespace espalier::agent
