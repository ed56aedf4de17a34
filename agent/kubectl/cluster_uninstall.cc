#include <algorithm>
#include <map>
#include <ostream>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"
#include "agent/kubectl/table.h"

namespace espalier::kubectl {
namespace {

// The chart's ConfigMap with the Pod that cleans a node. helm keeps it, so that
// it is there whichever of the two uninstallations comes first.
constexpr char kRecipeLabels[] =
    "app.kubernetes.io/name=espalier,app.kubernetes.io/component=uninstall";
constexpr char kWorkingLabels[] =
    "app.kubernetes.io/name=espalier,"
    "app.kubernetes.io/component in (agent,espd)";
constexpr char kByHand[] =
    "Install the chart once more (helm install, with the values it had) and "
    "run "
    "this again, or on each node run espalier-agent --config FILE --uninstall, "
    "or remove 00-espalier.conflist and restart the node";

struct Recipe {
  std::string name_space;
  std::string name;
  std::string release;
  Json pod;
};

struct NodeOutcome {
  std::vector<std::string> lines;  // of the agent's program
  std::string problem;             // empty: the node is clean
};

class Uninstallation {
 public:
  Uninstallation(const Cluster& cluster, const UninstallOptions& options)
      : cluster_(cluster), options_(options) {}

  int Run() {
    int code = kExitOk;
    if (!FindRecipe(&code)) return code;
    if (!FindNodes(&code)) return code;
    if (!options_.force && !CheckPods(&code)) return code;
    if (!StopAgents(&code)) return code;
    for (auto first = waiting_.begin(); first != waiting_.end();) {
      const auto last = first + std::min<ptrdiff_t>(KubectlProgram::kMostAtOnce,
                                                    waiting_.end() - first);
      Clean({first, last});
      first = last;
    }
    return Tell();
  }

 private:
  static std::string Why(const Output& output) {
    return std::string(absl::StripAsciiWhitespace(output.err));
  }

  bool FindRecipe(int* code) {
    const auto maps = cluster_.List(
        {"configmaps", "--all-namespaces", "-l", kRecipeLabels}, code);
    if (!maps.has_value()) return false;
    if (maps->empty()) {
      const auto left = cluster_.List({"espaliernodes"}, code);
      if (!left.has_value()) return false;
      if (left->empty()) {
        cluster_.Print({{"nodes", Json::array()}},
                       "No node has anything of Espalier's left.\n");
        return false;
      }
      cluster_.err() << "the chart's ConfigMap with the Pod that cleans a node "
                        "is gone, and "
                     << left->size() << " nodes are not cleaned. " << kByHand
                     << "\n";
      *code = kExitNoAgent;
      return false;
    }
    const Json& map = maps->front();
    recipe_ = {
        .name_space = TextAt(map, "/metadata/namespace"),
        .name = TextAt(map, "/metadata/name"),
        .release = TextAt(map, "/metadata/labels/app.kubernetes.io~1instance"),
        .pod = Json::parse(TextAt(map, "/data/pod.json"), nullptr, false)};
    if (recipe_.pod.is_object()) return true;
    cluster_.err() << "ConfigMap " << recipe_.name_space << "/" << recipe_.name
                   << " has no pod.json: it is not as the chart made it. "
                   << kByHand << "\n";
    *code = kExitRefused;
    return false;
  }

  // Those that an agent ever came to, and whether a kubelet is there.
  bool FindNodes(int* code) {
    const auto objects = cluster_.List({"espaliernodes"}, code);
    if (!objects.has_value()) return false;
    const auto pods =
        cluster_.List({"pods", "--all-namespaces", "-l", kWorkingLabels}, code);
    if (!pods.has_value()) return false;
    const auto nodes = cluster_.List({"nodes"}, code);
    if (!nodes.has_value()) return false;
    std::set<std::string> wanted;
    for (const Json& object : *objects) {
      wanted.insert(TextAt(object, "/metadata/name"));
    }
    for (const Json& pod : *pods) {
      const std::string node = TextAt(pod, "/spec/nodeName");
      if (!node.empty()) wanted.insert(node);
    }
    std::map<std::string, std::string> ready;
    for (const Json& node : *nodes) {
      std::string& status = ready[TextAt(node, "/metadata/name")];
      for (const Json& condition : At(node, "/status/conditions")) {
        if (TextAt(condition, "/type") == "Ready") {
          status = TextAt(condition, "/status");
        }
      }
    }
    for (const std::string& name : wanted) {
      const auto found = ready.find(name);
      if (found == ready.end()) {
        outcomes_[name].problem = "there is no Node of this name";
      } else if (found->second == "Unknown") {
        // False is another thing: without a network configuration, which goes
        // first, a node is not ready, and its kubelet runs hostNetwork pods.
        outcomes_[name].problem = "its kubelet does not answer (NotReady)";
      } else {
        waiting_.push_back(name);
      }
    }
    return true;
  }

