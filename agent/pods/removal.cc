#include "agent/pods/removal.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/ipam/checkpoint.h"
#include "agent/pods/names.h"

namespace espalier::pods {
namespace {

constexpr size_t kMaxCheckpoint = 64 << 20;

// By owner. What cannot be read names nobody: the interfaces decide.
std::map<std::string, std::string> NamesOf(ipam::FileSystem* files,
                                           const std::string& path) {
  std::map<std::string, std::string> names;
  const auto text = files->Read(path, kMaxCheckpoint);
  if (!text.ok()) return names;
  const auto parsed = ipam::ParseState(*text);
  if (!parsed.ok()) return names;
  for (const ipam::Lease& lease : parsed->state.leases) {
    const auto space = lease.labels.find(kPodNamespace);
    const auto name = lease.labels.find(kPodName);
    if (space == lease.labels.end() || name == lease.labels.end() ||
        name->second.empty()) {
      continue;
    }
    names[lease.owner] = absl::StrCat(space->second, "/", name->second);
  }
  return names;
}

}  // namespace

absl::StatusOr<std::vector<AttachedPod>> AttachedPods(
    PodNetwork* network, ipam::FileSystem* files,
    const std::string& state_directory,
    const base::RunDirectory& run_directory) {
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<OwnedInterface> interfaces,
                            network->List());
  // A file there has the name of its owner (base::DeletionFileName).
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<std::string> queued,
                            files->List(run_directory.DeletionQueue()));
  const std::set<std::string> deleted(queued.begin(), queued.end());
  const std::map<std::string, std::string> names =
      NamesOf(files, absl::StrCat(state_directory, "/", kCheckpointFile));
  std::vector<AttachedPod> attached;
  for (const OwnedInterface& found : interfaces) {
    if (found.addresses.empty() || deleted.contains(found.owner)) continue;
    const auto name = names.find(found.owner);
    const auto parts = ParseOwner(found.owner);
    attached.push_back({.owner = found.owner,
                        .name = name != names.end() ? name->second
                                : parts.has_value() ? parts->container_id
                                                    : found.owner});
  }
  return attached;
}

absl::StatusOr<size_t> RemoveInterfaces(PodNetwork* network) {
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<OwnedInterface> interfaces,
                            network->List());
  absl::Status first;
  for (const OwnedInterface& found : interfaces) {
    first.Update(
        base::Annotate(network->Destroy(found.owner), found.host_interface));
  }
  ESPALIER_RETURN_IF_ERROR(first);
  return interfaces.size();
}

}  // namespace espalier::pods
