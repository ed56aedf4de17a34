#include <algorithm>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"
#include "agent/kubectl/table.h"

namespace espalier::kubectl {
namespace {

struct PodEnd {
  std::string name;  // NAMESPACE/NAME
  std::string node;
  bool host_network = false;
};

std::optional<PodEnd> Find(const Cluster& cluster, const std::string& pod,
                           int* code) {
  const size_t slash = pod.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == pod.size()) {
    cluster.err() << "'" << pod << "' is no pod: expected NAMESPACE/NAME\n";
    *code = kExitUsage;
    return std::nullopt;
  }
  const std::optional<Json> json = cluster.Get(
      {"pod", "-n", pod.substr(0, slash), pod.substr(slash + 1)}, code);
  if (!json.has_value()) return std::nullopt;
  PodEnd end{.name = pod,
             .node = TextAt(*json, "/spec/nodeName"),
             .host_network = At(*json, "/spec/hostNetwork") == Json(true)};
  if (end.node.empty()) {
    cluster.err() << pod << " runs on no node yet\n";
    *code = kExitNotProven;
    return std::nullopt;
  }
  return end;
}

// The cluster's DNS pods carry names that required pods ask for.
void WarnOfDnsPods(const Cluster& cluster, std::vector<std::string>* warnings) {
  int ignored = kExitOk;
  const auto dns = cluster.List(
      {"pods", "-n", "kube-system", "-l", "k8s-app=kube-dns"}, &ignored);
  const auto space = cluster.Get({"namespace", "kube-system"}, &ignored);
  if (!dns.has_value() || !space.has_value()) return;
  const std::string of_namespace =
      TextAt(*space, "/metadata/annotations/espalier.dev~1encryption");
  for (const Json& pod : *dns) {
    const std::string own =
        TextAt(pod, "/metadata/annotations/espalier.dev~1encryption");
    if (of_namespace == "required" || own == "required") continue;
    warnings->push_back(
        "the cluster's DNS pods are not `required`: what a required pod asks "
        "them is ESP because the pod is, but what they ask others is not "
        "(annotate them)");
    return;
  }
}

bool IsHostNetworkDns(const Json& workload) {
  const Json& spec = At(workload, "/spec/template/spec");
  if (At(spec, "/hostNetwork") != Json(true)) return false;
  if (TextAt(workload, "/spec/template/metadata/labels/k8s-app") ==
      "node-local-dns") {
    return true;
  }
  for (const Json& container : At(spec, "/containers")) {
    for (const Json& port : At(container, "/ports")) {
      if (NumberAt(port, "/containerPort") == 53) return true;
    }
  }
  return false;
}

// Pods ask such a cache, and it asks others in their place: as its node. Looked
// for among workloads, since of its pods there is one on every node.
void WarnOfDnsCaches(const Cluster& cluster,
                     std::vector<std::string>* warnings) {
  int ignored = kExitOk;
  const auto workloads =
      cluster.List({"daemonsets,deployments", "--all-namespaces"}, &ignored);
  if (!workloads.has_value()) return;
  for (const Json& workload : *workloads) {
    if (!IsHostNetworkDns(workload)) continue;
    warnings->push_back(absl::StrCat(
        "the DNS cache ", TextAt(workload, "/metadata/namespace"), "/",
        TextAt(workload, "/metadata/name"),
        " has hostNetwork: what it asks in the place of required pods is its "
        "node's traffic, which no pod's annotation covers (make the DNS pods "
        "that it asks `required`)"));
  }
}

void AddProof(const v1::VerifyResponse& proof, const std::string& node,
              Table* table, std::vector<std::string>* findings) {
  for (const v1::PodProof& pod : proof.pods()) {
    std::string text;
    for (const std::string& finding : pod.findings()) {
      absl::StrAppend(&text, text.empty() ? "" : "; ", finding);
    }
    table->Add({node, absl::StrCat(pod.namespace_(), "/", pod.name()),
                pod.mode(), pod.proven() ? "yes" : "no",
                absl::StrCat(pod.stopped()), text});
  }
  for (const std::string& finding : proof.findings()) {
    findings->push_back(absl::StrCat(node, ": ", finding));
  }
}

int Tell(const Cluster& cluster, const std::vector<AgentAnswer>& answers,
         std::vector<std::string> findings) {
  Table table({"NODE", "POD", "MODE", "PROVEN", "STOPPED", "FINDINGS"});
  Json json = Merged(answers);
  uint64_t esp_out = 0;
  uint64_t esp_in = 0;
  size_t pods = 0;
  std::vector<std::string> warnings;
  for (const AgentAnswer& answer : answers) {
    if (!answer.error.empty()) {
      findings.push_back(
          absl::StrCat(answer.agent.node, " was not asked: ", answer.error));
      continue;
    }
    const auto proof = As<v1::VerifyResponse>(answer);
    esp_out += proof.esp_out();
    esp_in += proof.esp_in();
    pods += static_cast<size_t>(proof.pods_size());
    AddProof(proof, answer.agent.node, &table, &findings);
    for (const std::string& warning : proof.warnings()) {
      warnings.push_back(absl::StrCat(answer.agent.node, ": ", warning));
    }
    if (!proof.proven() && proof.findings().empty()) {
      findings.push_back(absl::StrCat(answer.agent.node, ": not proven"));
    }
  }
  if (pods == 0 && findings.empty()) {
    findings.push_back(
        "no pod is `required`, so there is nothing to prove. Annotate a "
        "namespace: espalier.dev/encryption: required");
  }
  WarnOfDnsPods(cluster, &warnings);
  WarnOfDnsCaches(cluster, &warnings);
  const bool proven = findings.empty();
  json["proven"] = proven;
  json["findings"] = findings;
  json["warnings"] = warnings;
  std::string text = pods == 0 ? "" : table.Render() + "\n";
  absl::StrAppend(&text, "ESP packets since the agents' start: ", esp_out,
                  " out, ", esp_in, " in\n");
  for (const std::string& warning : warnings) {
    absl::StrAppend(&text, "Warning: ", Printable(warning), "\n");
  }
  for (const std::string& finding : findings) {
    absl::StrAppend(&text, "Not proven: ", Printable(finding), "\n");
  }
  if (proven) {
    text += "Proven: no plaintext of these pods can leave its node.\n";
  }
  cluster.Print(json, text);
  return proven ? kExitOk : kExitNotProven;
}

}  // namespace

