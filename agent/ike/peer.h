// The peers of this node: their configuration, their tunnels, and when to
// begin an IKE_SA with them.
#ifndef ESPALIER_AGENT_IKE_PEER_H_
#define ESPALIER_AGENT_IKE_PEER_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "agent/ike/config.h"
#include "agent/ike/context.h"
#include "agent/ike/tunnels.h"

namespace espalier::ike {

// When this end begins an IKE_SA with a peer. The lower identity of a pair
// begins at once, the other gives it a grace time; whoever fails waits longer
// each time (DESIGN 3).
class Establishing {
 public:
  bool wanted() const { return wanted_; }
  // A restarted agent that found SAs of its own: the peer most likely still
  // sends on the old ones.
  bool at_once() const { return at_once_; }
  // When to try; nullopt while nothing is to be done.
  std::optional<base::Instant> attempt_at() const { return attempt_at_; }

  // IKE_SAs begun before this are to be replaced.
  std::optional<IkeSaId> replace_before() const { return replace_before_; }

  void Want(Context& ctx, const PeerConfig& config, bool at_once);
  void Replace(Context& ctx);
  // What is up does not do.
  void ReplaceAgain(Context& ctx);
  void Stop();
  // An attempt of ours is under way.
  void Started() { attempt_at_.reset(); }
  // `wanted`: also where the peer began.
  void Succeeded(bool wanted);
  // An attempt of ours came to nothing. `held`: CHILD_SAs of an IKE_SA that was
  // lost still stand.
  void Failed(Context& ctx, const PeerConfig& config, bool held);
  // An IKE_SA that was up is gone: `deleted`, or the peer did not answer.
  void Lost(Context& ctx, const PeerConfig& config, bool deleted);

 private:
  bool wanted_ = false;
  std::optional<IkeSaId> replace_before_;
  bool at_once_ = false;
  int failures_ = 0;
  std::optional<base::Instant> attempt_at_;
};

struct Peer {
  explicit Peer(PeerId peer_id) : id(peer_id), tunnels(peer_id) {}

  const PeerId id;
  std::shared_ptr<const PeerConfig> config;
  // The owner has removed it; it only waits for the Deletes of its IKE_SAs.
  bool removed = false;
  Establishing establishing;
  Tunnels tunnels;
  // IKE_SAs under way, begun by us or with a peer who has just proven to be
  // this one; and those that are up.
  std::vector<IkeSaId> attempts, established;
  // When to ask again for a CHILD_SA on an IKE_SA that has none.
  std::optional<base::Instant> child_at;
  int child_failures = 0;
  // RFC 9611: the CPUs that are to have a CHILD_SA of their own, and when to
  // ask again after a failure.
  struct Cpus {
    std::set<uint32_t> wanted;
    std::optional<base::Instant> retry_at;
  };
  Cpus cpus;

  const Identity& LocalIdentity(const CoreConfig& core) const {
    return config->local_identity ? *config->local_identity : core.identity;
  }
};

class PeerTable {
 public:
  // InvalidArgument says what is wrong with `config`, and changes nothing.
  absl::Status Upsert(PeerConfig config);
  // Found by id only, from now on, until Erase.
  void Remove(Peer& peer);
  void Erase(PeerId id);

  Peer* Find(PeerId id);
  // Of peers that are not removed.
  Peer* FindByIdentity(const Identity& identity);
  // Peers configured with this address; all peers when there is none, since a
  // NAT may have changed it.
  std::vector<const Peer*> Candidates(const base::IpAddress& address) const;
  // The proposals of all candidates, without repetition: before IKE_AUTH
  // nobody knows who it is.
  std::vector<IkeProposal> ProposalsFor(const base::IpAddress& address) const;
  const std::map<PeerId, std::unique_ptr<Peer>>& all() const { return peers_; }

 private:
  void Index(const Peer& peer);
  void Unindex(const Peer& peer);

  // Ordered: a simulator's seed must lead to the same run again.
  std::map<PeerId, std::unique_ptr<Peer>> peers_;
  absl::flat_hash_map<std::string, PeerId> by_identity_;
  absl::flat_hash_map<base::IpAddress, std::vector<PeerId>> by_address_;
  mutable std::optional<std::vector<IkeProposal>> all_proposals_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_PEER_H_
