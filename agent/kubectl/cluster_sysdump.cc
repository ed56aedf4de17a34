#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"

namespace espalier::kubectl {
namespace {

struct Piece {
  std::string file;
  Arguments command;
};

std::vector<Piece> Pieces(const std::vector<AgentPod>& agents,
                          const std::vector<Json>& pods) {
  std::vector<Piece> pieces = {
      {"version.json", {"version", "-o", "json"}},
      {"nodes.yaml", {"get", "nodes", "-o", "yaml"}},
      {"espaliernodes.yaml", {"get", "espaliernodes", "-o", "yaml"}},
      {"espaliernodereports.yaml",
       {"get", "espaliernodereports", "-o", "yaml"}},
      {"workloads.yaml",
       {"get", "daemonsets,deployments,pods,configmaps", "--all-namespaces",
        "-l", kAllLabels, "-o", "yaml"}},
      {"leases.yaml", {"get", "leases", "--all-namespaces", "-o", "yaml"}},
      {"namespaces.yaml", {"get", "namespaces", "-o", "yaml"}},
      {"pods.txt", {"get", "pods", "--all-namespaces", "-o", "wide"}},
      {"events.txt",
       {"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"}},
      {"policies.yaml",
       {"get", "validatingadmissionpolicies,validatingadmissionpolicybindings",
        "-l", kAllLabels, "-o", "yaml"}}};
  for (const Json& pod : pods) {
    const std::string space = TextAt(pod, "/metadata/namespace");
    const std::string name = TextAt(pod, "/metadata/name");
    pieces.push_back(
        {absl::StrCat(name, ".log"),
         {"logs", "-n", space, name, "--all-containers", "--tail=20000"}});
    pieces.push_back({absl::StrCat(name, ".previous.log"),
                      {"logs", "-n", space, name, "--all-containers",
                       "--previous", "--tail=20000"}});
  }
  for (const AgentPod& agent : agents) {
    if (!agent.ready) continue;
    for (const char* command :
         {"status", "tunnels", "pods", "drops", "verify"}) {
      pieces.push_back(
          {absl::StrCat("node-", agent.node, ".", command, ".json"),
           {"exec", "-n", agent.name_space, agent.name, "-c", "agent", "--",
            "/usr/bin/kubectl-espalier", "--socket", "/run/espalier/agent.sock",
            "-o", "json", command}});
    }
  }
  return pieces;
}

bool Write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  return file.good();
}

}  // namespace

int ClusterSysdump(const Cluster& cluster, const std::string& folder) {
  int code = kExitOk;
  const auto pods =
      cluster.List({"pods", "--all-namespaces", "-l", kAllLabels}, &code);
  if (!pods.has_value()) return code;
  if (mkdir(folder.c_str(), 0700) != 0) {
    cluster.err() << "cannot make the folder " << folder << ": "
                  << strerror(errno) << "\n";
    return kExitUsage;
  }
  // A cluster whose agents are all away is what a dump is for.
  int ignored = kExitOk;
  const std::vector<AgentPod> agents =
      cluster.Agents(&ignored).value_or(std::vector<AgentPod>());
  const std::vector<Piece> pieces = Pieces(agents, *pods);
  std::vector<Arguments> commands;
  for (const Piece& piece : pieces) commands.push_back(piece.command);
  const std::vector<Output> outputs = cluster.kubectl().RunAll(commands);
  Json written = Json::array();
  std::string failures;
  for (const AgentPod& agent : agents) {
    if (agent.ready) continue;
    absl::StrAppend(&failures, "node-", agent.node,
                    ".*.json: its agent does not run (", agent.why_not,
                    "), its log is here\n");
  }
  const std::filesystem::path home(folder);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool earlier_log = pieces[i].file.ends_with(".previous.log");
    if (!outputs[i].ok() && outputs[i].out.empty()) {
      // Most containers have had no earlier run.
      if (earlier_log) continue;
      absl::StrAppend(&failures, pieces[i].file, ": ",
                      Explain(cluster.kubectl(), outputs[i]), "\n");
      continue;
    }
    if (!Write(home / pieces[i].file, outputs[i].out)) {
      cluster.err() << "cannot write " << (home / pieces[i].file).string()
                    << ": " << strerror(errno) << "\n";
      return kExitRefused;
    }
    written.push_back(pieces[i].file);
  }
  if (!failures.empty() && !Write(home / "errors.txt", failures)) {
    return kExitRefused;
  }
  cluster.err() << failures;
  const size_t count = written.size();
  cluster.Print({{"folder", folder}, {"files", std::move(written)}},
                absl::StrCat("Wrote ", count, " files into ", folder,
                             ". They hold names, addresses and logs, and no "
                             "keys; look through them before you pass them "
                             "on.\n"));
  return failures.empty() ? kExitOk : kExitDegraded;
}

}  // namespace espalier::kubectl
