// What kubectl-espalier knows of a cluster: its objects, and its agents through
// `kubectl exec`.
#ifndef ESPALIER_AGENT_KUBECTL_CLUSTER_H_
#define ESPALIER_AGENT_KUBECTL_CLUSTER_H_

#include <google/protobuf/message.h>

#include <iosfwd>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "agent/kubectl/kubectl_program.h"
#include "agent/kubectl/output.h"

namespace espalier::kubectl {

using Json = nlohmann::ordered_json;

inline constexpr char kAgentLabels[] =
    "app.kubernetes.io/name=espalier,app.kubernetes.io/component=agent";
inline constexpr char kAllLabels[] = "app.kubernetes.io/name=espalier";

// Total readers: another type, or nothing there, is the default.
std::string TextAt(const Json& json, const std::string& pointer);
int64_t NumberAt(const Json& json, const std::string& pointer);
const Json& At(const Json& json, const std::string& pointer);

struct Condition {
  bool there = false;
  bool is_true = false;
  std::string reason;
  std::string message;
};
// Of /status/conditions.
Condition ConditionOf(const Json& object, const std::string& type);

struct AgentPod {
  std::string node;
  std::string name_space;
  std::string name;
  bool ready = false;
  std::string why_not;
};

// One agent's answer, or why there is none.
struct AgentAnswer {
  AgentPod agent;
  Json json;  // null when there is none
  std::string error;
  bool forbidden = false;  // to this user; the agent may well be there
  // Of the agent's own program: 4 and 5 are answers, too.
  int code = 0;
};

class Cluster {
 public:
  // All outlive this.
  Cluster(const KubectlProgram* kubectl, Format format, std::ostream* out,
          std::ostream* err)
      : kubectl_(*kubectl), format_(format), out_(*out), err_(*err) {}

  const KubectlProgram& kubectl() const { return kubectl_; }
  Format format() const { return format_; }
  std::ostream& out() const { return out_; }
  std::ostream& err() const { return err_; }

  // `kubectl get ... -o json`; on failure its words are on err, and `code` is
  // what to exit with.
  std::optional<Json> Get(Arguments what, int* code) const;
  // The items of such a list.
  std::optional<std::vector<Json>> List(Arguments what, int* code) const;
  // In the order of their nodes. None is a failure that says where to look.
  std::optional<std::vector<AgentPod>> Agents(int* code) const;
  // Those of the named nodes; an unknown name is a failure.
  std::optional<std::vector<AgentPod>> AgentsOf(
      const std::vector<std::string>& nodes, int* code) const;

  // Runs kubectl-espalier in each agent's pod.
  std::vector<AgentAnswer> Ask(const std::vector<AgentPod>& agents,
                               const Arguments& command) const;
  // One line on err for each that did not answer; kExitRefused where this user
  // lacks the right to ask any of them, else kExitNoAgent if any.
  int TellMissing(const std::vector<AgentAnswer>& answers) const;

  // Runs a command that answers with nothing but success; says why not.
  bool Do(const Arguments& command, const std::string& input, int* code) const;

  // The value for programs, the text for people.
  void Print(const Json& value, const std::string& text) const;
  bool wide() const { return format_ == Format::kWide; }

 private:
  const KubectlProgram& kubectl_;
  const Format format_;
  std::ostream& out_;
  std::ostream& err_;
};

// {"nodes": [{"node": ..., the answer's fields...}], "errors": [...]}
Json Merged(const std::vector<AgentAnswer>& answers);
// Unknown fields are ignored, what cannot be read stays at its default.
void FillFromJson(const std::string& json, google::protobuf::Message* message);
// The answer as its message; unknown fields of a newer agent are ignored.
template <typename T>
T As(const AgentAnswer& answer) {
  T message;
  FillFromJson(answer.json.dump(), &message);
  return message;
}

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_CLUSTER_H_
