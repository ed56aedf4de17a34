// The whole agent, wired.
#ifndef ESPALIER_AGENT_MAIN_AGENT_H_
#define ESPALIER_AGENT_MAIN_AGENT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/clock.h"
#include "agent/crypto/random.h"
#include "agent/main/backend.h"
#include "agent/main/guard_control.h"
#include "agent/main/ike_adapter.h"
#include "agent/main/key_log.h"
#include "agent/main/node_datapath.h"
#include "agent/main/probe_adapter.h"
#include "agent/mesh/cluster.h"
#include "agent/mesh/config/config.h"
#include "agent/mesh/mesh.h"
#include "agent/network/kernel_node_network.h"
#include "agent/runtime/ike_driver.h"
#include "agent/runtime/ike_socket.h"
#include "agent/runtime/loop.h"
#include "agent/runtime/worker_pool.h"
#include "agent/service/agent_service.h"
#include "agent/service/cni_server.h"
#include "agent/service/event_hub.h"
#include "agent/service/grpc_server.h"
#include "agent/service/http_server.h"

namespace espalier::agent {

// Constructed, started and run on one thread, which becomes the loop's.
class Agent {
 public:
  // `config` came out of mesh::LoadConfig(`config_path`).
  Agent(std::string config_path, mesh::Config config,
        std::shared_ptr<const crypto::PrivateKey> node_key);
  ~Agent();

  // Opens sockets, begins to serve. After an error the agent can only be
  // destroyed.
  absl::Status Start();
  // Until SIGTERM or SIGINT. Sends no Delete and removes nothing: the tunnels
  // go on in the datapath, and the next agent takes them over (DESIGN 3).
  void Run();

 private:
  absl::Status OpenIkeSockets();
  absl::Status StartServers();
  absl::Status MakeMesh();
  absl::StatusOr<mesh::Cluster> ClusterOf(mesh::Config config) const;
  absl::Status MakeGuards();
  absl::Status AddBpfGuard();
  pods::Settings PodSettings() const;
  void SetHooks();
  void SendIke(const ike::Path& path, base::ByteSpan bytes);
  void HandleMeshAction(ike::Action& action);
  void Reload();
  // Several files that change together are one reload.
  void ReloadSoon();
  absl::Status WatchFiles(const mesh::Config& config);
  void WatchReadiness();
  void UpdatePodSettings();
  void Stop();

  const std::string config_path_;
  mesh::Config config_;

  runtime::Loop loop_;
  base::SteadyClock clock_;
  crypto::SystemRandom random_;
  service::EventHub events_;
  runtime::WorkerPool workers_;
  runtime::IkeDriver driver_;
  IkeAdapter ike_;
  // From here on made by Start, in this order.
  std::unique_ptr<NodeDatapath> datapath_;
  std::unique_ptr<network::KernelNodeNetwork> network_;
  std::unique_ptr<ProbeAdapter> probes_;
  std::unique_ptr<GuardControl> guard_;
  std::unique_ptr<mesh::Mesh> mesh_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KeyLog> key_log_;
  std::map<base::IpAddress, std::unique_ptr<runtime::IkeSocket>> sockets_;
  std::unique_ptr<service::CniServer> cni_;
  std::unique_ptr<service::AgentService> service_;
  std::unique_ptr<service::GrpcServer> grpc_;
  std::unique_ptr<service::HttpServer> http_;
  std::thread stopper_;
  std::set<std::string> watched_files_;
  bool reload_waits_ = false;
  bool stopping_ = false;
  bool was_ready_ = false;
  uint32_t pod_mtu_ = 0;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_AGENT_H_
