// Keeps the running tunnels equal to the cluster that is wanted: peers of IKE,
// policies and SAs of the datapath, routes of the node.
#ifndef ESPALIER_AGENT_MESH_MESH_H_
#define ESPALIER_AGENT_MESH_MESH_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/clock.h"
#include "agent/base/event_loop.h"
#include "agent/base/security_association.h"
#include "agent/datapath/datapath.h"
#include "agent/datapath/tracker.h"
#include "agent/ike/action.h"
#include "agent/mesh/cluster.h"
#include "agent/mesh/ike_control.h"
#include "agent/mesh/probe.h"
#include "agent/mesh/reqid_table.h"
#include "agent/network/node_network.h"

namespace espalier::mesh {

enum class TunnelState : uint8_t {
  kDown,       // nothing flows, IKE is trying
  kProbing,    // an SA each way is installed, no probe was answered yet
  kUp,         // an SA each way is installed, and packets pass
  kNoPackets,  // an SA each way is installed, and packets do not pass
  kIdle,       // on demand, and nobody asks for it: no SA
  kAdopted,    // SAs of an earlier agent flow, their successors are to come
};
// "down", "probing", "up", "no-packets", "idle", "adopted"
const char* TunnelStateName(TunnelState state);

struct SaStatus {
  base::SaKey key;
  base::EspSuite suite;
  bool encapsulated = false;
  // Left by an earlier agent or IKE_SA; goes once its successor carries
  // traffic.
  bool left_over = false;
  std::optional<uint32_t> cpu;  // RFC 9611: only what this CPU sends
  base::SaCounters counters;    // as of the last RefreshCounters
};

struct PeerStatus {
  ike::PeerId id;
  std::string name;
  ike::Identity identity;
  base::Reqid reqid;
  std::vector<base::IpAddress> addresses;
  std::vector<base::IpPrefix> pod_cidrs;
  TunnelState state = TunnelState::kDown;
  base::Instant state_since;
  // A packet has come in on the newest inbound SA.
  bool inbound_seen = false;
  ProbeStatus probe;
  // encryptNodeTraffic: its node's own packets are accepted by ESP alone.
  bool sealed = false;
  // This node had to fall back from protocol 50 to UDP 4500 (or keeps to UDP as
  // the agent before it).
  bool fell_back = false;
  uint32_t mtu = 0;          // of the routes to it
  std::string last_problem;  // why it is down, for people; empty when up
  std::vector<SaStatus> sas;
  base::SaCounters inbound, outbound;  // of all its SAs since the agent's start
};

// On the loop's thread; does no IO but through what it is given.
class Mesh {
 public:
  // All outlive the mesh. Takes the datapath's events for itself. Without
  // `probes` a tunnel counts as up once its SAs are installed.
  Mesh(base::EventLoop* loop, base::Clock* clock, IkeControl* ike,
       datapath::Datapath* datapath, network::NodeNetwork* network,
       ProbeLink* probes = nullptr, base::RandomSource* random = nullptr);
  ~Mesh();

  // Replaces what is wanted. A peer that cannot be configured is skipped and
  // says why in its status; the rest goes on. With the first call the cluster
  // source counts as in sync: what is Espalier's own and not wanted is swept
  // from then on.
  void SetCluster(Cluster cluster);

  // Before the first SetCluster: peers (by name) of which a key was withdrawn
  // while no agent ran. Their SAs are not taken over.
  void DistrustLeftOvers(std::set<std::string> peers) {
    distrusted_ = std::move(peers);
  }

  // InstallSa, RemoveSa, WatchInbound and Event go here; false for the others,
  // which are the caller's.
  bool HandleIkeAction(ike::Action& action);
  // What came on kProbePort out of the tunnel's interface.
  void HandleProbe(const base::IpAddress& local, const base::IpAddress& remote,
                   base::ByteSpan bytes) {
    prober_.HandleDatagram(local, remote, bytes);
  }
  // A probe of ours that came back through it as "port unreachable".
  void HandleProbeUnreachable(const base::IpAddress& local,
                              const base::IpAddress& remote,
                              base::ByteSpan bytes) {
    prober_.HandleUnreachable(local, remote, bytes);
  }

