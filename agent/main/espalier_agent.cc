// espalier-agent: the node's agent in standalone mode.
#include <signal.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/main/agent.h"
#include "agent/main/node_key.h"
#include "agent/main/process.h"
#include "agent/mesh/cluster.h"
#include "agent/mesh/config/config.h"

namespace espalier::agent {
namespace {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitConfig = 3;
constexpr int kExitRunning = 4;

constexpr char kFooter[] = R"(
Examples:
  espalier-agent --config /etc/espalier/node.yaml --check
  espalier-agent --config /etc/espalier/node.yaml
  kill -HUP PID     read the configuration again (it is also watched)
  kill -TERM PID    end; tunnels and pods go on without the agent

Exit codes: 0 ended by a signal, or the checked file is right; 1 could not
start; 2 wrong use; 3 the configuration is wrong; 4 another agent runs.)";

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
  std::cout << path << ": right; node " << config->node.name << ", "
            << config->peers.size() << " peers\n";
  return kExitOk;
}

int Fail(const char* what, const absl::Status& status, int code) {
  base::Log(base::LogLevel::kError, what, {{"error", status}});
  return code;
}

int RunAgent(const std::string& path) {
  absl::StatusOr<mesh::Config> config = mesh::LoadConfig(path);
  if (!config.ok()) {
    // For people as `--check` prints it, one error a line.
    std::cerr << config.status().message() << "\n";
    return kExitConfig;
  }
  base::SetLogLevel(config->log_level);
  // Files that the agent makes are its own to read unless they say otherwise.
  umask(077);
  signal(SIGPIPE, SIG_IGN);
  absl::Status status = HardenProcess();
  if (status.ok()) status = DropCapabilities();
  if (!status.ok()) return Fail("cannot start", status, kExitFailed);
  absl::StatusOr<std::unique_ptr<InstanceLock>> lock =
      InstanceLock::Take(config->run_directory);
  if (!lock.ok()) {
    return Fail(
        "cannot start", lock.status(),
        absl::IsFailedPrecondition(lock.status()) ? kExitRunning : kExitFailed);
  }
  std::shared_ptr<const crypto::PrivateKey> key;
  if (config->private_key) {
    absl::StatusOr<std::shared_ptr<const crypto::PrivateKey>> loaded =
        LoadNodeKey(*config->private_key);
    if (!loaded.ok()) return Fail("no node key", loaded.status(), kExitConfig);
    key = *std::move(loaded);
  }
  Agent agent(path, *std::move(config), std::move(key));
  status = agent.Start();
  if (!status.ok()) return Fail("cannot start", status, kExitFailed);
  agent.Run();
  return kExitOk;
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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return check ? Check(path) : RunAgent(path);
}

}  // namespace
}  // namespace espalier::agent

int main(int argc, char** argv) { return espalier::agent::Main(argc, argv); }
