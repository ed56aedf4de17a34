// The controller's calls to the API server, for worker threads.
#ifndef ESPALIER_AGENT_CONTROLLER_API_CALLS_H_
#define ESPALIER_AGENT_CONTROLLER_API_CALLS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/controller/leader_election.h"
#include "agent/controller/reconciler.h"
#include "agent/kube/client.h"

namespace espalier::controller {

inline constexpr char kFieldManager[] = "espalier-controller";

// What must be known at the beginning of a term, read anew.
struct TermView {
  std::vector<kube::EspalierNode> nodes;
  std::vector<kube::ObjectMeta> reports;
};
absl::StatusOr<TermView> ReadTermView(kube::Client* client,
                                      absl::Duration timeout,
                                      kube::Cancellation* cancellation);

absl::StatusOr<kube::EspalierNode> CarryOut(kube::Client* client,
                                            const Write& write,
                                            absl::Duration timeout,
                                            kube::Cancellation* cancellation);

absl::StatusOr<kube::Lease> CarryOut(kube::Client* client,
                                     const LeaderElection::Request& request,
                                     absl::Duration timeout,
                                     kube::Cancellation* cancellation);

}  // namespace espalier::controller

#endif  // ESPALIER_AGENT_CONTROLLER_API_CALLS_H_
