// Puts the CNI binary and its network configuration where the container runtime
// looks for them, once this node can serve ADD: until then it is NotReady, and
// gets no pods.
#ifndef ESPALIER_AGENT_MAIN_CNI_INSTALL_H_
#define ESPALIER_AGENT_MAIN_CNI_INSTALL_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/main/agent.h"
#include "agent/service/serial_worker.h"

namespace espalier::agent {

struct CniInstallOptions {
  std::string binary = "/usr/bin/espalier-cni";
  std::string binary_directory = "/opt/cni/bin";
  std::string config_directory = "/etc/cni/net.d";
  std::string run_directory = "/run/espalier";
};

inline constexpr char kConflistName[] = "00-espalier.conflist";

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

class CniInstaller {
 public:
  CniInstaller(CniInstallOptions options, Agent* agent)
      : options_(std::move(options)), agent_(agent) {}
  // On the agent's loop; tries until it has succeeded.
  void Begin();

 private:
  void Look();

  const CniInstallOptions options_;
  Agent* const agent_;
  service::SerialWorker worker_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_CNI_INSTALL_H_
