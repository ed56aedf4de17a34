// `verify --probe`: traffic of two pods of its own, in a `required` namespace
// of its own, judged by the ESP counters of their nodes and by the witness.
#include <signal.h>

#include <algorithm>
#include <array>
#include <ostream>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"
#include "agent/kubectl/probe_ends.h"
#include "agent/kubectl/table.h"

namespace espalier::kubectl {
namespace {

constexpr char kProgram[] = "/usr/bin/kubectl-espalier";
constexpr char kMode[] = "espalier.dev/encryption";
constexpr char kRights[] =
    "verify --probe makes a namespace with two pods, runs a program in them "
    "and "
    "deletes the namespace: it needs create and delete on namespaces, create "
    "on "
    "pods and pods/exec, and get on pods, serviceaccounts and events in it";
// Asked of each address; a peer's own probes are some in ten seconds.
constexpr int kCount = 100;

volatile sig_atomic_t interrupted = 0;

// While it lives, Ctrl-C ends the work and not the cleaning up.
class HoldInterrupts {
 public:
  HoldInterrupts() {
    interrupted = 0;
    struct sigaction action{};
    action.sa_handler = [](int) { interrupted = 1; };
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < kSignals.size(); ++i) {
      sigaction(kSignals[i], &action, &before_[i]);
    }
  }
  ~HoldInterrupts() {
    for (size_t i = 0; i < kSignals.size(); ++i) {
      sigaction(kSignals[i], &before_[i], nullptr);
    }
  }
  HoldInterrupts(const HoldInterrupts&) = delete;
  HoldInterrupts& operator=(const HoldInterrupts&) = delete;

 private:
  static constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, kSignals.size()> before_;
};

// Of one node.
struct End {
  AgentPod agent;
  std::string pod;  // its name
  std::string image;
  std::vector<std::string> addresses;  // of the pod, one a family at most
  uint64_t out = 0;                    // ESP packets to the other node
  uint64_t in = 0;
  // What the counters must have grown by.
  uint64_t expected = 0;
  uint64_t grown_out = 0;
  uint64_t grown_in = 0;
  uint64_t stopped = 0;
};

struct Asked {
  std::string from;  // nodes
  std::string to;
  std::string address;
  int64_t sent = 0;
  int64_t answered = 0;
};

const char* FamilyOf(const std::string& address) {
  return absl::StrContains(address, ':') ? "IPv6" : "IPv4";
}

std::string NameOfSpace() {
  constexpr char kLetters[] = "bcdfghjklmnpqrstvwxz0123456789";
  std::random_device random;
  std::uniform_int_distribution<size_t> letter(0, sizeof(kLetters) - 2);
  std::string name = "espalier-verify-";
  for (int i = 0; i < 6; ++i) name += kLetters[letter(random)];
  return name;
}

Json SpaceJson(const std::string& name) {
  return {{"apiVersion", "v1"},
          {"kind", "Namespace"},
          {"metadata",
           {{"name", name},
            {"labels", {{"app.kubernetes.io/name", "espalier-verify"}}},
            {"annotations", {{kMode, "required"}}}}}};
}

// As the strictest of Kubernetes' pod security standards wants it. nodeName,
// since a node that is cordoned is to be proven as well.
Json PodJson(const std::string& name_space, const End& end) {
  Json container = {
      {"name", "probe"},
      {"image", end.image},
      // It is there: the agent runs it.
      {"imagePullPolicy", "IfNotPresent"},
      {"command", Json::array({kProgram, "probe", "serve"})},
      {"resources", {{"requests", {{"cpu", "10m"}, {"memory", "32Mi"}}}}},
      {"securityContext",
       {{"allowPrivilegeEscalation", false},
        {"readOnlyRootFilesystem", true},
        {"capabilities", {{"drop", Json::array({"ALL"})}}}}}};
  Json toleration = {{"operator", "Exists"}};
  Json containers = Json::array();
  containers.push_back(std::move(container));
  Json tolerations = Json::array();
  tolerations.push_back(std::move(toleration));
  return {{"apiVersion", "v1"},
          {"kind", "Pod"},
          {"metadata", {{"name", end.pod}, {"namespace", name_space}}},
          {"spec",
           {{"nodeName", end.agent.node},
            {"restartPolicy", "Never"},
            {"terminationGracePeriodSeconds", 0},
            {"automountServiceAccountToken", false},
            {"enableServiceLinks", false},
            {"tolerations", tolerations},
            {"securityContext",
             {{"runAsNonRoot", true},
              {"runAsUser", 65534},
              {"seccompProfile", {{"type", "RuntimeDefault"}}}}},
            {"containers", containers}}}};
}

class Probe {
 public:
  Probe(const Cluster& cluster, const ProbeOptions& options)
      : cluster_(cluster),
        options_(options),
        name_space_(NameOfSpace()),
        deadline_(absl::Now() + options.timeout) {}