int ClusterVerify(const Cluster& cluster, const VerifyOptions& options) {
  int code = kExitOk;
  if (options.from.empty() && options.to.empty()) {
    const auto agents = cluster.Agents(&code);
    if (!agents.has_value()) return code;
    return Tell(cluster, cluster.Ask(*agents, {"verify"}), {});
  }
  std::vector<PodEnd> ends;
  for (const std::string& pod : {options.from, options.to}) {
    if (pod.empty()) continue;
    const std::optional<PodEnd> end = Find(cluster, pod, &code);
    if (!end.has_value()) return code;
    ends.push_back(*end);
  }
  std::vector<std::string> findings;
  std::vector<AgentAnswer> answers;
  for (const PodEnd& end : ends) {
    if (end.host_network) {
      // Not a pod of Espalier's network: the other end decides, if it is one.
      if (std::ranges::all_of(ends, &PodEnd::host_network)) {
        findings.push_back(absl::StrCat(
            end.name, " has hostNetwork: its traffic is its node's"));
      }
      continue;
    }
    const auto agents = cluster.AgentsOf({end.node}, &code);
    if (!agents.has_value()) return code;
    answers.push_back(cluster.Ask(*agents, {"verify", end.name}).front());
  }
  if (ends.size() == 2 && ends[0].node == ends[1].node) {
    cluster.err() << "both run on " << ends[0].node
                  << ": what they say to each other never leaves the node\n";
  } else if (ends.size() == 2) {
    const auto agents = cluster.AgentsOf({ends[0].node}, &code);
    if (!agents.has_value()) return code;
    const AgentAnswer tunnel =
        cluster.Ask(*agents, {"show", ends[1].node}).front();
    if (!tunnel.error.empty()) {
      findings.push_back(absl::StrCat("no tunnel from ", ends[0].node, " to ",
                                      ends[1].node, ": ", tunnel.error));
    } else if (TextAt(tunnel.json, "/state") != "up") {
      findings.push_back(absl::StrCat(
          "the tunnel from ", ends[0].node, " to ", ends[1].node, " is ",
          TextAt(tunnel.json, "/state"), ": between them nothing passes"));
    }
  }
  return Tell(cluster, answers, std::move(findings));
}

}  // namespace espalier::kubectl
