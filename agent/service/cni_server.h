// espalier.v1.Cni on the run directory's socket.
#ifndef ESPALIER_AGENT_SERVICE_CNI_SERVER_H_
#define ESPALIER_AGENT_SERVICE_CNI_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/pods/manager.h"

namespace espalier::service {

// Owns all that attaching pods takes: a thread for the work (netlink and fsync
// would stall IKE on the loop), one for deleting interfaces, and the gRPC
// server. In the network namespace of the thread that calls Start.
//
// All methods are thread-safe.
class CniServer {
 public:
  struct Options {
    std::string run_directory;    // sockets; made when absent, see base
    std::string state_directory;  // the checkpoint; made when absent
    pods::Settings settings;
    pods::PodGuard* guard = nullptr;    // outlives the server
    pods::ModeSource* modes = nullptr;  // the same
  };

  // Serves at once, but answers "try again later" until the attached pods have
  // been taken over and SetReady got an OK status.
  static absl::StatusOr<std::unique_ptr<CniServer>> Start(Options options);
  // Ends what is under way first. Attached pods stay.
  ~CniServer();

  // OK: ADD is served. Else the reason that runtimes are told.
  void SetReady(absl::Status ready);
  // Not OK: ADD and STATUS are refused with this reason, all else goes on.
  void SetRefusal(absl::Status refusal);

  // `done`, which may be empty, runs on the server's thread.
  void Reconfigure(pods::Settings settings,
                   std::function<void(absl::Status)> done);

  // `done` runs on the server's thread.
  void TakeSnapshot(std::function<void(pods::Snapshot)> done);

 private:
  class Impl;
  explicit CniServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_CNI_SERVER_H_