  int Run() {
    if (!ChooseEnds()) return code_;
    if (ends_.size() == 2) {
      const HoldInterrupts hold;
      cluster_.err() << "Two probe pods in namespace " << name_space_ << ", on "
                     << ends_[0].agent.node << " and " << ends_[1].agent.node
                     << "\n";
      if (MakeSpace()) Work();
      CleanUp();
      if (refused_) return code_;
      // What was not reached is not worth a line then.
      if (interrupted != 0) findings_ = {"interrupted"};
    }
    return Tell();
  }

 private:
  void Find(std::string finding) { findings_.push_back(std::move(finding)); }

  bool Over() const { return interrupted != 0 || absl::Now() >= deadline_; }

  // False: told on err, code_ is set. Without two ends there is a finding.
  bool ChooseEnds() {
    const auto agents = options_.nodes.empty()
                            ? cluster_.Agents(&code_)
                            : cluster_.AgentsOf(options_.nodes, &code_);
    if (!agents.has_value()) return false;
    if (agents->size() < 2) {
      Find(absl::StrCat("an agent runs on ", agents->front().node,
                        " alone: nothing leaves a node for another"));
      return true;
    }
    for (size_t i = 0; i < 2; ++i) {
      const AgentPod& agent = (*agents)[i];
      if (!agent.ready) {
        Find(absl::StrCat("the agent of ", agent.node, " does not run (",
                          agent.why_not, ")"));
        ends_.clear();
        return true;
      }
      const auto pod =
          cluster_.Get({"pod", "-n", agent.name_space, agent.name}, &code_);
      if (!pod.has_value()) return false;
      End end{.agent = agent, .pod = i == 0 ? "a" : "b"};
      for (const Json& container : At(*pod, "/spec/containers")) {
        if (TextAt(container, "/name") != "agent") continue;
        end.image = TextAt(container, "/image");
      }
      ends_.push_back(std::move(end));
    }
    return true;
  }

  // False: refused_ and code_ are set.
  bool MakeSpace() {
    const Output output = cluster_.kubectl().Run({"create", "-f", "-"},
                                                 SpaceJson(name_space_).dump());
    // Without an answer nobody knows.
    there_ = output.ok() || IsUnreachable(output);
    return output.ok() || Refused(output);
  }

  bool Refused(const Output& output) {
    cluster_.err() << Explain(cluster_.kubectl(), output) << "\n";
    if (absl::StrContains(output.err, "orbidden")) {
      cluster_.err() << kRights << "\n";
    }
    refused_ = true;
    code_ = IsUnreachable(output) ? kExitNoAgent : kExitRefused;
    return false;
  }

  void Work() {
    if (!MakePods() || !WaitForPods() || !ReadCounters(/*first=*/true) ||
        !Ask()) {
      return;
    }
    WaitForCounters();
    if (interrupted == 0) ReadWitness();
  }

