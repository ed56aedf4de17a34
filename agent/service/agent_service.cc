#include "agent/service/agent_service.h"

#include <chrono>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::service {
namespace {

// A loop that has not answered by then hangs, and the caller should know.
constexpr std::chrono::seconds kLoopAnswers(10);
// How often a Watch without events looks whether its reader is still there.
constexpr std::chrono::milliseconds kWatchLooks(500);

// The canonical codes of absl and of gRPC are the same numbers.
grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      std::string(status.message()));
}

}  // namespace

template <typename T>
grpc::Status AgentService::Call(
    std::function<void(AgentBackend*, AgentBackend::Done<T>)> call,
    T* response) {
  // Shared: an answer that comes after the wait has still a place to go.
  auto answer = std::make_shared<std::promise<absl::StatusOr<T>>>();
  std::future<absl::StatusOr<T>> future = answer->get_future();
  loop_->Post([backend = backend_, call = std::move(call), answer] {
    call(backend, [answer](absl::StatusOr<T> result) {
      answer->set_value(std::move(result));
    });
  });
  if (future.wait_for(kLoopAnswers) != std::future_status::ready) {
    return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED,
                        "the agent's loop did not answer in 10 s; see its log");
  }
  absl::StatusOr<T> result = future.get();
  if (!result.ok()) return ToGrpc(result.status());
  *response = *std::move(result);
  return grpc::Status::OK;
}

grpc::Status AgentService::GetStatus(grpc::ServerContext*,
                                     const v1::GetStatusRequest*,
                                     v1::AgentStatus* response) {
  return Call<v1::AgentStatus>(
      [](AgentBackend* backend, AgentBackend::Done<v1::AgentStatus> done) {
        backend->GetStatus(std::move(done));
      },
      response);
}

grpc::Status AgentService::ListTunnels(grpc::ServerContext*,
                                       const v1::ListTunnelsRequest*,
                                       v1::ListTunnelsResponse* response) {
  return Call<v1::ListTunnelsResponse>(
      [](AgentBackend* backend,
         AgentBackend::Done<v1::ListTunnelsResponse> done) {
        backend->ListTunnels(std::move(done));
      },
      response);
}

grpc::Status AgentService::ShowTunnel(grpc::ServerContext*,
                                      const v1::ShowTunnelRequest* request,
                                      v1::Tunnel* response) {
  return Call<v1::Tunnel>(
      [peer = request->peer()](AgentBackend* backend,
                               AgentBackend::Done<v1::Tunnel> done) {
        backend->ShowTunnel(peer, std::move(done));
      },
      response);
}

grpc::Status AgentService::ListPods(grpc::ServerContext*,
                                    const v1::ListPodsRequest*,
                                    v1::ListPodsResponse* response) {
  return Call<v1::ListPodsResponse>(
      [](AgentBackend* backend, AgentBackend::Done<v1::ListPodsResponse> done) {
        backend->ListPods(std::move(done));
      },
      response);
}

grpc::Status AgentService::ListDrops(grpc::ServerContext*,
                                     const v1::ListDropsRequest*,
                                     v1::ListDropsResponse* response) {
  return Call<v1::ListDropsResponse>(
      [](AgentBackend* backend,
         AgentBackend::Done<v1::ListDropsResponse> done) {
        backend->ListDrops(std::move(done));
      },
      response);
}

grpc::Status AgentService::Verify(grpc::ServerContext*,
                                  const v1::VerifyRequest* request,
                                  v1::VerifyResponse* response) {
  return Call<v1::VerifyResponse>(
      [copy = *request](AgentBackend* backend,
                        AgentBackend::Done<v1::VerifyResponse> done) {
        backend->Verify(copy, std::move(done));
      },
      response);
}

grpc::Status AgentService::Rekey(grpc::ServerContext*,
                                 const v1::RekeyRequest* request,
                                 v1::RekeyResponse* response) {
  if (request->what() != v1::RekeyRequest::WHAT_CHILD &&
      request->what() != v1::RekeyRequest::WHAT_IKE &&
      request->what() != v1::RekeyRequest::WHAT_PROTOCOL50) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                        absl::StrCat("what is ", request->what(),
                                     ": expected WHAT_CHILD or WHAT_IKE"));
  }
  return Call<v1::RekeyResponse>(
      [copy = *request](AgentBackend* backend,
                        AgentBackend::Done<v1::RekeyResponse> done) {
        backend->Rekey(copy, std::move(done));
      },
      response);
}

grpc::Status AgentService::Watch(grpc::ServerContext* context,
                                 const v1::WatchRequest*,
                                 grpc::ServerWriter<v1::Event>* writer) {
  absl::StatusOr<std::unique_ptr<EventHub::Reader>> reader =
      events_->NewReader();
  if (!reader.ok()) return ToGrpc(reader.status());
  writer->SendInitialMetadata();
  while (!context->IsCancelled() && !(*reader)->ended()) {
    const std::optional<v1::Event> event = (*reader)->Next(kWatchLooks);
    if (event && !writer->Write(*event)) break;
  }
  return grpc::Status::OK;
}

}  // namespace espalier::service
