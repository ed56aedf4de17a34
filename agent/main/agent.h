// The whole agent, wired.
#ifndef ESPALIER_AGENT_MAIN_AGENT_H_
#define ESPALIER_AGENT_MAIN_AGENT_H_

#include <cstdint>
#include <functional>
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
#include "agent/kube/transport.h"
#include "agent/main/backend.h"
#include "agent/main/guard_control.h"
#include "agent/main/ike_adapter.h"
#include "agent/main/key_log.h"
#include "agent/main/node_datapath.h"
#include "agent/main/probe_adapter.h"
#include "agent/main/surroundings/surroundings.h"
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
#include "agent/service/secure_metrics.h"

namespace espalier::agent {

// Where a configuration comes from, now and whenever it has changed.
struct ConfigSource {
  std::string path;  // watched
  std::function<absl::StatusOr<mesh::Config>()> load;
  // Of what settings do not say of a pod; null: they say all.
  pods::ModeSource* modes = nullptr;
  // Peers of which a key was withdrawn while no agent ran here.
  std::set<std::string> distrusted;
};

// Constructed, started and run on one thread, which becomes the loop's.
class Agent {
 public:
  // `config` came out of `source`.
  Agent(ConfigSource source, mesh::Config config,
        std::shared_ptr<const crypto::PrivateKey> node_key);
  ~Agent();

  // Opens sockets, begins to serve. After an error the agent can only be
  // destroyed.
  absl::Status Start();
  // Until SIGTERM or SIGINT. Sends no Delete and removes nothing: the tunnels
  // go on in the datapath, and the next agent takes them over (DESIGN 3).
  void Run();

  // --- on the loop, for the Kubernetes mode ---
  runtime::Loop& loop() { return loop_; }
  const mesh::Mesh& mesh() const { return *mesh_; }
  const NodeDatapath& datapath() const { return *datapath_; }
  const GuardControl& guard() const { return *guard_; }
  Backend& backend() { return *backend_; }
  // Null once it stops.
  service::CniServer* cni() { return cni_.get(); }
  // Whether pods can be attached.
  bool ready() const { return was_ready_; }
  // As others leave this node to it.
  Surroundings& surroundings() { return surroundings_; }
  // As far as a pod must not be attached because of them.
  void SetCniConfigs(CniConfigs configs);
  // The source has something new.
  void Reload();
  // As far as only modes have changed, which is more often.
  void SetModes(base::PodModes modes);
  void SetPlaintextSettle(absl::Duration settle);
  // Makes every IKE_SA that rests on it and that this end may begin anew, each
  // beside the old until it carries the traffic.
  void SetNodeKey(std::shared_ptr<const crypto::PrivateKey> key);
  // Whether every IKE_SA is younger than the last SetNodeKey.
  bool KeyInUse();
  // Serves what sockets.secureMetrics asks for; `transport` outlives the agent.
  absl::Status ServeSecureMetrics(kube::Transport* transport);
  // Ends Run, as SIGTERM does.
  void Stop();

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
  // Several files that change together are one reload.
  void ReloadSoon();
  absl::Status WatchFiles(const mesh::Config& config);
  // The file of the node's key may hold another one by now.
  void TakeNodeKey(const mesh::Config& loaded);
  void WatchReadiness();
  void UpdatePodSettings();

  const ConfigSource source_;
  mesh::Config config_;
  std::shared_ptr<const crypto::PrivateKey> node_key_;

  runtime::Loop loop_;
  base::SteadyClock clock_;
  crypto::SystemRandom random_;
  service::EventHub events_;
  runtime::WorkerPool workers_;
  runtime::IkeDriver driver_;
  IkeAdapter ike_;
  Surroundings surroundings_;
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
  std::unique_ptr<service::SecureMetrics> secure_metrics_;
  std::thread stopper_;
  std::set<std::string> watched_files_;
  bool reload_waits_ = false;
  bool stopping_ = false;
  bool was_ready_ = false;
  base::Instant not_ready_told_;
  uint32_t pod_mtu_ = 0;
  absl::Duration plaintext_settle_ = pods::Settings().plaintext_settle;
  base::Instant key_since_ = absl::InfinitePast();
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_AGENT_H_
