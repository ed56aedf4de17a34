#include "agent/kubectl/cluster.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "agent/kubectl/command.h"
#include "agent/kubectl/table.h"
#include "agent/kubectl/yaml.h"

namespace espalier::kubectl {
namespace {

constexpr char kAgentProgram[] = "/usr/bin/kubectl-espalier";
constexpr char kAgentSocket[] = "/run/espalier/agent.sock";

AgentPod AgentFrom(const Json& pod) {
  AgentPod agent{.node = TextAt(pod, "/spec/nodeName"),
                 .name_space = TextAt(pod, "/metadata/namespace"),
                 .name = TextAt(pod, "/metadata/name")};
  const Condition ready = ConditionOf(pod, "Ready");
  // An agent that is not ready may well answer why; one that does not run
  // cannot.
  const std::string phase = TextAt(pod, "/status/phase");
  agent.ready = phase == "Running";
  if (agent.ready && ready.is_true) return agent;
  agent.why_not = phase == "Running" ? "not ready" : phase;
  for (const Json& container : At(pod, "/status/containerStatuses")) {
    const std::string reason = TextAt(container, "/state/waiting/reason");
    if (!reason.empty()) {
      agent.why_not = reason;
      agent.ready = false;
    }
  }
  return agent;
}

}  // namespace

const Json& At(const Json& json, const std::string& pointer) {
  static const Json kNothing;
  const nlohmann::json_pointer<std::string> path(pointer);
  return json.contains(path) ? json.at(path) : kNothing;
}

std::string TextAt(const Json& json, const std::string& pointer) {
  const Json& value = At(json, pointer);
  return value.is_string() ? value.get<std::string>() : "";
}

int64_t NumberAt(const Json& json, const std::string& pointer) {
  const Json& value = At(json, pointer);
  return value.is_number_integer() ? value.get<int64_t>() : 0;
}

Condition ConditionOf(const Json& object, const std::string& type) {
  for (const Json& condition : At(object, "/status/conditions")) {
    if (TextAt(condition, "/type") != type) continue;
    return {.there = true,
            .is_true = TextAt(condition, "/status") == "True",
            .reason = TextAt(condition, "/reason"),
            .message = TextAt(condition, "/message")};
  }
  return {};
}

std::optional<Json> Cluster::Get(Arguments what, int* code) const {
  Arguments command = {"get"};
  command.insert(command.end(), what.begin(), what.end());
  command.insert(command.end(), {"-o", "json"});
  const Output output = kubectl_.Run(command);
  if (!output.ok()) {
    err_ << Explain(kubectl_, output) << "\n";
    *code = IsUnreachable(output) ? kExitNoAgent : kExitRefused;
    return std::nullopt;
  }
  Json json = Json::parse(output.out, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    err_ << "kubectl answered with something that is no JSON\n";
    *code = kExitRefused;
    return std::nullopt;
  }
  return json;
}

std::optional<std::vector<Json>> Cluster::List(Arguments what,
                                               int* code) const {
  std::optional<Json> json = Get(std::move(what), code);
  if (!json.has_value()) return std::nullopt;
  std::vector<Json> items;
  for (const Json& item : At(*json, "/items")) items.push_back(item);
  return items;
}

std::optional<std::vector<AgentPod>> Cluster::Agents(int* code) const {
  std::optional<std::vector<Json>> pods =
      List({"pods", "--all-namespaces", "-l", kAgentLabels}, code);
  if (!pods.has_value()) return std::nullopt;
  std::vector<AgentPod> agents;
  for (const Json& pod : *pods) {
    // While a DaemonSet replaces a pod there are two of a node.
    if (!TextAt(pod, "/metadata/deletionTimestamp").empty()) continue;
    agents.push_back(AgentFrom(pod));
  }
  if (agents.empty()) {
    err_ << "no agent runs in this cluster: is the chart installed (helm list "
            "--all-namespaces), and can its DaemonSet be scheduled (kubectl "
            "get daemonsets --all-namespaces -l "
         << kAllLabels << ")?\n";
    *code = kExitNoAgent;
    return std::nullopt;
  }
  std::sort(
      agents.begin(), agents.end(),
      [](const AgentPod& a, const AgentPod& b) { return a.node < b.node; });
  return agents;
}

std::optional<std::vector<AgentPod>> Cluster::AgentsOf(
    const std::vector<std::string>& nodes, int* code) const {
  std::optional<std::vector<AgentPod>> all = Agents(code);
  if (!all.has_value() || nodes.empty()) return all;
  std::vector<AgentPod> chosen;
  for (const std::string& node : nodes) {
    const auto found =
        std::find_if(all->begin(), all->end(),
                     [&](const AgentPod& agent) { return agent.node == node; });
    if (found == all->end()) {
      err_ << "no agent runs on a node '" << node << "'; there are: "
           << absl::StrJoin(*all, ", ",
                            [](std::string* out, const AgentPod& agent) {
                              *out += agent.node;
                            })
           << "\n";
      *code = kExitNoAgent;
      return std::nullopt;
    }
    chosen.push_back(*found);
  }
  return chosen;
}

std::vector<AgentAnswer> Cluster::Ask(const std::vector<AgentPod>& agents,
                                      const Arguments& command) const {
  std::vector<AgentAnswer> answers;
  std::vector<Arguments> commands;
  std::vector<size_t> asked;
  for (const AgentPod& agent : agents) {
    answers.push_back({.agent = agent});
    if (!agent.ready) {
      answers.back().error = absl::StrCat(
          "its agent does not run (", agent.why_not, "): kubectl -n ",
          agent.name_space, " describe pod ", agent.name);
      continue;
    }
    Arguments exec = {
        "exec", "-n",          agent.name_space, agent.name,   "-c", "agent",
        "--",   kAgentProgram, "--socket",       kAgentSocket, "-o", "json"};
    exec.insert(exec.end(), command.begin(), command.end());
    commands.push_back(std::move(exec));
    asked.push_back(answers.size() - 1);
  }
  const std::vector<Output> outputs = kubectl_.RunAll(commands);
  for (size_t i = 0; i < outputs.size(); ++i) {
    AgentAnswer& answer = answers[asked[i]];
    answer.code = outputs[i].code;
    Json json = Json::parse(outputs[i].out, nullptr, false);
    // A degraded status or a failed proof is an answer all the same.
    if (json.is_object()) {
      answer.json = std::move(json);
    } else {
      answer.error = Explain(kubectl_, outputs[i]);
      answer.forbidden = LacksRight(outputs[i]);
    }
  }
  return answers;
}

int Cluster::TellMissing(const std::vector<AgentAnswer>& answers) const {
  int code = kExitOk;
  for (const AgentAnswer& answer : answers) {
    if (answer.error.empty()) continue;
    err_ << answer.agent.node << ": " << Printable(answer.error) << "\n";
    if (answer.forbidden) {
      code = kExitRefused;
    } else if (code != kExitRefused) {
      code = kExitNoAgent;
    }
  }
  return code;
}

bool Cluster::Do(const Arguments& command, const std::string& input,
                 int* code) const {
  const Output output = kubectl_.Run(command, input);
  if (output.ok()) return true;
  err_ << Explain(kubectl_, output) << "\n";
  *code = IsUnreachable(output) ? kExitNoAgent : kExitRefused;
  return false;
}

void Cluster::Print(const Json& value, const std::string& text) const {
  switch (format_) {
    case Format::kJson:
      // An error message may hold anything.
      out_ << value.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
      break;
    case Format::kYaml:
      out_ << YamlOf(value);
      break;
    case Format::kTable:
    case Format::kWide:
      out_ << text;
      break;
  }
}

Json Merged(const std::vector<AgentAnswer>& answers) {
  Json merged = {{"nodes", Json::array()}, {"errors", Json::array()}};
  for (const AgentAnswer& answer : answers) {
    if (!answer.error.empty()) {
      merged["errors"].push_back(
          {{"node", answer.agent.node}, {"error", answer.error}});
      continue;
    }
    Json node = {{"node", answer.agent.node}};
    for (const auto& [key, value] : answer.json.items()) node[key] = value;
    merged["nodes"].push_back(std::move(node));
  }
  return merged;
}

void FillFromJson(const std::string& json, google::protobuf::Message* message) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  // What cannot be read stays at its default.
  (void)google::protobuf::util::JsonStringToMessage(json, message, options);
}

}  // namespace espalier::kubectl
