// Answers of the running agent to those who look in.
#ifndef ESPALIER_AGENT_MAIN_BACKEND_H_
#define ESPALIER_AGENT_MAIN_BACKEND_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "agent/main/guard_control.h"
#include "agent/main/node_datapath.h"
#include "agent/main/surroundings/surroundings.h"
#include "agent/mesh/mesh.h"
#include "agent/runtime/ike_driver.h"
#include "agent/service/agent_service.h"
#include "agent/service/cni_server.h"
#include "agent/service/event_hub.h"
#include "agent/service/http_server.h"
#include "agent/service/metrics.h"

namespace espalier::agent {

// On the loop's thread, except where said.
class Backend : public service::AgentBackend {
 public:
  // All outlive the backend.
  struct Parts {
    base::Executor* loop;
    base::Clock* clock;
    runtime::IkeDriver* driver;
    mesh::Mesh* mesh;
    NodeDatapath* datapath;
    GuardControl* guard;
    const Surroundings* surroundings;
    service::EventHub* events;
    std::string key_file;  // of this node's key; empty: it has none
  };
  explicit Backend(Parts parts);

  // Null until, and after, it serves.
  void SetCniServer(service::CniServer* cni) { cni_ = cni; }

  // How the API server is heard, in Kubernetes; called on the loop.
  void SetSource(std::function<service::MetricsSnapshot::Source()> source) {
    source_ = std::move(source);
  }

  // What happened, for Watch and for the counters.
  void Note(const ike::Event& event);
  void NoteReload(const absl::Status& status);
  void NoteRepair(const guard::GuardProblem& problem);

  // OK, or why this node is not ready.
  absl::Status Ready() const;
  // The same, and no pod is refused because of others' configuration.
  absl::Status AttachesPods() const;

  // Any thread but the loop's; waits for the loop.
  service::HttpAnswer Metrics();
  service::HttpAnswer Health();
  service::HttpAnswer Readiness();

  void GetStatus(Done<v1::AgentStatus> done) override;
  void ListTunnels(Done<v1::ListTunnelsResponse> done) override;
  void ShowTunnel(const std::string& peer, Done<v1::Tunnel> done) override;
  void ListPods(Done<v1::ListPodsResponse> done) override;
  void ListDrops(Done<v1::ListDropsResponse> done) override;
  void Verify(const v1::VerifyRequest& request,
              Done<v1::VerifyResponse> done) override;
  void Rekey(const v1::RekeyRequest& request,
             Done<v1::RekeyResponse> done) override;

 private:
  void TakePods(std::function<void(pods::Snapshot)> done);
  void TakeMetrics(std::function<void(service::MetricsSnapshot)> done);
  std::vector<v1::GuardState> GuardStates() const;
  std::string PeerName(ike::PeerId id);
  absl::StatusOr<mesh::PeerStatus> FindPeer(const std::string& name) const;

  Parts parts_;
  service::CniServer* cni_ = nullptr;
  std::function<service::MetricsSnapshot::Source()> source_;
  const absl::Time started_ = absl::Now();
  absl::Time config_loaded_ = absl::Now();
  absl::Status config_error_;
  uint64_t reloads_ = 0;
  uint64_t reload_failures_ = 0;
  uint64_t ike_rekeys_ = 0;
  uint64_t child_rekeys_ = 0;
  std::map<ike::PeerId, std::string> peer_names_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_BACKEND_H_
