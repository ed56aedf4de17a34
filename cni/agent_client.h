// The agent, as espalier-cni sees it.
#ifndef ESPALIER_CNI_AGENT_CLIENT_H_
#define ESPALIER_CNI_AGENT_CLIENT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "espalier/v1/cni.pb.h"

namespace espalier::cni {

// Each call is one try and blocks. Unavailable: no agent answers there;
// DeadlineExceeded: it took too long, and may have done it or not.
class AgentClient {
 public:
  virtual ~AgentClient() = default;
  virtual absl::Status Add(const v1::AddRequest& request,
                           v1::AddResponse* response) = 0;
  virtual absl::Status Delete(const v1::DeleteRequest& request,
                              v1::DeleteResponse* response) = 0;
  virtual absl::Status Check(const v1::CheckRequest& request,
                             v1::CheckResponse* response) = 0;
  virtual absl::Status CollectGarbage(const v1::CollectGarbageRequest& request,
                                      v1::CollectGarbageResponse* response) = 0;
  virtual absl::Status Status(const v1::StatusRequest& request,
                              v1::StatusResponse* response) = 0;
};

// How long each call may take. Runtimes give a plugin minutes; an agent that
// needs longer than this is not well.
struct Deadlines {
  absl::Duration add = absl::Seconds(30);
  absl::Duration remove = absl::Seconds(20);
  absl::Duration check = absl::Seconds(20);
  absl::Duration collect = absl::Seconds(60);
  absl::Duration status = absl::Seconds(2);
};

// Over gRPC on the unix socket at `path`; nothing is connected before a call.
std::unique_ptr<AgentClient> MakeAgentClient(const std::string& path,
                                             const Deadlines& deadlines = {});

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_AGENT_CLIENT_H_
