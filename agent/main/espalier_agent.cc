// espalier-agent: the node's agent, in a cluster or standalone.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <optional>
#include <string>

#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/main/agent.h"
#include "agent/main/cni_install.h"
#include "agent/main/heap.h"
#include "agent/main/kubernetes_mode.h"
#include "agent/main/node_key.h"
#include "agent/main/process.h"
#include "agent/main/uninstall.h"
#include "agent/mesh/cluster.h"
#include "agent/mesh/config/config.h"

namespace espalier::agent {
namespace {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitConfig = 3;
constexpr int kExitRunning = 4;
constexpr int kExitPods = 5;

constexpr char kFooter[] = R"(
Examples:
  espalier-agent --config /etc/espalier/node.yaml --check
  espalier-agent --config /etc/espalier/node.yaml
  espalier-agent --config /etc/espalier/agent.yaml --install-cni
  kill -HUP PID     read the configuration again (it is also watched)
  kill -TERM PID    end; tunnels and pods go on without the agent
  espalier-agent --config /etc/espalier/node.yaml --uninstall

Exit codes: 0 ended by a signal, the checked file is right, or everything is
removed; 1 could not start, or not everything could be removed; 2 wrong use; 3
the configuration is wrong; 4 another agent (with --uninstall: an agent or
espalier-espd) runs; 5 (--uninstall) pods are still attached.)";

int Check(const std::string& path) {
  absl::StatusOr<mesh::Config> config = mesh::LoadConfig(path);
  absl::Status status = config.status();
  if (config.ok()) status = mesh::ClusterFromConfig(*config).status();
  if (!status.ok()) {
    std::cerr << status.message() << "\n";
    return kExitConfig;
  }
  for (const std::string& warning : config->warnings) {
    std::cerr << warning << "\n";
  }
  std::cout << path << ": right; node " << config->node.name << ", ";
  if (config->source == mesh::ClusterSource::kKubernetes) {
    std::cout << "peers from the API server\n";
  } else {
    std::cout << config->peers.size() << " peers\n";
  }
  return kExitOk;
}

int Fail(const char* what, const absl::Status& status, int code) {
  base::Log(base::LogLevel::kError, what, {{"error", status}});
  return code;
}

// As pid 1 of a container it would not end by itself while it waits.
void EndWhileWaiting() {
  for (int number : {SIGTERM, SIGINT}) {
    signal(number, [](int) { _exit(kExitOk); });
  }
}

// Runs until a signal. `mode` is null outside Kubernetes.
int Serve(ConfigSource source, mesh::Config config,
          std::shared_ptr<const crypto::PrivateKey> key, KubernetesMode* mode,
          const std::optional<CniInstallOptions>& install) {
  const std::string run_directory = config.run_directory;
  Agent agent(std::move(source), std::move(config), std::move(key));
  const absl::Status status = agent.Start();
  if (!status.ok()) return Fail("cannot start", status, kExitFailed);
  if (mode != nullptr) mode->Begin(&agent);
  const HeapTrimmer trimmer(&agent.loop());
  std::optional<CniInstaller> installer;
  if (install) {
    CniInstallOptions options = *install;
    options.run_directory = run_directory;
    installer.emplace(std::move(options), &agent);
    installer->Begin();
  }
  agent.Run();
  installer.reset();
  if (mode != nullptr) mode->End();
  return kExitOk;
}

int ServeInKubernetes(const std::string& path, mesh::Config config,
                      const std::optional<CniInstallOptions>& install) {
  absl::StatusOr<ApiServer> server = ApiServer::Find(config.kubeconfig);
  if (!server.ok()) {
    return Fail("no API server", server.status(), kExitConfig);
  }
  absl::StatusOr<std::unique_ptr<KubernetesMode>> mode = KubernetesMode::Create(
      {.config_path = path, .base = std::move(config)}, *std::move(server));
  if (!mode.ok()) return Fail("no node key", mode.status(), kExitFailed);
  EndWhileWaiting();
  absl::StatusOr<mesh::Config> whole = (*mode)->Bootstrap();
  if (!whole.ok()) return Fail("cannot start", whole.status(), kExitFailed);
  return Serve((*mode)->Source(), *std::move(whole), (*mode)->key(),
               mode->get(), install);
}

// Before anything of the network is touched, and any thread exists.
absl::Status PrepareProcess() {
  // Files that the agent makes are its own to read unless they say otherwise.
  umask(077);
  signal(SIGPIPE, SIG_IGN);
  LimitHeap();
  ESPALIER_RETURN_IF_ERROR(HardenProcess());
  return DropCapabilities();
}

int RunUninstall(const std::string& path, const CniInstallOptions& cni,
                 bool force) {
  absl::StatusOr<mesh::Config> config = mesh::ReadConfig(path);
  if (!config.ok()) {
    std::cerr << config.status().message() << "\n";
    return kExitConfig;
  }
  base::SetLogLevel(base::LogLevel::kError);
  if (const absl::Status status = PrepareProcess(); !status.ok()) {
    return Fail("cannot uninstall", status, kExitFailed);
  }
  const absl::StatusOr<std::unique_ptr<InstanceLock>> lock =
      InstanceLock::Take(config->run_directory);
  if (!lock.ok()) {
    std::cout << "refused: " << lock.status().message() << "\n";
    return absl::IsFailedPrecondition(lock.status()) ? kExitRunning
                                                     : kExitFailed;
  }
  const std::unique_ptr<InstalledNode> node =
      MakeInstalledNode(*std::move(config), cni);
  switch (Uninstall(node.get(), force, std::cout)) {
    case UninstallResult::kDone:
      return kExitOk;
    case UninstallResult::kRefused:
      return kExitRunning;
    case UninstallResult::kPodsAttached:
      return kExitPods;
    case UninstallResult::kIncomplete:
      break;
  }
  std::cout << "not everything is removed: run it again\n";
  return kExitFailed;
}

int RunAgent(const std::string& path,
             const std::optional<CniInstallOptions>& install) {
  absl::StatusOr<mesh::Config> config = mesh::LoadConfig(path);
  if (!config.ok()) {
    // For people as `--check` prints it, one error a line.
    std::cerr << config.status().message() << "\n";
    return kExitConfig;
  }
  base::SetLogLevel(config->log_level);
  const absl::Status status = PrepareProcess();
  if (!status.ok()) return Fail("cannot start", status, kExitFailed);
  absl::StatusOr<std::unique_ptr<InstanceLock>> lock =
      InstanceLock::Take(config->run_directory);
  if (!lock.ok()) {
    return Fail(
        "cannot start", lock.status(),
        absl::IsFailedPrecondition(lock.status()) ? kExitRunning : kExitFailed);
  }
  if (config->source == mesh::ClusterSource::kKubernetes) {
    return ServeInKubernetes(path, *std::move(config), install);
  }
  std::shared_ptr<const crypto::PrivateKey> key;
  if (config->private_key) {
    key = config->private_key->key;
    if (key == nullptr) {
      absl::StatusOr<std::shared_ptr<const crypto::PrivateKey>> made =
          LoadNodeKey(*config->private_key);
      if (!made.ok()) return Fail("no node key", made.status(), kExitConfig);
      key = *std::move(made);
      const std::string& file = config->private_key->file.path;
      config->files[file] = base::StampOf(file);
    }
  }
  const auto load = [path]() -> absl::StatusOr<mesh::Config> {
    absl::StatusOr<mesh::Config> loaded = mesh::LoadConfig(path);
    if (loaded.ok() && loaded->source != mesh::ClusterSource::kFile) {
      // Taken as it stands it would have no peers.
      return absl::FailedPreconditionError(
          path + ": cluster.source changes with a restart only");
    }
    return loaded;
  };
  return Serve({.path = path, .load = load}, *std::move(config), std::move(key),
               nullptr, install);
}

int Main(int argc, char** argv) {
  std::string path;
  bool check = false;
  CLI::App app("Keeps this node's encrypted tunnels and attaches its pods.",
               "espalier-agent");
  app.footer(kFooter);
  app.set_version_flag("--version", ESPALIER_VERSION);
  app.add_option("--config", path, "The node's YAML file")
      ->required()
      ->type_name("FILE");
  app.add_flag("--check", check, "Only check the file, start nothing");
  bool install = false;
  CniInstallOptions cni;
  app.add_flag("--install-cni", install,
               "Once pods can be attached, install the CNI binary and the "
               "network configuration 00-espalier.conflist");
  app.add_option("--cni-bin-dir", cni.binary_directory,
                 "Where the runtime's CNI binaries are; portmap must be there")
      ->capture_default_str()
      ->type_name("FOLDER");
  app.add_option("--cni-conf-dir", cni.config_directory,
                 "Where the runtime's network configurations are")
      ->capture_default_str()
      ->type_name("FOLDER");
  app.add_option("--cni-binary", cni.binary, "What is installed there")
      ->capture_default_str()
      ->type_name("FILE");
  bool uninstall = false;
  bool force = false;
  CLI::Option* const remove =
      app.add_flag("--uninstall", uninstall,
                   "Remove everything that agents have made on this node, and "
                   "end: the CNI plugin first, the guards last. Refused while "
                   "an agent or espalier-espd runs, or pods are attached")
          ->excludes("--install-cni")
          ->excludes("--check");
  app.add_flag("--force", force,
               "With --uninstall: take the network of attached pods away")
      ->needs(remove);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  if (uninstall) return RunUninstall(path, cni, force);
  return check ? Check(path)
               : RunAgent(path, install ? std::optional(cni) : std::nullopt);
}

}  // namespace
}  // namespace espalier::agent

int main(int argc, char** argv) { return espalier::agent::Main(argc, argv); }
