// Puts the CNI binary and its network configuration where the container runtime
// looks for them, once this node can serve ADD: until then it is NotReady, and
// gets no pods. Keeps them there, and looks at what lies beside.
#ifndef ESPALIER_AGENT_MAIN_CNI_INSTALL_H_
#define ESPALIER_AGENT_MAIN_CNI_INSTALL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/clock.h"
#include "agent/main/agent.h"
#include "agent/main/surroundings/cni_configs.h"
#include "agent/service/serial_worker.h"

namespace espalier::agent {

struct CniInstallOptions {
  std::string binary = "/usr/bin/espalier-cni";
  std::string binary_directory = "/opt/cni/bin";
  std::string config_directory = "/etc/cni/net.d";
  std::string run_directory = "/run/espalier";
};

// The versions that `plugin` answers to VERSION. NotFound: it is not there;
// Unavailable: it could not be asked.
absl::StatusOr<std::vector<std::string>> AskPluginVersions(
    const std::string& plugin);

// A runtime takes the newest of `cniVersions` without asking the plugins, so it
// names 1.1.0 only where portmap speaks it.
absl::StatusOr<std::string> MakeConflist(
    const std::vector<std::string>& portmap_versions,
    const std::string& run_directory);

// Each file by a rename, the configuration last; a file that is there already
// as it should be is left alone.
absl::Status InstallCni(const CniInstallOptions& options);

// Takes away what InstallCni placed, the configuration first: without it the
// runtime attaches no pod. Returns the paths of what was there.
absl::StatusOr<std::vector<std::string>> RemoveCni(
    const CniInstallOptions& options);

// What is installed, and stays so. On one thread, which it blocks.
class CniFiles {
 public:
  explicit CniFiles(CniInstallOptions options) : options_(std::move(options)) {}

  struct Kept {
    bool installed = false;  // for the first time
    std::string repaired;    // what somebody had changed; empty: nothing
  };
  absl::StatusOr<Kept> Keep();

 private:
  std::string Difference() const;

  const CniInstallOptions options_;
  std::optional<std::string> conflist_;  // as it was installed
  uint64_t binary_size_ = 0;
};

class CniInstaller {
 public:
  CniInstaller(CniInstallOptions options, Agent* agent)
      : files_(options), folder_(options.config_directory), agent_(agent) {}
  // On the agent's loop, before it runs.
  void Begin();

 private:
  void Look();
  void Tell(const absl::StatusOr<CniFiles::Kept>& kept);

  CniFiles files_;  // the worker's
  const std::string folder_;
  Agent* const agent_;
  base::Instant told_ = absl::InfinitePast();
  base::SteadyClock clock_;
  service::SerialWorker worker_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_CNI_INSTALL_H_
