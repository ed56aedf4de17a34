// espalier-controller: verifies what nodes claim, for the whole cluster.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <future>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/controller/controller.h"
#include "agent/crypto/random.h"
#include "agent/kube/cluster_access.h"
#include "agent/kube/curl_transport.h"
#include "agent/runtime/loop.h"
#include "agent/service/http_server.h"
#include "agent/service/secure_metrics.h"

namespace espalier::controller {
namespace {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

constexpr char kFooter[] = R"(
It reads Nodes and EspalierNodes and writes each EspalierNode's status: the
addresses and pod CIDRs that are the Node's, inside the given ranges, and no
other node's. One replica leads (by a Lease), the others wait. While none runs,
tunnels go on and rekey; only new nodes and changed addresses wait.

Examples:
  espalier-controller --cluster-pod-cidr 10.244.0.0/16,fd00:10:244::/56
  espalier-controller --cluster-pod-cidr 10.244.0.0/16 \
      --node-cidr 192.0.2.0/24 --kubeconfig ~/.kube/config --namespace default
  curl http://127.0.0.1:9477/readyz
  kubectl get espaliernodes -o wide      what it has verified, and what not

HTTP: /healthz the loop answers; /readyz all lists have been read; /metrics.
HTTPS, with --secure-metrics-listen: /metrics for whoever shows a bearer token
that may `get` the nonResourceURL /metrics.
Exit codes: 0 ended by a signal; 1 could not start; 2 wrong use.)";

struct Flags {
  std::vector<std::string> cluster_pod_cidrs;
  std::vector<std::string> node_cidrs;
  std::string default_mode = "preferred";
  std::string name_space;
  std::string identity;
  std::string listen = "127.0.0.1:9477";
  std::string secure_listen;
  std::string certificate_file;
  std::string key_file;
  std::string kubeconfig;
  std::string log_level = "info";
};

absl::StatusOr<std::vector<base::IpPrefix>> Prefixes(
    const char* flag, const std::vector<std::string>& texts) {
  std::vector<base::IpPrefix> prefixes;
  for (const std::string& text : texts) {
    absl::StatusOr<base::IpPrefix> prefix = base::IpPrefix::Parse(text);
    if (!prefix.ok()) return base::Annotate(prefix.status(), flag);
    prefixes.push_back(*prefix);
  }
  return prefixes;
}

absl::StatusOr<base::Endpoint> ListenAddress(const char* flag,
                                             const std::string& text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(text.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        flag, ": '", text, "' is not ADDRESS:PORT, as 127.0.0.1:9477"));
  }
  std::string address = text.substr(0, colon);
  if (address.size() > 2 && address.front() == '[' && address.back() == ']') {
    address = address.substr(1, address.size() - 2);
  }
  ESPALIER_ASSIGN_OR_RETURN(const base::IpAddress parsed,
                            base::IpAddress::Parse(address));
  return base::Endpoint{parsed, static_cast<uint16_t>(port)};
}

absl::StatusOr<ControllerOptions> Options(const Flags& flags) {
  ControllerOptions options;
  AddressPlan& plan = options.reconciler.plan;
  ESPALIER_ASSIGN_OR_RETURN(
      plan.cluster_pod_cidrs,
      Prefixes("--cluster-pod-cidr", flags.cluster_pod_cidrs));
  ESPALIER_ASSIGN_OR_RETURN(plan.node_cidrs,
                            Prefixes("--node-cidr", flags.node_cidrs));
  const std::optional<base::Mode> mode = base::ParseMode(flags.default_mode);
  if (!mode.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--default-mode: '", flags.default_mode,
                     "' is none of required, preferred, disabled"));
  }
  options.default_mode = *mode;
  options.election.name_space = flags.name_space;
  options.election.lease = "espalier-controller";
  options.election.identity = flags.identity;
  if (options.election.identity.empty()) {
    char name[256] = {};
    gethostname(name, sizeof(name) - 1);
    options.election.identity = name;
  }
  return options;
}

// On the HTTP server's thread: nothing within two seconds means that the loop
// hangs, which a probe is there to find.
std::optional<ControllerState> StateFromLoop(runtime::Loop* loop,
                                             const Controller* controller) {
  auto promise = std::make_shared<std::promise<ControllerState>>();
  std::future<ControllerState> future = promise->get_future();
  loop->Post(
      [promise, controller] { promise->set_value(controller->State()); });
  if (future.wait_for(std::chrono::seconds(2)) != std::future_status::ready) {
    return std::nullopt;
  }
  return future.get();
}

// What each path answers of the controller's state.
class Pages {
 public:
  Pages(runtime::Loop* loop, const Controller* controller)
      : loop_(loop), controller_(controller) {}

  service::HttpServer::Handler Healthz() const {
    return With([](const ControllerState&) {
      return service::HttpAnswer{.body = "ok\n"};
    });
  }
  service::HttpServer::Handler Readyz() const {
    return With([](const ControllerState& state) -> service::HttpAnswer {
      if (!state.in_sync) return {.status = 503, .body = state.not_synced};
      return {.body = state.leader ? "ok, leading\n" : "ok, standby\n"};
    });
  }
  service::HttpServer::Handler Metrics() const {
    return With([](const ControllerState& state) {
      return service::HttpAnswer{
          .content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = RenderMetrics(state)};
    });
  }

 private:
  template <typename Render>
  service::HttpServer::Handler With(Render render) const {
    return [loop = loop_, controller = controller_,
            render]() -> service::HttpAnswer {
      const std::optional<ControllerState> state =
          StateFromLoop(loop, controller);
      if (!state.has_value()) {
        return {.status = 503, .body = "the controller's loop hangs\n"};
      }
      return render(*state);
    };
  }

