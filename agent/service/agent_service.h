// espalier.v1.Agent: answers from the loop's state, on gRPC's threads.
#ifndef ESPALIER_AGENT_SERVICE_AGENT_SERVICE_H_
#define ESPALIER_AGENT_SERVICE_AGENT_SERVICE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/executor.h"
#include "agent/service/event_hub.h"
#include "espalier/v1/agent.grpc.pb.h"

namespace espalier::service {

// Where the answers come from. Every method is called on the loop's thread and
// calls `done` there, now or later, once.
class AgentBackend {
 public:
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;

  virtual ~AgentBackend() = default;
  virtual void GetStatus(Done<v1::AgentStatus> done) = 0;
  virtual void ListTunnels(Done<v1::ListTunnelsResponse> done) = 0;
  virtual void ShowTunnel(const std::string& peer, Done<v1::Tunnel> done) = 0;
  virtual void ListPods(Done<v1::ListPodsResponse> done) = 0;
  virtual void ListDrops(Done<v1::ListDropsResponse> done) = 0;
  virtual void Verify(const v1::VerifyRequest& request,
                      Done<v1::VerifyResponse> done) = 0;
  virtual void Rekey(const v1::RekeyRequest& request,
                     Done<v1::RekeyResponse> done) = 0;
};

class AgentService : public v1::Agent::Service {
 public:
  // All outlive the service; `loop` runs tasks on the backend's thread.
  AgentService(base::Executor* loop, AgentBackend* backend, EventHub* events)
      : loop_(loop), backend_(backend), events_(events) {}

  grpc::Status GetStatus(grpc::ServerContext* context,
                         const v1::GetStatusRequest* request,
                         v1::AgentStatus* response) override;
  grpc::Status ListTunnels(grpc::ServerContext* context,
                           const v1::ListTunnelsRequest* request,
                           v1::ListTunnelsResponse* response) override;
  grpc::Status ShowTunnel(grpc::ServerContext* context,
                          const v1::ShowTunnelRequest* request,
                          v1::Tunnel* response) override;
  grpc::Status ListPods(grpc::ServerContext* context,
                        const v1::ListPodsRequest* request,
                        v1::ListPodsResponse* response) override;
  grpc::Status ListDrops(grpc::ServerContext* context,
                         const v1::ListDropsRequest* request,
                         v1::ListDropsResponse* response) override;
  grpc::Status Verify(grpc::ServerContext* context,
                      const v1::VerifyRequest* request,
                      v1::VerifyResponse* response) override;
  grpc::Status Rekey(grpc::ServerContext* context,
                     const v1::RekeyRequest* request,
                     v1::RekeyResponse* response) override;
  grpc::Status Watch(grpc::ServerContext* context,
                     const v1::WatchRequest* request,
                     grpc::ServerWriter<v1::Event>* writer) override;

 private:
  template <typename T>
  grpc::Status Call(
      std::function<void(AgentBackend*, AgentBackend::Done<T>)> call,
      T* response);

  base::Executor* loop_;
  AgentBackend* backend_;
  EventHub* events_;
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_AGENT_SERVICE_H_
