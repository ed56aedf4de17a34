// What the mesh keeps of one peer, and the guard of its ways in. Private to
// this folder.
#ifndef ESPALIER_AGENT_MESH_PEER_STATE_H_
#define ESPALIER_AGENT_MESH_PEER_STATE_H_

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/mesh/mesh.h"

namespace espalier::mesh {

// One CHILD_SA of the core's, as far as it is installed.
struct Mesh::Child {
  std::optional<base::SaKey> inbound, outbound;
  std::optional<uint32_t> cpu;  // RFC 9611; nullopt: the fallback SA
  base::EspSuite suite;
  bool encapsulated = false;
  base::Family outer_family = base::Family::kIpv4;
  std::vector<base::TrafficSelector> remote_selectors;
  uint64_t packets_in = 0;  // as of the last refresh
  bool seen = false;        // a packet came in
  bool core_asks = false;   // WatchInbound, not answered yet
};

struct Mesh::PeerState {
  PeerSpec spec;
  ike::PeerId id;
  base::Reqid reqid;
  bool configured = false;  // the core knows it
  TunnelState state = TunnelState::kDown;
  base::Instant state_since;
  std::string problem;
  std::map<ike::ChildSaId, Child> children;
  // The child that outbound traffic takes, but for CPUs with their own: the
  // last that was installed.
  std::optional<ike::ChildSaId> newest;
  std::set<base::SaKey> left_over;
  // A key of it was withdrawn, and no CHILD_SA of the core's has stood since:
  // what an earlier agent left may have been proved by that key.
  bool key_withdrawn = false;
  base::SaCounters retired_inbound, retired_outbound;

  // Asked for since the last tunnel went: without it and on demand, no tunnel
  // is what is wanted.
  bool wanted = false;
  // Its agent's last word: its node's own traffic takes the tunnel.
  bool node_traffic = false;
  // Set: ESP goes in UDP although the configuration says protocol 50.
  std::optional<base::Instant> fell_back_at;
  std::optional<base::Instant> failing_since;  // probes
  // While they fail: since when no packet at all came in.
  base::Instant quiet_since;
  // Packets of all its SAs, as of the last refresh; `used` without probes.
  uint64_t total_inbound = 0, quiet_inbound = 0;
  uint64_t used_inbound = 0, used_outbound = 0;
  std::optional<base::Instant> last_used;

  // An SA each way, for every CPU's traffic, of a CHILD_SA of the core's.
  bool installed() const {
    return std::ranges::any_of(children, [](const auto& entry) {
      return entry.second.inbound && entry.second.outbound && !entry.second.cpu;
    });
  }
};

// Every way in makes one. The outermost, at its end, carries out what came in
// meanwhile, and applies the network once for all that changed.
class Mesh::Work {
 public:
  explicit Work(Mesh* mesh) : mesh_(mesh) { ++mesh_->working_; }
  ~Work() {
    if (mesh_->working_ == 1) mesh_->Drain();
    --mesh_->working_;
  }

 private:
  Mesh* mesh_;
};

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_PEER_STATE_H_
