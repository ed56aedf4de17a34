// What the mesh asks of IKE.
#ifndef ESPALIER_AGENT_MESH_IKE_CONTROL_H_
#define ESPALIER_AGENT_MESH_IKE_CONTROL_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "agent/ike/action.h"
#include "agent/ike/config.h"

namespace espalier::mesh {

// Implemented by the owner of the ike::Core: it adds the time, and has the
// core's actions carried out. Those for the mesh may come inside the call.
class IkeControl {
 public:
  virtual ~IkeControl() = default;
  virtual absl::Status UpsertPeer(ike::PeerConfig peer) = 0;
  virtual void RemovePeer(ike::PeerId peer) = 0;
  // `at_once`: also where the peer would begin (DESIGN 3).
  virtual void Establish(ike::PeerId peer, bool at_once) = 0;
  virtual void StopEstablishing(ike::PeerId peer) = 0;
  // Closes its IKE_SA and CHILD_SAs, with a Delete on the wire.
  virtual void Delete(ike::PeerId peer) = 0;
  // A new IKE_SA by the configuration as it is now, in place of the one there
  // is, which stays until the new one carries the traffic.
  virtual void Reestablish(ike::PeerId peer) = 0;
  virtual void RekeyChildSa(ike::PeerId peer) = 0;
  // RFC 9611: an SA for what this CPU of ours sends, beside the fallback one.
  virtual void WantCpuSa(ike::PeerId peer, uint32_t cpu) = 0;
  // ESP packets came in on that SA: its IKE_SA's other end is alive.
  virtual void HandleInboundTraffic(base::Spi spi) = 0;
  virtual void HandleDatapathDone(ike::DatapathOpId op,
                                  absl::Status status) = 0;
  virtual void HandleInboundSeen(base::Spi spi) = 0;
  virtual void HandleSaExpired(const base::SaKey& key, bool hard) = 0;
};

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_IKE_CONTROL_H_
