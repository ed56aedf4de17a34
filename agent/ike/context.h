// What all parts of one core share during a call: the time, randomness, the
// configuration, the queue of actions, and who waits for which answer.
#ifndef ESPALIER_AGENT_IKE_CONTEXT_H_
#define ESPALIER_AGENT_IKE_CONTEXT_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "agent/base/random.h"
#include "agent/ike/action.h"
#include "agent/ike/config.h"

namespace espalier::ike {

class IkeSa;
class PeerTable;

// What one part tells the core to do with another, once the call that found it
// out has returned: nothing in here calls upwards.
struct Notice {
  enum class Kind : uint8_t {
    kEstablished,   // ike_sa: authenticated
    kRekeyChild,    // ike_sa: its child is due
    kDeleteChild,   // ike_sa: its child has to go, with a Delete
    kChildMissing,  // ike_sa: it lost its last child
    kSending,       // ike_sa: its child is up, both ways
    kPathChanged,   // ike_sa: the peer moved; children need new addresses
    kDeleteIke,     // ike_sa: has to go, with a Delete
    kAwaitDelete,   // ike_sa: redundant; the peer will delete it
    kChildDeleted,  // ike_sa: the peer deleted its last child
    kReestablish,   // ike_sa: to be replaced by a new one
    kSuperfluous,   // ike_sa: its time to be deleted as such has come
  };
  Kind kind;
  IkeSaId ike_sa;
  ChildSaId child;
};

class Context;

// An inbound SPI that is not yet an SA's: given back unless it becomes one.
class InboundSpi {
 public:
  InboundSpi() = default;
  InboundSpi(Context* ctx, base::Spi spi) : ctx_(ctx), spi_(spi) {}
  InboundSpi(InboundSpi&& other) noexcept
      : ctx_(std::exchange(other.ctx_, nullptr)), spi_(other.spi_) {}
  InboundSpi& operator=(InboundSpi&& other) noexcept;
  ~InboundSpi();
  base::Spi value() const { return spi_; }
  // From now on the CHILD_SA's.
  base::Spi Take() {
    ctx_ = nullptr;
    return spi_;
  }

 private:
  Context* ctx_ = nullptr;
  base::Spi spi_;
};

class Context {
 public:
  Context(CoreConfig core_config, base::RandomSource* random_source);
  ~Context();

  // Only the private key changes, by Core::SetPrivateKey.
  CoreConfig config;
  base::RandomSource& random;
  base::Instant now;  // of the call being handled
  CoreCounters counters;
  PeerTable* peers = nullptr;

  // --- out ---
  void Emit(Action action) { actions.push_back(std::move(action)); }
  void Send(const Path& path, base::Bytes bytes);
  CryptoJobId RunCrypto(IkeSaId owner, crypto::Job job);
  // `owner` may be 0: then only the peer's tunnels hear of the result.
  DatapathOpId InstallSa(IkeSaId owner, PeerId peer, ChildSaId child,
                         base::EspSa sa);
  void RemoveSa(PeerId peer, ChildSaId child, base::Direction direction,
                base::Spi spi, const base::IpAddress& destination);
  void Report(Event::Kind kind, PeerId peer, IkeSaId ike_sa, ChildSaId child,
              std::string detail);
  void Notify(Notice::Kind kind, IkeSaId ike_sa, ChildSaId child = {}) {
    notices.push_back({kind, ike_sa, child});
  }

  // --- names ---
  IkeSaId NextIkeSaId() { return IkeSaId(++last_id_); }
  ChildSaId NextChildSaId() { return ChildSaId(++last_id_); }
  uint64_t NewIkeSpi();
  // An SPI that no inbound SA of ours has.
  InboundSpi NewInboundSpi(PeerId peer);
  void ReleaseInboundSpi(base::Spi spi) { inbound_spis.erase(spi); }
  // `duration` less up to `part` of it, at random.
  absl::Duration Jitter(absl::Duration duration, double part);
  base::Bytes NewNonce();

  std::deque<Action> actions;
  std::deque<Notice> notices;
  // IKE_SAs that a rekey made; the core takes them into its table.
  std::vector<std::unique_ptr<IkeSa>> spawned;
  absl::flat_hash_map<CryptoJobId, IkeSaId> jobs;
  struct OpOwner {
    IkeSaId ike_sa;
    PeerId peer;
  };
  absl::flat_hash_map<DatapathOpId, OpOwner> ops;
  absl::flat_hash_map<base::Spi, PeerId> inbound_spis;
  // Our SPIs, to keep them apart; maintained by the core.
  absl::flat_hash_map<uint64_t, IkeSaId> ike_spis;

 private:
  uint64_t last_id_ = 0;
  uint64_t last_job_ = 0;
  uint64_t last_op_ = 0;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_CONTEXT_H_
