#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"

namespace espalier::kubectl {
namespace {

constexpr char kFooter[] = R"(
Examples:
  kubectl espalier status
  kubectl espalier status --wait --timeout 2m && echo all tunnels are up
  kubectl espalier tunnels
  kubectl espalier tunnels node-a -o wide
  kubectl espalier show node-a node-b
  kubectl espalier pods -n shop
  kubectl espalier drops -f
  kubectl espalier verify && echo no plaintext of required pods can leave
  kubectl espalier verify --from shop/web-0 --to shop/db-0
  kubectl espalier verify --probe node-a node-b
  kubectl espalier rekey node-a node-b --ike
  kubectl espalier rotate --all
  kubectl espalier sysdump
  kubectl espalier uninstall && helm uninstall espalier -n espalier-system
  kubectl espalier --context staging status -o json | jq .problems
  source <(kubectl-espalier completion bash)
  kubectl-espalier --socket /run/espalier/agent.sock tunnels   (one host's agent)

Live details (tunnels, show, pods, drops, verify, rekey) run `kubectl exec` in
the agents' pods, at most 32 at once: whoever may do that is root on the nodes.
status and rotate need no exec. verify --probe also makes a namespace with two
pods, and deletes it; uninstall makes a Pod on each node.

Exit codes: 0 done; 1 refused; 2 wrong use; 3 no kubectl, API server, chart or
agent answers; 4 (status) something is not as it should be, (uninstall) not
every node is clean; 5 (verify) not proven.)";

struct Options {
  std::string output = "table";
  std::string kubeconfig;
  std::string context;
  std::string as;
  StatusOptions status;
  double timeout_seconds = 0;
  std::vector<std::string> nodes;
  std::string node;
  std::string peer;
  std::string name_space;
  DropsOptions drops;
  VerifyOptions verify;
  bool probe = false;
  ProbeOptions probe_options;
  UninstallOptions uninstall;
  bool ike = false;
  bool protocol50 = false;
  bool all = false;
  std::string folder;
  std::string shell;
};

// "90s", "5m": as kubectl's own --timeout.
CLI::Option* AddTimeout(CLI::App* app, absl::Duration* to) {
  return app
      ->add_option_function<std::string>(
          "--timeout",
          [to](const std::string& text) {
            if (!absl::ParseDuration(text, to) || *to < absl::ZeroDuration()) {
              throw CLI::ValidationError(
                  "--timeout", "'" + text + "' is no duration, as 90s or 5m");
            }
          },
          "How long to wait at most")
      ->type_name("DURATION")
      ->default_str(absl::FormatDuration(*to));
}

using Command = std::function<int(const Cluster&)>;

class Parser {
 public:
  explicit Parser(Options* options) : o_(*options) {
    app_.footer(kFooter);
    app_.require_subcommand(1);
    app_.fallthrough();
    app_.set_version_flag("--version", ESPALIER_VERSION);
    app_.add_option("-o,--output", o_.output, "table, wide, json or yaml")
        ->check(
            CLI::IsMember({"table", "wide", "json", "yaml"}).description(""))
        ->type_name("FORMAT")
        ->capture_default_str();
    app_.add_option("--context", o_.context, "As kubectl's");
    app_.add_option("--kubeconfig", o_.kubeconfig, "As kubectl's");
    app_.add_option("--as", o_.as, "As kubectl's: whom to act as");
    AddViews();
    AddActions();
  }

  CLI::App& app() { return app_; }
  const Command& command() const { return command_; }

 private:
  CLI::App* Add(const char* name, const char* text, Command command) {
    CLI::App* sub = app_.add_subcommand(name, text);
    sub->callback([this, command] { command_ = command; });
    return sub;
  }

