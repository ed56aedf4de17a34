// What an uninstallation asks and does about pods. Without a Manager: nothing
// is taken over and nothing written as long as it may still be refused.
#ifndef ESPALIER_AGENT_PODS_REMOVAL_H_
#define ESPALIER_AGENT_PODS_REMOVAL_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/base/run_directory.h"
#include "agent/ipam/file_system.h"
#include "agent/pods/pod_network.h"

namespace espalier::pods {

struct AttachedPod {
  std::string owner;
  // "namespace/name", or the container's id where the checkpoint does not say.
  std::string name;
};

// Whose interfaces stand and lead somewhere. Not those whose DEL waits in the
// queue, or was cut short.
absl::StatusOr<std::vector<AttachedPod>> AttachedPods(
    PodNetwork* network, ipam::FileSystem* files,
    const std::string& state_directory,
    const base::RunDirectory& run_directory);

// Deletes every interface pair of Espalier's. Returns how many there were; an
// error names the first that stays, and the others are gone all the same.
absl::StatusOr<size_t> RemoveInterfaces(PodNetwork* network);

}  // namespace espalier::pods

#endif  // ESPALIER_AGENT_PODS_REMOVAL_H_
