#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"

namespace espalier::kubectl {

int ClusterRekey(const Cluster& cluster, const std::string& node,
                 const std::string& peer, const Arguments& flags) {
  int code = kExitOk;
  const auto agents = cluster.AgentsOf({node}, &code);
  if (!agents.has_value()) return code;
  Arguments command = {"rekey", peer};
  command.insert(command.end(), flags.begin(), flags.end());
  const std::vector<AgentAnswer> answers = cluster.Ask(*agents, command);
  if (!answers[0].error.empty()) {
    cluster.err() << node << ": " << answers[0].error << "\n";
    return answers[0].agent.ready ? kExitRefused : kExitNoAgent;
  }
  cluster.Print(
      Merged(answers),
      absl::StrCat("Rekeying the tunnel of ", node, " with ", peer,
                   ": kubectl espalier show ", node, " ", peer, "\n"));
  return kExitOk;
}

int ClusterRotate(const Cluster& cluster, std::vector<std::string> nodes,
                  bool all) {
  int code = kExitOk;
  if (all == !nodes.empty()) {
    cluster.err() << "name the nodes whose keys are to be replaced, or --all\n";
    return kExitUsage;
  }
  if (all) {
    const auto objects = cluster.List({"espaliernodes"}, &code);
    if (!objects.has_value()) return code;
    for (const Json& object : *objects) {
      nodes.push_back(TextAt(object, "/metadata/name"));
    }
  }
  // Any new value will do; a time tells people when it was asked for.
  const std::string value = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ",
                                             absl::Now(), absl::UTCTimeZone());
  Arguments command = {"annotate", "--overwrite", "espaliernodes"};
  command.insert(command.end(), nodes.begin(), nodes.end());
  command.push_back(absl::StrCat("espalier.dev/rotate=", value));
  if (nodes.empty()) {
    cluster.err() << "there are no EspalierNodes: is an agent running?\n";
    return kExitNoAgent;
  }
  if (!cluster.Do(command, "", &code)) return code;
  Json json = {{"rotate", value}, {"nodes", nodes}};
  cluster.Print(json,
                absl::StrCat("Asked ", nodes.size(),
                             nodes.size() == 1 ? " agent" : " agents",
                             " for a new key. Each publishes it beside the old "
                             "one, uses it, and withdraws the old one then: "
                             "kubectl get espaliernodes -o yaml\n"));
  return kExitOk;
}

}  // namespace espalier::kubectl
