// The IKEv2 protocol core (RFC 7296): one per node, all IKE_SAs inside.
//
// Sans-IO: everything that happens comes in through a Handle*() or a command,
// with the time; everything to be done comes out of PollAction() until that is
// empty. No call blocks, throws or keeps a reference to its arguments. One
// thread.
#ifndef ESPALIER_AGENT_IKE_CORE_H_
#define ESPALIER_AGENT_IKE_CORE_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/random.h"
#include "agent/ike/action.h"
#include "agent/ike/config.h"

namespace espalier::ike {

class Core {
 public:
  // `random` outlives the core.
  Core(CoreConfig config, base::RandomSource* random);
  ~Core();

  // --- commands of the owner ---

  // Adds a peer or replaces its configuration; live SAs go on and meet the new
  // configuration at their next exchange. InvalidArgument says which field.
  absl::Status UpsertPeer(base::Instant now, PeerConfig peer);
  // Deletes the peer's SAs (with a Delete on the wire) and forgets it.
  void RemovePeer(base::Instant now, PeerId peer);
  // Starts an IKE_SA unless one is up or under way; keeps trying with backoff
  // until StopEstablishing or RemovePeer. The end with PeerConfig::initiate
  // false first waits for the peer, unless `at_once`: a restarted agent that
  // finds SAs of its own in the datapath does not wait (DESIGN 3).
  void Establish(base::Instant now, PeerId peer, bool at_once = false);
  void StopEstablishing(base::Instant now, PeerId peer);
  // A new IKE_SA with its CHILD_SA, as the peer is configured now, although one
  // is up. The old one is deleted once the new one carries the traffic, and
  // stays as it is when the new one comes to nothing.
  void Reestablish(base::Instant now, PeerId peer);
  // What IKE_SAs that begin from now on are authenticated with.
  void SetPrivateKey(std::shared_ptr<const crypto::PrivateKey> key);
  void RekeyIkeSa(base::Instant now, PeerId peer);
  void RekeyChildSa(base::Instant now, PeerId peer);
  // From now on a CHILD_SA of this CPU's own is wanted (RFC 9611): made as soon
  // as the fallback one is up, unless there is one, PeerConfig::max_cpu_sas or
  // the peer says no, and until the peer deletes it.
  void WantCpuSa(base::Instant now, PeerId peer, uint32_t cpu);
  // Deletes the peer's IKE_SA and its CHILD_SAs; Establish starts anew.
  void Delete(base::Instant now, PeerId peer);

  // --- what happens ---

  // `bytes` is an IKE message without the non-ESP marker.
  void HandleDatagram(base::Instant now, const Path& path,
                      base::ByteSpan bytes);
  void HandleTimeout(base::Instant now);
  void HandleCryptoDone(base::Instant now, CryptoJobId id,
                        crypto::Result result);
  void HandleDatapathDone(base::Instant now, DatapathOpId op,
                          absl::Status status);
  // ESP packets came in on this inbound SA since the last call: the other end
  // of its IKE_SA is alive, nobody need ask (RFC 7296 2.4).
  void HandleInboundTraffic(base::Instant now, base::Spi spi);
  // The first packet came in on a watched inbound SA.
  void HandleInboundSeen(base::Instant now, base::Spi spi);
  // A byte or packet limit of a datapath SA was reached; `hard`: it is dead.
  // Outbound SPIs are chosen by the peers: only together with the destination
  // do they name one SA.
  void HandleSaExpired(base::Instant now, base::Direction direction,
                       const base::IpAddress& outer_destination, base::Spi spi,
                       bool hard);

  // --- out ---

  std::optional<Action> PollAction();
  // When HandleTimeout wants to be called, at the latest; nullopt: never.
  std::optional<base::Instant> NextTimeout() const;

  // --- looking in ---

  std::vector<IkeSaInfo> IkeSas() const;
  const CoreCounters& counters() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_CORE_H_
