// InstalledNode on this machine: each folder's own removal, put together.
#include <errno.h>
#include <linux/netlink.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/base/run_directory.h"
#include "agent/base/status_macros.h"
#include "agent/datapath/kernel/kernel_datapath.h"
#include "agent/datapath/kernel/removal.h"
#include "agent/esp/control/channel.h"
#include "agent/guard/kernel_bpf_system.h"
#include "agent/guard/nftables_rules.h"
#include "agent/ipam/file_system.h"
#include "agent/main/uninstall.h"
#include "agent/netlink/nftables.h"
#include "agent/netlink/socket.h"
#include "agent/network/ownership.h"
#include "agent/network/removal.h"
#include "agent/pods/names.h"
#include "agent/pods/pod_network.h"
#include "agent/pods/removal.h"

namespace espalier::agent {
namespace {

namespace fs = std::filesystem;

// Of the folder of the state; a name that begins so is the agent's: a key has
// its public half, the next one and the old one beside it, every file a draft.
constexpr const char* kStateFiles[] = {"node.key", pods::kCheckpointFile,
                                       "cluster.last-known"};
constexpr const char* kRunFiles[] = {"agent.lock", "agent.sock", "cni.sock",
                                     "espd.sock", "heartbeat"};

// Deletes the files of `folder` whose names begin with one of `names`, and the
// folder itself if nothing else is in it. A folder that is not there is empty;
// one that something is mounted on stays.
template <typename Names>
absl::StatusOr<bool> RemoveFiles(const std::string& folder,
                                 const Names& names) {
  bool any = false;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    const bool ours = std::ranges::any_of(names, [&](const char* prefix) {
      return absl::StartsWith(name, prefix);
    });
    if (!ours || entry.is_directory(error)) continue;
    if (unlink(entry.path().c_str()) != 0 && errno != ENOENT) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat("remove ", entry.path().string()));
    }
    any = true;
  }
  return rmdir(folder.c_str()) == 0 || any;
}

class LocalNode : public InstalledNode {
 public:
  LocalNode(mesh::Config config, CniInstallOptions cni)
      : config_(std::move(config)),
        cni_(std::move(cni)),
        run_directory_(config_.run_directory),
        pod_network_(&pod_kernel_) {}

  absl::Status CheckStopped() override {
    if (!esp::control::Channel::Connect(config_.espd_socket).ok()) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        absl::StrCat("espalier-espd runs (it serves ", config_.espd_socket,
                     ") and would make its tunnel device again: end it first"));
  }

  absl::StatusOr<std::vector<std::string>> AttachedPods() override {
    ESPALIER_ASSIGN_OR_RETURN(
        const std::vector<pods::AttachedPod> attached,
        pods::AttachedPods(&pod_network_, &files_, config_.state_directory,
                           run_directory_));
    std::vector<std::string> names;
    for (const pods::AttachedPod& pod : attached) names.push_back(pod.name);
    return names;
  }

  absl::StatusOr<std::string> RemoveCniPlugin() override {
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<std::string> removed,
                              RemoveCni(cni_));
    return absl::StrCat(removed.empty() ? "" : "removed ",
                        absl::StrJoin(removed, ", "));
  }

  absl::StatusOr<std::string> RemovePodInterfaces() override {
    ESPALIER_ASSIGN_OR_RETURN(const size_t count,
                              pods::RemoveInterfaces(&pod_network_));
    return count == 0 ? "" : absl::StrCat("removed ", count);
  }

  absl::StatusOr<std::string> RemoveTunnels() override {
    const auto xfrm = netlink::Socket::Open({.protocol = NETLINK_XFRM});
    // The user datapath is for kernels without.
    if (absl::IsUnimplemented(xfrm.status())) return "";
    ESPALIER_RETURN_IF_ERROR(xfrm.status());
    ESPALIER_ASSIGN_OR_RETURN(const datapath::RemovedTunnels removed,
                              datapath::RemoveTunnels(xfrm->get()));
    if (removed.sas + removed.policies == 0) return "";
    return absl::StrCat("removed ", removed.sas, " SAs and ", removed.policies,
                        " policies");
  }

  absl::StatusOr<std::string> RemoveTunnelInterface() override {
    ESPALIER_ASSIGN_OR_RETURN(const auto socket, netlink::Socket::Open());
    ESPALIER_ASSIGN_OR_RETURN(
        const std::string removed,
        network::RemoveTunnelInterface(
            socket.get(), datapath::KernelDatapath::Options().interface,
            config_.kernel_routing == mesh::KernelRouting::kPolicyBased));
    return removed.empty() ? "" : absl::StrCat("removed ", removed);
  }

  absl::StatusOr<std::string> RemoveRoutes() override {
    ESPALIER_ASSIGN_OR_RETURN(const auto socket, netlink::Socket::Open());
    ESPALIER_ASSIGN_OR_RETURN(const network::RemovedNetwork removed,
                              network::RemoveRoutes(socket.get()));
    if (removed.rules + removed.routes + removed.addresses == 0) return "";
    return absl::StrCat(
        "removed ", removed.rules, " rules and ", removed.routes, " routes",
        removed.addresses == 0
            ? ""
            : absl::StrCat(", and ", removed.addresses, " addresses of lo"));
  }

  absl::StatusOr<std::string> RemoveMasquerading() override {
    return RemoveTable(network::kNatTable);
  }
  absl::StatusOr<std::string> RemoveNftablesGuard() override {
    return RemoveTable(guard::kGuardTable);
  }

  absl::StatusOr<std::string> RemoveBpfGuard() override {
    const guard::KernelBpfOptions options;
    ESPALIER_ASSIGN_OR_RETURN(const bool there,
                              guard::KernelBpfSystem::Remove(options));
    // Other network namespaces may have theirs there.
    rmdir(options.pin_root.c_str());
    return there ? "removed programs and maps" : "";
  }

  absl::StatusOr<std::string> RemoveState() override {
    ESPALIER_ASSIGN_OR_RETURN(
        const bool state, RemoveFiles(config_.state_directory, kStateFiles));
    constexpr const char* kAny[] = {""};
    ESPALIER_ASSIGN_OR_RETURN(
        const bool queue, RemoveFiles(run_directory_.DeletionQueue(), kAny));
    ESPALIER_ASSIGN_OR_RETURN(const bool run,
                              RemoveFiles(run_directory_.path(), kRunFiles));
    if (!state && !queue && !run) return "";
    return absl::StrCat("removed what is Espalier's in ",
                        config_.state_directory, " and ",
                        run_directory_.path());
  }

 private:
  absl::StatusOr<std::string> RemoveTable(const char* name) {
    ESPALIER_ASSIGN_OR_RETURN(const bool there,
                              netlink::RemoveTable(&nftables_, name));
    return there ? absl::StrCat("removed table inet ", name) : "";
  }

  const mesh::Config config_;
  const CniInstallOptions cni_;
  const base::RunDirectory run_directory_;
  pods::KernelPodNetwork::Kernel pod_kernel_;
  pods::KernelPodNetwork pod_network_;
  ipam::FileSystem files_;
  netlink::Nftables nftables_;
};

}  // namespace

std::unique_ptr<InstalledNode> MakeInstalledNode(mesh::Config config,
                                                 CniInstallOptions cni) {
  return std::make_unique<LocalNode>(std::move(config), std::move(cni));
}

}  // namespace espalier::agent
