// `espalier-agent --uninstall`: what agents have made on this node goes, in an
// order in which nothing that was `required` ever finds a way in plaintext. An
// agent that ends leaves it all standing (DESIGN 7).
#ifndef ESPALIER_AGENT_MAIN_UNINSTALL_H_
#define ESPALIER_AGENT_MAIN_UNINSTALL_H_

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/main/cni_install.h"
#include "agent/mesh/config/config.h"

namespace espalier::agent {

// What stands on the node. Each removal takes what carries Espalier's marks and
// nothing else, may fail, and may be made again; it returns what it removed,
// for people, and nothing when there was nothing.
class InstalledNode {
 public:
  virtual ~InstalledNode() = default;

  // FailedPrecondition while a program of Espalier's works on the node and
  // would make again what is removed. (That no agent does is the lock's to
  // say.)
  virtual absl::Status CheckStopped() = 0;
  // Their names.
  virtual absl::StatusOr<std::vector<std::string>> AttachedPods() = 0;

  virtual absl::StatusOr<std::string> RemoveCniPlugin() = 0;
  virtual absl::StatusOr<std::string> RemovePodInterfaces() = 0;
  virtual absl::StatusOr<std::string> RemoveTunnels() = 0;
  virtual absl::StatusOr<std::string> RemoveTunnelInterface() = 0;
  virtual absl::StatusOr<std::string> RemoveRoutes() = 0;
  virtual absl::StatusOr<std::string> RemoveMasquerading() = 0;
  virtual absl::StatusOr<std::string> RemoveNftablesGuard() = 0;
  virtual absl::StatusOr<std::string> RemoveBpfGuard() = 0;
  virtual absl::StatusOr<std::string> RemoveState() = 0;
};

// The one whose network namespace this is. `config` needs none of the files
// that it names.
std::unique_ptr<InstalledNode> MakeInstalledNode(mesh::Config config,
                                                 CniInstallOptions cni);

enum class UninstallResult : uint8_t {
  kDone,
  kRefused,       // nothing was changed: something of Espalier's still runs
  kPodsAttached,  // nothing was changed
  kIncomplete,    // some of it stays, the guards in any case: to be run again
};

// Prints a line for each step to `out`. `force` takes attached pods' network
// away.
UninstallResult Uninstall(InstalledNode* node, bool force, std::ostream& out);

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_UNINSTALL_H_