  bool MakePods() {
    // A pod is refused before the namespace has its account.
    while (!cluster_.kubectl()
                .Run({"get", "serviceaccount", "default", "-n", name_space_})
                .ok()) {
      if (Over()) {
        Find(absl::StrCat("namespace ", name_space_,
                          " got no service account `default`"));
        return false;
      }
      absl::SleepFor(options_.interval);
    }
    Json pods = Json::array();
    for (const End& end : ends_) pods.push_back(PodJson(name_space_, end));
    const Json list = {
        {"apiVersion", "v1"}, {"kind", "List"}, {"items", std::move(pods)}};
    const Output output =
        cluster_.kubectl().Run({"create", "-f", "-"}, list.dump());
    return output.ok() || Refused(output);
  }

  bool WaitForPods() {
    for (;;) {
      std::string why;
      int ignored = kExitOk;
      const auto pods = cluster_.List({"pods", "-n", name_space_}, &ignored);
      if (pods.has_value()) why = Missing(*pods);
      if (pods.has_value() && why.empty()) return true;
      if (Over()) {
        Find(why.empty() ? "the probe pods could not be read" : why);
        if (interrupted == 0) AddEvents();
        return false;
      }
      absl::SleepFor(options_.interval);
    }
  }

  // What is still missing; empty when both run.
  std::string Missing(const std::vector<Json>& pods) {
    for (End& end : ends_) {
      const auto found = std::ranges::find_if(pods, [&](const Json& pod) {
        return TextAt(pod, "/metadata/name") == end.pod;
      });
      if (found == pods.end()) {
        return absl::StrCat("the probe pod on ", end.agent.node, " is gone");
      }
      if (!ConditionOf(*found, "Ready").is_true) {
        std::string reason = TextAt(*found, "/status/phase");
        for (const Json& container : At(*found, "/status/containerStatuses")) {
          for (const char* word :
               {"/state/waiting/reason", "/state/waiting/message",
                "/state/terminated/reason"}) {
            const std::string text = TextAt(container, word);
            if (!text.empty()) absl::StrAppend(&reason, ", ", text);
          }
        }
        return absl::StrCat("the probe pod on ", end.agent.node,
                            " does not run: ", reason);
      }
      end.addresses.clear();
      for (const Json& address : At(*found, "/status/podIPs")) {
        end.addresses.push_back(TextAt(address, "/ip"));
      }
    }
    return "";
  }

  // Why no sandbox is made stands in events alone.
  void AddEvents() {
    int ignored = kExitOk;
    const auto events = cluster_.List(
        {"events", "-n", name_space_, "--field-selector", "type=Warning"},
        &ignored);
    if (!events.has_value() || events->empty()) return;
    absl::StrAppend(&findings_.back(),
                    ". Last event: ", TextAt(events->back(), "/message"));
  }

  // The tunnel as each end counts it.
  bool ReadCounters(bool first) {
    for (size_t i = 0; i < 2; ++i) {
      End& end = ends_[i];
      const AgentAnswer answer =
          cluster_.Ask({end.agent}, {"show", ends_[1 - i].agent.node}).front();
      if (!answer.error.empty()) {
        Find(absl::StrCat(end.agent.node, " was not asked: ", answer.error));
        return false;
      }
      const auto tunnel = As<v1::Tunnel>(answer);
      const uint64_t out = tunnel.outbound().packets();
      const uint64_t in = tunnel.inbound().packets();
      if (first) {
        end.out = out;
        end.in = in;
        if (tunnel.state() != "up") {
          warnings_.push_back(absl::StrCat(
              "the tunnel from ", end.agent.node, " to ",
              ends_[1 - i].agent.node, " was ", tunnel.state(), " at first"));
        }
        continue;
      }
      // An agent that was started anew counts from zero again.
      end.grown_out = out - std::min(out, end.out);
      end.grown_in = in - std::min(in, end.in);
    }
    return true;
  }

