// All CHILD_SAs with one peer, across its IKE_SAs: which one carries traffic,
// when that changes, and what stays until nothing can be lost (DESIGN 3, 4).
#ifndef ESPALIER_AGENT_IKE_TUNNELS_H_
#define ESPALIER_AGENT_IKE_TUNNELS_H_

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "agent/ike/child_sa.h"
#include "agent/ike/context.h"

namespace espalier::ike {

// The rules, in the order in which they apply to a new CHILD_SA:
// - inbound first: outbound is only asked for when inbound stands;
// - the end that began the exchange installs outbound next: the peer had its
//   inbound SA before it answered;
// - the other end does so at once when it has nothing else to send on;
//   otherwise it goes on with the old SA until the new inbound SA was seen in
//   use, the old one is deleted, or any later request of the peer shows that
//   it has processed our answer;
// - what the new one replaces is deleted by the exchange's initiator, and
//   received on for CoreConfig::drain_time longer;
// - CHILD_SAs whose IKE_SA is lost (liveness, a restarted peer) stay as they
//   are until a later one is confirmed, or their hard lifetime ends.
class Tunnels {
 public:
  explicit Tunnels(PeerId peer) : peer_(peer) {}

  // Asks for the inbound SA. The result comes by HandleDatapathDone of the
  // IKE_SA `owner`, as `*op`.
  ChildSa& Begin(Context& ctx, IkeSaId owner, const ChildPlan& plan,
                 base::Reqid reqid, DatapathOpId* op);
  // The inbound SA stands, and the response is received or sent.
  void Complete(Context& ctx, ChildSa& child);
  // It comes to nothing: what was installed goes at once.
  void Abort(Context& ctx, ChildSaId child);
  // The same when the peer has its half and must be told: the SPI stays
  // taken until then.
  InboundSpi AbortKeepingSpi(Context& ctx, ChildSa& child);

  // The peer deletes it: it has what it made in its place.
  void DeletedByPeer(Context& ctx, ChildSa& child);
  // The peer has deleted it, or confirmed our Delete.
  void Retire(Context& ctx, ChildSa& child);
  // At once, without drain: the peer may not reach us any more.
  void RemoveAll(Context& ctx);

  // The IKE_SA `owner` is gone. Without `keep`, its children are retired.
  void OwnerGone(Context& ctx, IkeSaId owner, bool keep);
  // The IKE_SA `owner` lost against one that carries the traffic: nothing is
  // switched to its children any more, nor to those still being made, and
  // what was goes back.
  void Supersede(Context& ctx, IkeSaId owner);
  // A rekeyed IKE_SA hands its children on (RFC 7296 2.18).
  void Inherit(IkeSaId from, IkeSaId to);

  // A request of the peer's that came after those which made its children; the
  // end of an exchange that we began: either proves what the peer has done.
  void PeerRequested(Context& ctx, IkeSaId owner);
  void OwnExchangeEnded(Context& ctx, IkeSaId owner);

  // SAs of an earlier core may still be in the datapath (DESIGN 3): traffic
  // goes on over them until a new CHILD_SA is confirmed.
  void ExpectLeftovers() { leftovers_ = true; }

  // True when `op` was one of ours.
  bool HandleDatapathDone(Context& ctx, DatapathOpId op,
                          const absl::Status& status);
  void HandleInboundSeen(Context& ctx, base::Spi spi);
  void HandleExpired(Context& ctx, ChildSa& child, bool hard);
  void HandleTimeout(Context& ctx);
  std::optional<base::Instant> NextTimeout() const;

  ChildSa* Find(ChildSaId id);
  ChildSa* FindInbound(base::Spi spi);
  // Outbound SPIs are the peer's choice; `owner` may be 0 for any.
  ChildSa* FindOutbound(base::Spi spi, IkeSaId owner = {});
  std::vector<ChildSa*> Of(IkeSaId owner);
  const std::vector<std::unique_ptr<ChildSa>>& all() const { return children_; }
  bool empty() const { return children_.empty(); }
  // One for every CPU's traffic (RFC 9611's fallback SA, or the only one there
  // is) that is not retired, and not on its way out without a successor.
  bool HasLive(IkeSaId owner) const;
  // The same of one CPU's own; how many CPUs have one.
  bool HasLive(IkeSaId owner, uint32_t cpu) const;
  size_t CountCpus(IkeSaId owner) const;
  // A rekey has put another in its place that has not failed since.
  bool Replaced(const ChildSa& child) const;
  // Live CHILD_SAs of the same IKE_SA and selectors that are older, and not
  // what `child` replaces or collided with.
  std::vector<ChildSaId> OlderTwins(ChildSaId child) const;
  // One of them is sent on.
  bool IsUp(IkeSaId owner) const;

 private:
  void Switch(Context& ctx, ChildSa& child);
  void Confirm(Context& ctx, ChildSa& child);
  void SwitchHeld(Context& ctx);
  // Ours, which never carried anything, ends: the peer's rekey of the same old
  // one, which it had won against (RFC 7296 2.8.1), is needed after all.
  bool Revive(const ChildSa& failed);
  void OutboundInstalled(Context& ctx, ChildSa& child,
                         const absl::Status& status);
  // Whether there is an SA to send on.
  bool Sends() const;
  // What replaces it is sent on.
  bool SuccessorSends(const ChildSa& child) const;
  void CheckSoftLifetime(Context& ctx, ChildSa& child);
  // Of outbound SAs younger than `child`'s.
  bool HasNewer(const ChildSa& child) const;
  void RemoveOutbound(Context& ctx, ChildSa& child);
  void Remove(Context& ctx, ChildSa& child);  // from datapath and list
  void SetLifetimes(Context& ctx, ChildSa& child);

  PeerId peer_;
  bool leftovers_ = false;
  uint32_t switches_ = 0;
  std::set<IkeSaId> superseded_;
  std::vector<std::unique_ptr<ChildSa>> children_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TUNNELS_H_