  // In the order of their names.
  std::vector<PeerStatus> Peers() const;
  // Tries protocol 50 again after a fallback. FailedPrecondition says why not.
  absl::Status ReturnToProtocol50(ike::PeerId id);
  // So often since the start.
  uint64_t fallbacks() const { return fallbacks_; }
  // Reads the datapath's counters; `done` runs when Peers() shows them.
  void RefreshCounters(std::function<void(absl::Status)> done);
  // The MTU that pods' interfaces get: fits the worst that any peer may come
  // to use (DESIGN 4).
  uint32_t pod_mtu() const;
  const LocalNode& node() const { return cluster_.node; }
  const datapath::Tracker& tracker() const { return tracker_; }

 private:
  struct Child;
  struct PeerState;
  class Work;
  using PeerMap = std::map<ike::PeerId, std::unique_ptr<PeerState>>;

  // --- what is wanted (mesh_desired.cc) ---
  absl::StatusOr<ike::PeerConfig> ConfigOf(const PeerState& peer) const;
  void ConfigurePeer(PeerState* peer);
  void RemovePeer(PeerState* peer);
  void ApplyPolicies();
  void ApplyNetwork();
  uint32_t MtuOf(const PeerState& peer) const;
  void AddNodeRoute(const PeerState& peer, const base::IpAddress& address,
                    uint32_t mtu, network::DesiredNetwork* desired) const;
  void AddPlainRoutes(const PeerState& peer,
                      network::DesiredNetwork* desired) const;
  // Whether its node's own traffic comes by the tunnel or not at all.
  bool Sealed(const PeerState& peer) const;
  bool ReachesNode(const PeerState& peer, const base::IpAddress& address) const;

  // --- what happens (mesh.cc) ---
  void Execute(ike::InstallSa action);
  void Execute(const ike::RemoveSa& action);
  void Execute(const ike::WatchInbound& action);
  void Execute(const ike::Event& event);
  void HandleInstalled(const ike::InstallSa& action, const base::EspSa& sa,
                       absl::Status status);
  void HandleReady();
  void HandleInboundSeen(const base::SaKey& key);
  void HandleExpired(const base::SaKey& key, bool hard);
  void HandleVanished(const datapath::TrackedSa& sa);
  void HandleAcquire(base::Reqid reqid);
  // Takes over what an earlier agent left, and removes what nobody wants.
  void Adopt();
  void DropLeftOversLater(PeerState* peer, bool inbound);
  // At once: a key that may have proved them is withdrawn (DESIGN 7).
  void DropLeftOvers(PeerState* peer);
  void Retire(PeerState* peer, const base::SaKey& key);
  void UpdateState(PeerState* peer);
  void HandleProbeVerdict(ike::PeerId id);
  TunnelState StateOf(const PeerState& peer) const;
  void JudgeFallback(PeerState* peer);
  void HandleRefreshed();
  void NoteTraffic(PeerState* peer, uint64_t in, uint64_t out,
                   base::Instant now);
  void Wish(PeerState* peer, bool at_once);
  void Drain();

  PeerState* Find(ike::PeerId id);
  PeerState* FindByReqid(base::Reqid reqid);
  // The peer that a tracked SA is of; null when there is none.
  PeerState* OwnerOf(const base::SaKey& key);
  // The child that this SA is of; null for left-over ones.
  Child* FindChild(PeerState* peer, const base::SaKey& key);

  base::EventLoop* loop_;
  base::Clock* clock_;
  IkeControl* ike_;
  network::NodeNetwork* network_;
  datapath::Tracker tracker_;
  Prober prober_;
  Cluster cluster_;
  std::set<std::string> distrusted_;
  bool in_sync_ = false;
  ReqidTable reqids_;
  PeerMap peers_;
  // An event of an SA comes with its reqid: with thousands of peers each one
  // must not look at them all.
  std::map<base::Reqid, PeerState*> by_reqid_;
  uint32_t last_peer_id_ = 0;
  uint64_t fallbacks_ = 0;
  // Actions that came while another is carried out wait here.
  std::deque<ike::Action> waiting_;
  int working_ = 0;
  bool network_changed_ = false;
  std::set<base::EventLoop::TimerId> timers_;
};

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_MESH_H_