  // False: they refuse.
  bool CheckPods(int* code) {
    const auto pods =
        cluster_.List({"pods", "--all-namespaces", "-l", kAgentLabels}, code);
    if (!pods.has_value()) return false;
    // After an earlier run there are none, and each node looks for itself.
    if (std::ranges::all_of(*pods, [](const Json& pod) {
          return !TextAt(pod, "/metadata/deletionTimestamp").empty();
        })) {
      return true;
    }
    const auto agents = cluster_.Agents(code);
    if (!agents.has_value()) return false;
    const std::vector<AgentAnswer> answers = cluster_.Ask(*agents, {"pods"});
    std::vector<std::string> attached;
    for (const AgentAnswer& answer : answers) {
      for (const Json& pod : At(answer.json, "/pods")) {
        attached.push_back(absl::StrCat(TextAt(pod, "/namespace"), "/",
                                        TextAt(pod, "/name"), " on ",
                                        answer.agent.node));
      }
    }
    // Whoever does not answer is judged on its node, before anything of it is
    // touched.
    (void)cluster_.TellMissing(answers);
    if (attached.empty()) return true;
    std::ranges::sort(attached);
    cluster_.err() << "refused: " << attached.size()
                   << " pods have their network from Espalier:\n  "
                   << Printable(absl::StrJoin(attached, "\n  "))
                   << "\nDelete or drain them first (they come back on another "
                      "network, or wait for one), or take their network away "
                      "with --force: they then have to be made anew.\n";
    *code = kExitRefused;
    return false;
  }

  // Their nodes must not make again what is removed there.
  bool StopAgents(int* code) {
    cluster_.err() << "ending the agents and espalier-espd\n";
    if (!cluster_.Do({"delete", "daemonsets", "-n", recipe_.name_space, "-l",
                      kWorkingLabels, "--wait=false"},
                     "", code) ||
        !cluster_.Do({"delete", "pods", "-n", recipe_.name_space, "-l",
                      kRecipeLabels, "--wait=false"},
                     "", code)) {
      return false;
    }
    const absl::Time deadline = absl::Now() + options_.timeout;
    std::map<std::string, std::string> left;
    do {
      left.clear();
      for (const char* labels : {kWorkingLabels, kRecipeLabels}) {
        const auto pods = cluster_.List(
            {"pods", "-n", recipe_.name_space, "-l", labels}, code);
        if (!pods.has_value()) return false;
        for (const Json& pod : *pods) {
          const std::string node = TextAt(pod, "/spec/nodeName");
          if (std::ranges::find(waiting_, node) != waiting_.end()) {
            left[node] = TextAt(pod, "/metadata/name");
          }
        }
      }
      if (left.empty()) return true;
      absl::SleepFor(options_.interval);
    } while (absl::Now() < deadline);
    for (const auto& [node, pod] : left) {
      outcomes_[node].problem = absl::StrCat("pod ", pod, " has not ended yet");
      std::erase(waiting_, node);
    }
    return true;
  }