  runtime::Loop* const loop_;
  const Controller* const controller_;
};

// Null unless it is asked for.
absl::StatusOr<std::unique_ptr<service::SecureMetrics>> ServeSecureMetrics(
    const Flags& flags, kube::Transport* transport, base::Clock* clock,
    runtime::Loop* loop, const Pages& pages) {
  if (flags.secure_listen.empty()) {
    return std::unique_ptr<service::SecureMetrics>();
  }
  if (flags.certificate_file.empty() || flags.key_file.empty()) {
    return absl::InvalidArgumentError(
        "--secure-metrics-listen needs --secure-metrics-certificate and "
        "--secure-metrics-key");
  }
  ESPALIER_ASSIGN_OR_RETURN(
      const base::Endpoint listen,
      ListenAddress("--secure-metrics-listen", flags.secure_listen));
  ESPALIER_ASSIGN_OR_RETURN(
      std::unique_ptr<service::SecureMetrics> metrics,
      service::SecureMetrics::Start(
          {listen, flags.certificate_file, flags.key_file}, transport, clock,
          pages.Metrics()));
  for (const std::string& path : {flags.certificate_file, flags.key_file}) {
    ESPALIER_RETURN_IF_ERROR(
        loop->WatchFile(path, [served = metrics.get()] { served->Reload(); }));
  }
  return metrics;
}

absl::Status Run(const Flags& flags) {
  ESPALIER_ASSIGN_OR_RETURN(ControllerOptions options, Options(flags));
  ESPALIER_ASSIGN_OR_RETURN(const base::Endpoint listen,
                            ListenAddress("--listen", flags.listen));
  ESPALIER_ASSIGN_OR_RETURN(kube::ClusterAccess::Parts parts,
                            kube::ClusterAccess::Find(flags.kubeconfig));
  kube::ClusterAccess access(std::move(parts));
  if (options.election.name_space.empty()) {
    options.election.name_space = access.name_space();
  }
  kube::CurlTransport transport(&access);
  crypto::SystemRandom random;
  base::SteadyClock clock;
  runtime::Loop loop;
  Controller controller(std::move(options), &transport, &loop, &clock, &random);
  const Pages pages(&loop, &controller);
  ESPALIER_ASSIGN_OR_RETURN(
      const std::unique_ptr<service::HttpServer> http,
      service::HttpServer::Start(listen, {{"/healthz", pages.Healthz()},
                                          {"/readyz", pages.Readyz()},
                                          {"/metrics", pages.Metrics()}}));
  ESPALIER_ASSIGN_OR_RETURN(
      const std::unique_ptr<service::SecureMetrics> secure,
      ServeSecureMetrics(flags, &transport, &clock, &loop, pages));
  for (const int signal : {SIGTERM, SIGINT}) {
    ESPALIER_RETURN_IF_ERROR(loop.OnSignal(signal, [&] {
      base::Log(base::LogLevel::kInfo, "ending");
      controller.Stop([&] { loop.Stop(); });
    }));
  }
  base::Log(base::LogLevel::kInfo, "started",
            {{"version", ESPALIER_VERSION}, {"listen", flags.listen}});
  controller.Start();
  loop.Run();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Verifies the addresses and pod CIDRs that nodes claim.",
               "espalier-controller");
  app.footer(kFooter);
  app.set_version_flag("--version", ESPALIER_VERSION);
  app.add_option("--cluster-pod-cidr", flags.cluster_pod_cidrs,
                 "Ranges of all pods' addresses")
      ->required()
      ->delimiter(',')
      ->type_name("CIDR");
  app.add_option("--node-cidr", flags.node_cidrs,
                 "Ranges of all nodes' addresses; without it any address that "
                 "is no pod's")
      ->delimiter(',')
      ->type_name("CIDR");
  app.add_option("--default-mode", flags.default_mode,
                 "Of namespaces without an annotation")
      ->type_name("MODE")
      ->capture_default_str();
  app.add_option("--namespace", flags.name_space, "Of the Lease")
      ->envname("POD_NAMESPACE");
  app.add_option("--identity", flags.identity,
                 "This replica's name in the Lease; the host's if empty")
      ->envname("POD_NAME");
  app.add_option("--listen", flags.listen,
                 "Where health and metrics are served")
      ->type_name("ADDRESS:PORT")
      ->capture_default_str();
  app.add_option("--secure-metrics-listen", flags.secure_listen,
                 "Where metrics are served over TLS, to whom the API server "
                 "lets read them; nowhere if empty")
      ->type_name("ADDRESS:PORT");
  app.add_option("--secure-metrics-certificate", flags.certificate_file,
                 "PEM; read again when it changes")
      ->type_name("FILE");
  app.add_option("--secure-metrics-key", flags.key_file, "The same")
      ->type_name("FILE");
  app.add_option("--kubeconfig", flags.kubeconfig,
                 "Outside a pod; inside, its service account")
      ->type_name("FILE");
  app.add_option("--log-level", flags.log_level,
                 "debug, info, warning or error")
      ->check(
          CLI::IsMember({"debug", "info", "warning", "error"}).description(""))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  base::LogLevel level = base::LogLevel::kInfo;
  base::ParseLogLevel(flags.log_level, &level);
  base::SetLogLevel(level);
  signal(SIGPIPE, SIG_IGN);
  const absl::Status status = Run(flags);
  if (status.ok()) return kExitOk;
  std::cerr << "espalier-controller: " << status.message() << "\n";
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailed;
}

}  // namespace
}  // namespace espalier::controller

int main(int argc, char** argv) {
  return espalier::controller::Main(argc, argv);
}