  // Both at once, so that packets cross.
  bool Ask() {
    std::vector<Arguments> commands;
    for (size_t i = 0; i < 2; ++i) {
      Arguments command = {
          "exec",   "-n",    name_space_, ends_[i].pod, "--",
          kProgram, "probe", "ask",       "--count",    absl::StrCat(kCount)};
      for (const std::string& address : ends_[1 - i].addresses) {
        const bool both = std::ranges::any_of(
            ends_[i].addresses, [&](const std::string& own) {
              return std::string(FamilyOf(own)) == FamilyOf(address);
            });
        if (both) {
          command.push_back(address);
        } else {
          warnings_.push_back(absl::StrCat(
              "not tried: ", FamilyOf(address), ", which the pod on ",
              ends_[i].agent.node, " has no address of"));
        }
      }
      commands.push_back(std::move(command));
    }
    const std::vector<Output> outputs = cluster_.kubectl().RunAll(commands);
    if (interrupted != 0) return false;
    bool asked = true;
    for (size_t i = 0; i < 2; ++i) {
      const Json json = Json::parse(outputs[i].out, nullptr, false);
      if (!outputs[i].ok() || !json.is_object() || At(json, "/asked").empty()) {
        Find(absl::StrCat(
            "the probe pod on ", ends_[i].agent.node,
            " could not ask: ", Explain(cluster_.kubectl(), outputs[i])));
        asked = false;
        continue;
      }
      for (const Json& one : At(json, "/asked")) Count(i, one);
    }
    return asked;
  }

  void Count(size_t i, const Json& one) {
    const Asked asked{.from = ends_[i].agent.node,
                      .to = ends_[1 - i].agent.node,
                      .address = TextAt(one, "/address"),
                      .sent = NumberAt(one, "/sent"),
                      .answered = NumberAt(one, "/answered")};
    // An answer crosses as its question did, the other way.
    for (End& end : ends_) {
      end.expected +=
          static_cast<uint64_t>(std::max<int64_t>(0, asked.answered));
    }
    if (asked.answered < kCount) {
      const std::string error = TextAt(one, "/error");
      Find(absl::StrCat("from ", asked.from, " to ", asked.to, " by ",
                        FamilyOf(asked.address), " ", asked.answered, " of ",
                        kCount, " questions were answered",
                        error.empty() ? "" : ": ", error));
    }
    asked_.push_back(asked);
  }

  // The datapath's counters may be a moment behind.
  void WaitForCounters() {
    for (;;) {
      if (!ReadCounters(/*first=*/false)) return;
      const bool enough = std::ranges::all_of(ends_, [](const End& end) {
        return end.grown_out >= end.expected && end.grown_in >= end.expected;
      });
      if (enough) return;
      if (Over()) break;
      absl::SleepFor(options_.interval);
    }
    for (size_t i = 0; i < 2; ++i) {
      const End& end = ends_[i];
      if (end.grown_out < end.expected || end.grown_in < end.expected) {
        Find(absl::StrCat(end.agent.node, " counted ", end.grown_out,
                          " packets into ESP towards ", ends_[1 - i].agent.node,
                          " and ", end.grown_in, " out of it, where ",
                          end.expected, " were exchanged"));
      }
    }
  }

  void ReadWitness() {
    for (End& end : ends_) {
      const AgentAnswer answer =
          cluster_
              .Ask({end.agent},
                   {"verify", absl::StrCat(name_space_, "/", end.pod)})
              .front();
      if (!answer.error.empty()) {
        Find(absl::StrCat(end.agent.node, " was not asked: ", answer.error));
        continue;
      }
      const auto proof = As<v1::VerifyResponse>(answer);
      const size_t before = findings_.size();
      for (const std::string& finding : proof.findings()) {
        Find(absl::StrCat(end.agent.node, ": ", finding));
      }
      for (const v1::PodProof& pod : proof.pods()) {
        end.stopped += pod.stopped();
        for (const std::string& finding : pod.findings()) {
          Find(
              absl::StrCat("the probe pod on ", end.agent.node, ": ", finding));
        }
      }
      if (end.stopped != 0) {
        Find(absl::StrCat("a guard of ", end.agent.node, " stopped ",
                          end.stopped, " plaintext packets of the probe"));
      } else if (!proof.proven() && findings_.size() == before) {
        Find(absl::StrCat(end.agent.node, ": not proven"));
      }
    }
  }