  std::string PodsFor(const std::vector<std::string>& nodes) const {
    Json list = {
        {"apiVersion", "v1"}, {"kind", "List"}, {"items", Json::array()}};
    for (const std::string& node : nodes) {
      Json pod = recipe_.pod;
      pod["spec"]["nodeName"] = node;
      if (options_.force) {
        pod["spec"]["containers"][0]["args"].push_back("--force");
      }
      list["items"].push_back(std::move(pod));
    }
    return list.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  // At most kMostAtOnce nodes, at once.
  void Clean(const std::vector<std::string>& nodes) {
    const Output made = cluster_.kubectl().Run(
        {"create", "-n", recipe_.name_space, "-f", "-"}, PodsFor(nodes));
    const absl::Time deadline = absl::Now() + options_.timeout;
    std::map<std::string, Json> ended;
    std::map<std::string, std::string> states;
    while (true) {
      int code = kExitOk;
      const auto pods = cluster_.List(
          {"pods", "-n", recipe_.name_space, "-l", kRecipeLabels}, &code);
      for (const Json& pod : pods.value_or(std::vector<Json>())) {
        const std::string node = TextAt(pod, "/spec/nodeName");
        // Those of the nodes before may still be on their way out.
        if (std::ranges::find(nodes, node) == nodes.end()) continue;
        const std::string phase = TextAt(pod, "/status/phase");
        states[node] = phase;
        for (const Json& container : At(pod, "/status/containerStatuses")) {
          const std::string reason = TextAt(container, "/state/waiting/reason");
          if (!reason.empty()) states[node] = reason;
        }
        if (phase == "Succeeded" || phase == "Failed") ended[node] = pod;
      }
      // Those that could not be made never come.
      if (ended.size() >= (made.ok() ? nodes.size() : states.size()) ||
          absl::Now() >= deadline) {
        break;
      }
      absl::SleepFor(options_.interval);
    }
    ReadLines(ended);
    for (const std::string& node : nodes) {
      if (ended.contains(node)) continue;
      outcomes_[node].problem =
          states.contains(node)
              ? absl::StrCat("its cleaning Pod is ", states[node], " after ",
                             absl::FormatDuration(options_.timeout))
              : absl::StrCat("no Pod could be made there: ", Why(made));
    }
    (void)cluster_.kubectl().Run({"delete", "pods", "-n", recipe_.name_space,
                                  "-l", kRecipeLabels, "--wait=false"});
  }

  void ReadLines(const std::map<std::string, Json>& ended) {
    std::vector<Arguments> commands;
    for (const auto& [node, pod] : ended) {
      commands.push_back(
          {"logs", "-n", recipe_.name_space, TextAt(pod, "/metadata/name")});
    }
    const std::vector<Output> logs = cluster_.kubectl().RunAll(commands);
    size_t next = 0;
    for (const auto& [node, pod] : ended) {
      const Output& log = logs[next++];
      NodeOutcome& outcome = outcomes_[node];
      outcome.lines = absl::StrSplit(log.out, '\n', absl::SkipEmpty());
      if (TextAt(pod, "/status/phase") == "Succeeded") continue;
      // A container that never ran has no log: the kubelet says why.
      const std::string message = TextAt(pod, "/status/message");
      outcome.problem = !outcome.lines.empty() ? outcome.lines.back()
                        : !message.empty()     ? message
                                               : Why(log);
    }
  }

  int Tell() {
    Json json = {{"nodes", Json::array()}};
    std::string text;
    std::vector<std::string> clean;
    for (const auto& [node, outcome] : outcomes_) {
      json["nodes"].push_back({{"node", node},
                               {"clean", outcome.problem.empty()},
                               {"problem", outcome.problem},
                               {"steps", outcome.lines}});
      for (const std::string& line : outcome.lines) {
        absl::StrAppend(&text, node, ": ", Printable(line), "\n");
      }
      if (outcome.problem.empty()) clean.push_back(node);
    }
    int code = kExitOk;
    if (!Forget(clean, &code)) return code;
    const size_t left = outcomes_.size() - clean.size();
    absl::StrAppend(&text, clean.size(), " of ", outcomes_.size(),
                    " nodes are clean.\n");
    if (left == 0) {
      absl::StrAppend(&text, "Next: helm uninstall ", recipe_.release, " -n ",
                      recipe_.name_space,
                      "; kubectl delete crd espaliernodes.espalier.dev "
                      "espaliernodereports.espalier.dev\n");
    }
    cluster_.Print(json, text);
    for (const auto& [node, outcome] : outcomes_) {
      if (outcome.problem.empty()) continue;
      cluster_.err() << node << " is not clean: " << Printable(outcome.problem)
                     << "\n";
    }
    if (left == 0) return kExitOk;
    cluster_.err()
        << "their guards stand. Run this again when it is made good; "
           "helm upgrade brings the agents back.\n";
    return kExitDegraded;
  }

  // What is left to do is what there are EspalierNodes of.
  bool Forget(const std::vector<std::string>& clean, int* code) {
    if (!clean.empty()) {
      Arguments command = {"delete", "espaliernodes,espaliernodereports"};
      command.insert(command.end(), clean.begin(), clean.end());
      command.push_back("--ignore-not-found");
      if (!cluster_.Do(command, "", code)) return false;
    }
    if (clean.size() != outcomes_.size()) return true;
    return cluster_.Do({"delete", "configmap", "-n", recipe_.name_space,
                        recipe_.name, "--ignore-not-found"},
                       "", code);
  }

  const Cluster& cluster_;
  const UninstallOptions& options_;
  Recipe recipe_;
  std::vector<std::string> waiting_;  // nodes to be cleaned
  std::map<std::string, NodeOutcome> outcomes_;
};

}  // namespace

int ClusterUninstall(const Cluster& cluster, const UninstallOptions& options) {
  return Uninstallation(cluster, options).Run();
}

}  // namespace espalier::kubectl
