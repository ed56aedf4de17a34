#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"

namespace espalier::kubectl {

int ClusterTunnels(const Cluster& cluster,
                   const std::vector<std::string>& nodes) {
  int code = kExitOk;
  const auto agents = cluster.AgentsOf(nodes, &code);
  if (!agents.has_value()) return code;
  const std::vector<AgentAnswer> answers = cluster.Ask(*agents, {"tunnels"});
  std::vector<std::pair<std::string, v1::ListTunnelsResponse>> all;
  for (const AgentAnswer& answer : answers) {
    if (!answer.error.empty()) continue;
    all.emplace_back(answer.agent.node, As<v1::ListTunnelsResponse>(answer));
  }
  cluster.Print(Merged(answers), ClusterTunnelsText(all, cluster.wide()));
  return cluster.TellMissing(answers);
}

int ClusterShow(const Cluster& cluster, const std::string& a,
                const std::string& b) {
  int code = kExitOk;
  if (a == b) {
    cluster.err() << "a node has no tunnel to itself: show NODE OTHER-NODE\n";
    return kExitUsage;
  }
  const auto agents = cluster.AgentsOf({a, b}, &code);
  if (!agents.has_value()) return code;
  std::vector<AgentAnswer> answers = cluster.Ask({(*agents)[0]}, {"show", b});
  answers.push_back(cluster.Ask({(*agents)[1]}, {"show", a}).front());
  std::string text;
  for (const AgentAnswer& answer : answers) {
    if (!answer.error.empty()) continue;
    absl::StrAppend(&text, text.empty() ? "" : "\n", "As ", answer.agent.node,
                    " sees it\n", TunnelText(As<v1::Tunnel>(answer)));
  }
  cluster.Print(Merged(answers), text);
  return cluster.TellMissing(answers);
}

}  // namespace espalier::kubectl
