#include "cni/agent_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <chrono>

#include "espalier/v1/cni.grpc.pb.h"

namespace espalier::cni {
namespace {

class GrpcAgentClient : public AgentClient {
 public:
  GrpcAgentClient(const std::string& path, const Deadlines& deadlines)
      : deadlines_(deadlines) {
    grpc::ChannelArguments arguments;
    // The socket is all there is: no proxy, no resolver's service config.
    arguments.SetInt("grpc.enable_http_proxy", 0);
    arguments.SetInt("grpc.service_config_disable_resolution", 1);
    // The authority of unix sockets would be the escaped path.
    arguments.SetString("grpc.default_authority", "localhost");
    stub_ = v1::Cni::NewStub(grpc::CreateCustomChannel(
        "unix:" + path, grpc::InsecureChannelCredentials(), arguments));
  }

  absl::Status Add(const v1::AddRequest& request,
                   v1::AddResponse* response) override {
    return Call(&v1::Cni::Stub::Add, deadlines_.add, request, response);
  }
  absl::Status Delete(const v1::DeleteRequest& request,
                      v1::DeleteResponse* response) override {
    return Call(&v1::Cni::Stub::Delete, deadlines_.remove, request, response);
  }
  absl::Status Check(const v1::CheckRequest& request,
                     v1::CheckResponse* response) override {
    return Call(&v1::Cni::Stub::Check, deadlines_.check, request, response);
  }
  absl::Status CollectGarbage(const v1::CollectGarbageRequest& request,
                              v1::CollectGarbageResponse* response) override {
    return Call(&v1::Cni::Stub::CollectGarbage, deadlines_.collect, request,
                response);
  }
  absl::Status Status(const v1::StatusRequest& request,
                      v1::StatusResponse* response) override {
    return Call(&v1::Cni::Stub::Status, deadlines_.status, request, response);
  }

 private:
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::Cni::Stub::*method)(grpc::ClientContext*,
                                                          const Request&,
                                                          Response*),
                    absl::Duration deadline, const Request& request,
                    Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         absl::ToChronoMilliseconds(deadline));
    const grpc::Status status =
        (stub_.get()->*method)(&context, request, response);
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        status.error_message());
  }

  const Deadlines deadlines_;
  std::unique_ptr<v1::Cni::Stub> stub_;
};

}  // namespace

std::unique_ptr<AgentClient> MakeAgentClient(const std::string& path,
                                             const Deadlines& deadlines) {
  return std::make_unique<GrpcAgentClient>(path, deadlines);
}

}  // namespace espalier::cni
