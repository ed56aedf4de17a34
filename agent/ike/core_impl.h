// The inside of Core: its tables, and what links IKE_SAs, peers and timers.
#ifndef ESPALIER_AGENT_IKE_CORE_IMPL_H_
#define ESPALIER_AGENT_IKE_CORE_IMPL_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "agent/ike/core.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/init_gate.h"
#include "agent/ike/peer.h"
#include "agent/ike/rate_limit.h"

namespace espalier::ike {

class Core::Impl {
 public:
  Impl(CoreConfig config, base::RandomSource* random);

  Context& at(base::Instant now) {
    ctx_.now = now;
    return ctx_;
  }
  Context& ctx() { return ctx_; }
  const Context& ctx() const { return ctx_; }
  const std::map<IkeSaId, std::unique_ptr<IkeSa>>& ike_sas() const {
    return sas_;
  }
  PeerTable& peers() { return peers_; }

  // --- events (core.cc) ---
  void HandleDatagram(const Path& path, base::ByteSpan bytes);
  void HandleTimeout();
  void HandleCryptoDone(CryptoJobId id, crypto::Result result);
  void HandleDatapathDone(DatapathOpId op, const absl::Status& status);
  void HandleInboundTraffic(base::Spi spi);
  void HandleInboundSeen(base::Spi spi);
  void HandleSaExpired(base::Direction direction,
                       const base::IpAddress& destination, base::Spi spi,
                       bool hard);
  std::optional<base::Instant> NextTimeout() const;

  // --- peers (core_peers.cc) ---
  absl::Status UpsertPeer(PeerConfig config);
  void RemovePeer(Peer& peer);
  void Establish(Peer& peer, bool at_once);
  void Reestablish(Peer& peer);
  void DeleteIkeSas(Peer& peer);
  // Whatever a call changed: new and dead IKE_SAs, notices, timers. Every
  // event and command ends with it.
  void Settle();

  IkeSa* Find(IkeSaId id);
  // Its timers are looked at in Settle.
  void Touch(IkeSaId id) { touched_sas_.insert(id); }
  void Touch(PeerId id) { touched_peers_.insert(id); }

 private:
  // Of responders until IKE_AUTH: repeats of IKE_SA_INIT have no SPI of ours.
  using InitKey = std::pair<uint64_t, base::Endpoint>;

  struct TimerKey {
    base::Instant at;
    bool peer = false;
    uint64_t id = 0;
    friend bool operator<(const TimerKey& a, const TimerKey& b) {
      return std::tie(a.at, a.peer, a.id) < std::tie(b.at, b.peer, b.id);
    }
  };

  void HandleInitRequest(const Path& path, base::ByteSpan bytes,
                         uint64_t initiator_spi);
  void HandleUnknownSpi(const Path& path, const wire::Header& header);
  void HandleBadHeader(const Path& path, base::ByteSpan bytes,
                       const wire::Verdict& verdict);
  Peer* FindByInbound(base::Spi spi);
  // By the one of ours.
  IkeSa* FindBySpi(uint64_t spi);
  IkeSa& Adopt(std::unique_ptr<IkeSa> sa);

  void HandleNotice(const Notice& notice);
  void OnEstablished(IkeSa& sa);
  void Displace(Peer& peer, IkeSa& sa);
  void ResolveCrossing(Peer& peer, IkeSa& sa);
  void BoundEstablished(Peer& peer);
  void OnSending(IkeSa& sa);
  void EndSuperseded(Peer& peer, IkeSa& sa);
  void EndSuperfluous(IkeSa& sa);
  void AbandonAttempts(Peer& peer);
  void OnChildMissing(IkeSa& sa);
  void OnChildDeleted(IkeSa& sa);
  // Reestablish is not fulfilled yet.
  bool Replacing(const Peer& peer);
  void EnsureReplaced(Peer& peer);
  void EnsureChild(Peer& peer);
  void EnsureCpuChildren(Peer& peer);
  void PruneTwins(Peer& peer);
  void OnPathChanged(IkeSa& sa);
  void RunPeerTimers(Peer& peer);
  void StartAttempt(Peer& peer);
  void Bury(IkeSaId id);
  void ForgetIfUnused(PeerId id);
  void Schedule(bool peer, uint64_t id, std::optional<base::Instant> at);
  std::optional<base::Instant> PeerTimeout(const Peer& peer) const;

  PeerTable peers_;
  Context ctx_;
  InitGate gate_;
  RateLimit stateless_replies_;
  std::map<IkeSaId, std::unique_ptr<IkeSa>> sas_;
  absl::flat_hash_map<InitKey, IkeSaId> half_open_;
  absl::flat_hash_map<IkeSaId, InitKey> half_open_keys_;
  std::set<TimerKey> timers_;
  absl::flat_hash_map<std::pair<bool, uint64_t>, base::Instant> scheduled_;
  std::set<IkeSaId> touched_sas_;
  std::set<PeerId> touched_peers_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_CORE_IMPL_H_