  // Does not wait until the API server has done it.
  void CleanUp() {
    if (!there_) return;
    const Output output =
        cluster_.kubectl().Run({"delete", "namespace", name_space_,
                                "--ignore-not-found", "--wait=false"});
    if (output.ok()) return;
    cluster_.err() << "Namespace " << name_space_
                   << " may be left (kubectl delete namespace " << name_space_
                   << "): " << Explain(cluster_.kubectl(), output) << "\n";
  }

  int Tell() {
    const bool proven = findings_.empty();
    Json json = {{"proven", proven},         {"findings", findings_},
                 {"warnings", warnings_},    {"namespace", name_space_},
                 {"traffic", Json::array()}, {"nodes", Json::array()}};
    Table traffic({"FROM", "TO", "FAMILY", "SENT", "ANSWERED"});
    for (const Asked& asked : asked_) {
      traffic.Add({asked.from, asked.to, FamilyOf(asked.address),
                   absl::StrCat(asked.sent), absl::StrCat(asked.answered)});
      json["traffic"].push_back({{"from", asked.from},
                                 {"to", asked.to},
                                 {"address", asked.address},
                                 {"sent", asked.sent},
                                 {"answered", asked.answered}});
    }
    Table nodes({"NODE", "ESP-OUT", "ESP-IN", "EXCHANGED", "STOPPED"});
    for (const End& end : ends_) {
      nodes.Add({end.agent.node, absl::StrCat(end.grown_out),
                 absl::StrCat(end.grown_in), absl::StrCat(end.expected),
                 absl::StrCat(end.stopped)});
      json["nodes"].push_back({{"node", end.agent.node},
                               {"esp_out", end.grown_out},
                               {"esp_in", end.grown_in},
                               {"exchanged", end.expected},
                               {"stopped", end.stopped}});
    }
    std::string text;
    if (!asked_.empty()) {
      text = absl::StrCat(traffic.Render(), "\n", nodes.Render(), "\n");
    }
    for (const std::string& warning : warnings_) {
      absl::StrAppend(&text, "Warning: ", Printable(warning), "\n");
    }
    for (const std::string& finding : findings_) {
      absl::StrAppend(&text, "Not proven: ", Printable(finding), "\n");
    }
    if (proven) {
      text +=
          "Proven: what the probe pods said to each other crossed between "
          "their nodes as ESP, and no guard saw plaintext of theirs.\n";
    }
    cluster_.Print(json, text);
    return proven ? kExitOk : kExitNotProven;
  }

  const Cluster& cluster_;
  const ProbeOptions& options_;
  const std::string name_space_;
  const absl::Time deadline_;
  std::vector<End> ends_;
  std::vector<Asked> asked_;
  std::vector<std::string> findings_;
  std::vector<std::string> warnings_;
  bool there_ = false;  // the namespace, as far as is known
  bool refused_ = false;
  int code_ = kExitOk;
};

}  // namespace

int ClusterProbe(const Cluster& cluster, const ProbeOptions& options) {
  if (!options.nodes.empty() &&
      (options.nodes.size() != 2 || options.nodes[0] == options.nodes[1])) {
    cluster.err() << "verify --probe takes two different nodes, or none: it "
                     "chooses the first two then\n";
    return kExitUsage;
  }
  return Probe(cluster, options).Run();
}

}  // namespace espalier::kubectl
