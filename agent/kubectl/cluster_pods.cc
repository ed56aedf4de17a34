#include <ostream>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"
#include "agent/kubectl/table.h"

namespace espalier::kubectl {
namespace {

// Leaves in `json`'s list only the elements for which `keep` is true.
template <typename Keep>
void Filter(Json* json, const char* list, const Keep& keep) {
  const auto found = json->find(list);
  if (found == json->end() || !found->is_array()) return;
  Json kept = Json::array();
  for (Json& element : *found) {
    if (keep(element)) kept.push_back(std::move(element));
  }
  *found = std::move(kept);
}

bool OfNamespace(const std::string& pod, const std::string& name_space) {
  return name_space.empty() || absl::StartsWith(pod, name_space + "/");
}

}  // namespace

int ClusterPods(const Cluster& cluster, const std::string& name_space) {
  int code = kExitOk;
  const auto agents = cluster.Agents(&code);
  if (!agents.has_value()) return code;
  std::vector<AgentAnswer> answers = cluster.Ask(*agents, {"pods"});
  std::vector<std::pair<std::string, v1::ListPodsResponse>> all;
  for (AgentAnswer& answer : answers) {
    if (!answer.error.empty()) continue;
    Filter(&answer.json, "pods", [&](const Json& pod) {
      return name_space.empty() || TextAt(pod, "/namespace") == name_space;
    });
    all.emplace_back(answer.agent.node, As<v1::ListPodsResponse>(answer));
  }
  cluster.Print(Merged(answers), ClusterPodsText(all, cluster.wide()));
  return cluster.TellMissing(answers);
}

int ClusterDrops(const Cluster& cluster, const DropsOptions& options) {
  int code = kExitOk;
  const auto agents = cluster.Agents(&code);
  if (!agents.has_value()) return code;
  // What has been shown, by node and the packet's whole record: an agent keeps
  // the last ones only, so this is bounded by what it keeps.
  std::set<std::string> shown;
  for (int round = 0;; ++round) {
    std::vector<AgentAnswer> answers = cluster.Ask(*agents, {"drops"});
    std::vector<std::pair<std::string, v1::ListDropsResponse>> all;
    std::set<std::string> now;
    bool any = false;
    for (AgentAnswer& answer : answers) {
      if (!answer.error.empty()) continue;
      Filter(&answer.json, "drops", [&](const Json& drop) {
        const std::string key = absl::StrCat(answer.agent.node, drop.dump());
        now.insert(key);
        return !shown.contains(key) &&
               OfNamespace(TextAt(drop, "/pod"), options.name_space);
      });
      Filter(&answer.json, "counters", [&](const Json& count) {
        return OfNamespace(TextAt(count, "/pod"), options.name_space);
      });
      any |= !At(answer.json, "/drops").empty();
      all.emplace_back(answer.agent.node, As<v1::ListDropsResponse>(answer));
    }
    shown = std::move(now);
    if (!options.follow) {
      cluster.Print(Merged(answers), ClusterDropsText(all, cluster.wide(),
                                                      /*counters=*/true));
      return cluster.TellMissing(answers);
    }
    if (any) {
      cluster.Print(Merged(answers), ClusterDropsText(all, cluster.wide(),
                                                      /*counters=*/false));
      cluster.out().flush();
    }
    if (round == 0) code = cluster.TellMissing(answers);
    if (options.rounds >= 0 && round + 1 >= options.rounds) return code;
    absl::SleepFor(options.interval);
  }
}

}  // namespace espalier::kubectl
