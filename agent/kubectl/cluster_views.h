// The commands of kubectl-espalier on a cluster; each returns what the program
// exits with (command.h).
#ifndef ESPALIER_AGENT_KUBECTL_CLUSTER_VIEWS_H_
#define ESPALIER_AGENT_KUBECTL_CLUSTER_VIEWS_H_

#include <iosfwd>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "agent/kubectl/cluster.h"

namespace espalier::kubectl {

struct StatusOptions {
  bool wait = false;
  absl::Duration timeout = absl::Minutes(5);
  absl::Duration interval = absl::Seconds(2);
};
// From EspalierNodes, reports and the chart's own workloads; no exec.
int ClusterStatus(const Cluster& cluster, const StatusOptions& options);

// Without nodes: of all.
int ClusterTunnels(const Cluster& cluster,
                   const std::vector<std::string>& nodes);
// The tunnel between two nodes as each of them sees it.
int ClusterShow(const Cluster& cluster, const std::string& a,
                const std::string& b);
// Empty: of all namespaces.
int ClusterPods(const Cluster& cluster, const std::string& name_space);
struct DropsOptions {
  std::string name_space;
  bool follow = false;
  absl::Duration interval = absl::Seconds(2);
  int rounds = -1;  // of following; negative: until interrupted
};
int ClusterDrops(const Cluster& cluster, const DropsOptions& options);

struct VerifyOptions {
  std::string from;  // NAMESPACE/NAME
  std::string to;
};
// Without from and to: every required pod of every node.
int ClusterVerify(const Cluster& cluster, const VerifyOptions& options);

struct ProbeOptions {
  // Two; none: the first two that have an agent.
  std::vector<std::string> nodes;
  absl::Duration timeout = absl::Seconds(90);
  absl::Duration interval = absl::Seconds(1);
};
// Sends traffic between two pods of its own and deletes them, whatever happens.
int ClusterProbe(const Cluster& cluster, const ProbeOptions& options);

int ClusterRekey(const Cluster& cluster, const std::string& node,
                 const std::string& peer, const Arguments& flags);
// A new key for each of the nodes, or for all.
int ClusterRotate(const Cluster& cluster, std::vector<std::string> nodes,
                  bool all);

struct UninstallOptions {
  bool force = false;  // though pods are attached
  // For each step: until the agents have ended, until a node is clean.
  absl::Duration timeout = absl::Minutes(2);
  absl::Duration interval = absl::Seconds(1);
};
// Ends the agents and has each node cleaned by a Pod of its own
// (`espalier-agent --uninstall`); what could not be cleaned is named, and the
// next call goes on there. kExitDegraded: there was such.
int ClusterUninstall(const Cluster& cluster, const UninstallOptions& options);

// Everything that helps to look into a problem, in a new folder; no keys.
int ClusterSysdump(const Cluster& cluster, const std::string& folder);

// The script that completes commands in a shell (bash, zsh, fish).
int Completion(const std::string& shell, std::ostream& out, std::ostream& err);

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_CLUSTER_VIEWS_H_
