// The agent in a cluster: the API server in place of the file's peers, modes
// and addresses (DESIGN 7). agent/mesh/kubernetes says what follows from its
// objects; this is the wiring.
#ifndef ESPALIER_AGENT_MAIN_KUBERNETES_MODE_H_
#define ESPALIER_AGENT_MAIN_KUBERNETES_MODE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/crypto/random.h"
#include "agent/kube/client.h"
#include "agent/kube/cluster_access.h"
#include "agent/kube/informer.h"
#include "agent/kube/transport.h"
#include "agent/main/agent.h"
#include "agent/main/key_rotation.h"
#include "agent/main/node_publisher.h"
#include "agent/main/node_reporter.h"
#include "agent/main/source_state.h"
#include "agent/main/surroundings/unprotected_pods.h"
#include "agent/mesh/kubernetes/compose.h"
#include "agent/mesh/kubernetes/known_nodes.h"
#include "agent/mesh/kubernetes/known_objects.h"
#include "agent/pods/manager.h"
#include "agent/service/serial_worker.h"

namespace espalier::agent {

// Where the API server is, and how long to wait for it at the start.
struct ApiServer {
  std::unique_ptr<kube::ClusterAccess> access;
  std::unique_ptr<kube::Transport> transport;
  static absl::StatusOr<ApiServer> Find(const std::string& kubeconfig);
};

class KubernetesMode : public pods::ModeSource {
 public:
  struct Options {
    std::string config_path;
    mesh::Config base;  // as the file has it
    // Without an answer for so long at the start, what was last known does.
    absl::Duration patience = absl::Seconds(5);
    absl::Duration look_every = absl::Seconds(1);
  };
  // Reads the node's key, or makes it.
  static absl::StatusOr<std::unique_ptr<KubernetesMode>> Create(
      Options options, ApiServer server);
  ~KubernetesMode() override;

  // Publishes this node's key and waits until the controller has verified its
  // addresses; blocks, and says in the log what it waits for. The answer is
  // whole: as a file would have it.
  absl::StatusOr<mesh::Config> Bootstrap();
  // For the agent: the file as it is now, with what the API server last said.
  ConfigSource Source();
  std::shared_ptr<const crypto::PrivateKey> key() const {
    return rotation_->key();
  }

  // On the loop, after Agent::Start: keeps `agent` up to date until End.
  void Begin(Agent* agent);
  // After Agent::Run.
  void End();

  // pods::ModeSource, on the pod manager's thread: a live GET of both.
  absl::StatusOr<Wishes> Ask(const std::string& pod_namespace,
                             const std::string& pod_name,
                             const std::string& pod_uid) override;

 private:
  KubernetesMode(Options options, ApiServer server,
                 std::unique_ptr<KeyRotation> rotation);

  absl::Status TryBootstrap();
  absl::StatusOr<kube::EspalierNode> PublishFirst();
  absl::StatusOr<mesh::Config> Compose(mesh::Config base);
  void RestoreLastKnown();
  void SaveLastKnownSoon();

  void HandleNodes(std::vector<kube::Update<kube::EspalierNode>> updates);
  template <typename T>
  void HandleObjects(const std::vector<kube::Update<T>>& updates,
                     mesh::KnownObjects<T>* known);
  void AfterNodes();
  void ArmRemoval();
  void ApplyNodesSoon();
  void ApplyModesSoon();
  void CheckOwnNode();
  void Tick();
  void HandleSnapshot(const pods::Snapshot& snapshot);
  void AdvanceRotation(base::Instant now);
  // At what others do on this node.
  void LookAround(base::Instant now, const pods::Snapshot& snapshot);
  void LookAtKubeProxy(base::Instant now);
  void TellPeople(base::Instant now, const pods::Snapshot& snapshot);
  // On the worker; `done` on the loop.
  void Call(std::function<absl::Status()> call,
            std::function<void(const absl::Status&)> done);
  absl::Status WriteReport(const kube::EspalierNodeReport& report);
  const kube::EspalierNode* own() const;
  SourceState State() const;

  Options options_;
  const std::string name_;
  ApiServer server_;
  kube::Client client_;
  kube::Cancellation cancellation_;
  crypto::SystemRandom random_;
  base::SteadyClock clock_;
  // options_.base's, for Ask on its thread.
  std::atomic<bool> plaintext_;
  std::unique_ptr<KeyRotation> rotation_;

  // The loop's, from Begin on.
  mesh::KnownNodes known_;
  // As the process before this one knew them.
  mesh::KnownNodes::Nodes restored_;
  mesh::KnownObjects<kube::NamespaceMeta> namespaces_;
  mesh::KnownObjects<kube::Pod> pods_;
  // This node as it runs; its status may come to say something else.
  std::optional<mesh::Node> running_;
  std::string datapath_word_;
  uint64_t applied_revision_ = 0;
  std::string told_alarm_;
  std::vector<std::string> told_problems_;
  std::vector<std::string> missing_families_;
  UnprotectedPods unprotected_pods_;
  base::Instant next_kube_proxy_look_ = absl::InfinitePast();
  kube::EspalierNode::Spec first_spec_;
  bool apply_nodes_waits_ = false;
  bool apply_modes_waits_ = false;
  bool save_waits_ = false;
  base::EventLoop::TimerId removal_timer_ = 0;

  Agent* agent_ = nullptr;
  std::atomic<int> calls_waiting_ = 0;
  bool report_exists_ = false;                     // the worker's
  std::unique_ptr<service::SerialWorker> worker_;  // calls to the API server
  std::unique_ptr<service::SerialWorker> disk_;
  std::unique_ptr<service::SerialWorker> kernel_;  // questions to it
  std::unique_ptr<NodePublisher> publisher_;
  std::unique_ptr<NodeReporter> reporter_;
  std::unique_ptr<kube::Informer<kube::EspalierNode>> node_informer_;
  std::unique_ptr<kube::Informer<kube::NamespaceMeta>> namespace_informer_;
  std::unique_ptr<kube::Informer<kube::Pod>> pod_informer_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_KUBERNETES_MODE_H_
