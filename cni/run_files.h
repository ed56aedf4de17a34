// What espalier-cni reads and writes in the run directory.
#ifndef ESPALIER_CNI_RUN_FILES_H_
#define ESPALIER_CNI_RUN_FILES_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/base/run_directory.h"
#include "espalier/v1/cni.pb.h"

namespace espalier::cni {

class RunFiles {
 public:
  explicit RunFiles(const std::string& directory) : directory_(directory) {}
  virtual ~RunFiles() = default;

  // Leaves the request for the agent to do when it comes back. Queueing it
  // twice is queueing it once. Makes the folders, root's alone.
  virtual absl::Status QueueDeletion(const v1::DeleteRequest& request);

  // How long ago the agent was able to attach pods; nullopt when that was
  // never since the last boot.
  virtual std::optional<absl::Duration> HeartbeatAge();

 private:
  const base::RunDirectory directory_;
};

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_RUN_FILES_H_