  void AddViews() {
    CLI::App* status =
        Add("status", "The cluster at a glance",
            [this](const Cluster& c) { return ClusterStatus(c, o_.status); });
    status->add_flag("--wait", o_.status.wait,
                     "Wait until everything is as it should be");
    AddTimeout(status, &o_.status.timeout);
    Add("tunnels", "One line for each tunnel of each node",
        [this](const Cluster& c) { return ClusterTunnels(c, o_.nodes); })
        ->add_option("NODE", o_.nodes, "Only of these nodes");
    CLI::App* show = Add(
        "show", "The tunnel between two nodes, as each of them sees it",
        [this](const Cluster& c) { return ClusterShow(c, o_.node, o_.peer); });
    show->add_option("A", o_.node, "A node")->required();
    show->add_option("B", o_.peer, "Another node")->required();
    Add("pods", "Pods, their mode and what protects them",
        [this](const Cluster& c) { return ClusterPods(c, o_.name_space); })
        ->add_option("-n,--namespace", o_.name_space, "Only of this one");
    CLI::App* drops =
        Add("drops", "What the guards dropped, and why",
            [this](const Cluster& c) { return ClusterDrops(c, o_.drops); });
    drops->add_option("-n,--namespace", o_.drops.name_space,
                      "Only of this one's pods");
    drops->add_flag("-f,--follow", o_.drops.follow,
                    "Go on and show new ones until interrupted");
    CLI::App* verify =
        Add("verify",
            "Whether plaintext of required pods can leave a node, by the "
            "guards and the witness's counters",
            [this](const Cluster& c) {
              return o_.probe ? ClusterProbe(c, o_.probe_options)
                              : ClusterVerify(c, o_.verify);
            });
    CLI::Option* from =
        verify->add_option("--from", o_.verify.from, "A pod, NAMESPACE/NAME");
    CLI::Option* to = verify->add_option("--to", o_.verify.to,
                                         "The other end, NAMESPACE/NAME");
    CLI::Option* probe =
        verify
            ->add_flag("--probe", o_.probe,
                       "Send packets between two pods of its own, in a "
                       "namespace that it makes and deletes")
            ->excludes(from)
            ->excludes(to);
    verify->add_option("NODE", o_.probe_options.nodes, "Between these two")
        ->needs(probe)
        ->expected(2);
    AddTimeout(verify, &o_.probe_options.timeout)->needs(probe);
  }

  void AddActions() {
    CLI::App* rekey = Add("rekey", "Begins a rekey of a tunnel now",
                          [this](const Cluster& c) {
                            Arguments flags;
                            if (o_.ike) flags.push_back("--ike");
                            if (o_.protocol50) flags.push_back("--protocol50");
                            return ClusterRekey(c, o_.node, o_.peer, flags);
                          });
    rekey->add_option("NODE", o_.node, "Whose agent begins it")->required();
    rekey->add_option("PEER", o_.peer, "The other node")->required();
    CLI::Option* ike =
        rekey->add_flag("--ike", o_.ike, "The IKE_SA and not the ESP SAs");
    rekey
        ->add_flag("--protocol50", o_.protocol50,
                   "A new tunnel without UDP, after a fallback to UDP 4500")
        ->excludes(ike);
    CLI::App* rotate =
        Add("rotate", "Replaces nodes' keys, without a lost packet",
            [this](const Cluster& c) {
              return ClusterRotate(c, o_.nodes, o_.all);
            });
    rotate->add_option("NODE", o_.nodes, "The nodes");
    rotate->add_flag("--all", o_.all, "All nodes");
    Add("sysdump", "Collects what helps to look into a problem; no keys",
        [this](const Cluster& c) {
          return ClusterSysdump(
              c,
              o_.folder.empty()
                  ? absl::StrCat("espalier-sysdump-",
                                 absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(),
                                                  absl::LocalTimeZone()))
                  : o_.folder);
        })
        ->add_option("FOLDER", o_.folder, "A new one; a name by time if empty");
    CLI::App* uninstall = Add(
        "uninstall",
        "Ends the agents and removes from every node what they made, the "
        "guards last. Before helm uninstall, which leaves it there. "
        "Refused while pods are attached",
        [this](const Cluster& c) { return ClusterUninstall(c, o_.uninstall); });
    uninstall->add_flag("--force", o_.uninstall.force,
                        "Take the network of attached pods away");
    AddTimeout(uninstall, &o_.uninstall.timeout);
    Add("completion", "Prints a shell's completion script",
        [this](const Cluster& c) {
          return Completion(o_.shell, c.out(), c.err());
        })
        ->add_option("SHELL", o_.shell, "bash, zsh, fish or kubectl")
        ->required();
  }

  Options& o_;
  CLI::App app_{
      "Looks into the tunnels and pods of an Espalier cluster. With --socket, "
      "into one host's.",
      "kubectl-espalier"};
  Command command_;
};

}  // namespace

int RunOnCluster(const std::vector<std::string>& arguments, std::ostream& out,
                 std::ostream& err) {
  Options options;
  Parser parser(&options);
  try {
    // CLI11 wants them in reverse.
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    parser.app().parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    const int code = parser.app().exit(error, out, err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  const std::map<std::string, Format> formats = {{"table", Format::kTable},
                                                 {"wide", Format::kWide},
                                                 {"json", Format::kJson},
                                                 {"yaml", Format::kYaml}};
  Arguments kubectl_options;
  for (const auto& [flag, value] :
       {std::pair{"--kubeconfig", &options.kubeconfig},
        std::pair{"--context", &options.context},
        std::pair{"--as", &options.as}}) {
    if (!value->empty()) {
      kubectl_options.push_back(absl::StrCat(flag, "=", *value));
    }
  }
  const char* program = getenv("KUBECTL");
  const KubectlProgram kubectl(
      program != nullptr && *program != '\0' ? program : "kubectl",
      std::move(kubectl_options));
  const Cluster cluster(&kubectl, formats.at(options.output), &out, &err);
  return parser.command()(cluster);
}

}  // namespace espalier::kubectl
