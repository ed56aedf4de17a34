// A gRPC server on a unix socket for root and the agent's own user.
#ifndef ESPALIER_AGENT_SERVICE_GRPC_SERVER_H_
#define ESPALIER_AGENT_SERVICE_GRPC_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace espalier::service {

// gRPC itself does not tell who is at the other end of a unix socket, so this
// class accepts the connections, asks the kernel (SO_PEERCRED), and hands gRPC
// only those of root and of this process's user. The socket's mode, 0600, says
// the same to whoever lists it.
class GrpcServer {
 public:
  // Replaces a socket that nobody listens on any more. A path at which someone
  // listens, or that is no socket, is FailedPrecondition. `services` outlive
  // the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const std::string& socket_path,
      const std::vector<grpc::Service*>& services);
  // Ends calls under way, removes the socket.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

 private:
  GrpcServer(std::string path, int listener, int wake,
             std::unique_ptr<grpc::Server> server);
  void Accept();

  const std::string path_;
  const int listener_;
  const int wake_;  // eventfd; written to end Accept
  std::unique_ptr<grpc::Server> server_;
  std::thread thread_;
};

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_GRPC_SERVER_H_
