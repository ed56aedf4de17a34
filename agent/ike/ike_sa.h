// One IKE_SA: its keys, its two windows, the exchanges under way on it, and
// what is still to be done. RFC 7296.
#ifndef ESPALIER_AGENT_IKE_IKE_SA_H_
#define ESPALIER_AGENT_IKE_IKE_SA_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/ike/authentication.h"
#include "agent/ike/config.h"
#include "agent/ike/context.h"
#include "agent/ike/fragmentation.h"
#include "agent/ike/key_derivation.h"
#include "agent/ike/message_window.h"
#include "agent/ike/nat_detection.h"
#include "agent/ike/peer.h"
#include "agent/ike/tasks/task.h"
#include "agent/wire/message.h"

namespace espalier::ike {

// What an IKE_SA still wants to do; turned into a task when its window is
// free, and dropped if it has become pointless by then.
struct Wish {
  enum class Kind : uint8_t {
    kDeleteIke,
    kRekeyIke,
    kDeleteChild,
    kRekeyChild,
    kCreateChild,
    kCreateCpuChild,
    kLiveness,
  };
  Kind kind;
  ChildSaId child;
  uint32_t cpu = 0;  // of kCreateCpuChild
  friend bool operator==(const Wish&, const Wish&) = default;
};

class IkeSa {
 public:
  enum class Stage : uint8_t {
    kInit,    // IKE_SA_INIT; there are no keys yet
    kAuth,    // keys, but nobody is authenticated
    kFailed,  // refused in IKE_AUTH; repeats get the same answer
    kEstablished,
    kReplaced,  // rekeyed: its successor has the children; Delete follows
    kClosing,   // our Delete is under way
    kDead,      // to be dropped by the core
  };
  // What becomes of the children when it is gone.
  enum class Ending : uint8_t {
    kSilent,    // nothing more is said; the children go
    kLost,      // the peer does not answer: the children stay (DESIGN 3)
    kInherited  // there are none left
  };

  // `peer` is null where only IKE_AUTH will tell who it is.
  IkeSa(Context& ctx, Peer* peer, bool initiator, uint64_t local_spi,
        const Path& path);
  ~IkeSa();

  // --- events; the core calls them ---
  void HandleDatagram(const Path& path, base::ByteSpan bytes);
  void HandleTimeout();
  // The first exchange of an IKE_SA that we begin.
  void Begin(std::unique_ptr<Task> task) {
    Continue(std::move(task));
    Proceed();
  }
  // A request of the peer's that the core has judged: IKE_SA_INIT.
  void StartPeerTask(std::unique_ptr<Task> task, const Path& path);
  void HandleCrypto(CryptoJobId job, crypto::Result result);
  bool HandleDatapath(DatapathOpId op, const absl::Status& status);
  std::optional<base::Instant> NextTimeout() const;
  // Starts what is wanted, when the window is free.
  void Proceed();
  void Want(Wish::Kind kind, ChildSaId child = {}) { Want({kind, child}); }
  void Want(const Wish& wish);
  // Ends it without a word.
  void Close(Ending ending, const std::string& why);
  IkeSaInfo Info() const;

  // --- facts ---
  IkeSaId id() const { return id_; }
  Stage stage() const { return stage_; }
  bool dead() const { return stage_ == Stage::kDead; }
  bool initiator() const { return initiator_; }  // of this IKE_SA
  uint64_t local_spi() const { return local_spi_; }
  uint64_t remote_spi() const { return remote_spi_; }
  SpiPair spis() const;
  const IkeSuite& suite() const { return suite_; }
  const IkeKeys& keys() const { return keys_; }
  const Path& path() const { return path_; }
  const NatVerdict& nat() const { return nat_; }
  bool encapsulates() const { return nat_.any(); }
  base::Instant created() const { return created_; }
  // The first of the IKE_SAs whose successor this is.
  IkeSaId begun() const { return begun_; }
  // The peer is known to hold it for established, too.
  bool proven() const { return proven_; }
  base::Instant established() const { return established_; }
  Peer* peer() const { return peer_; }
  PeerId peer_id() const { return peer_ ? peer_->id : PeerId(); }
  Context& ctx() const { return ctx_; }
  // A task of ours beyond its first message; for collisions.
  const Task* own_task() const { return own_task_.get(); }
  // The wish that own_task() fulfils; nullopt for IKE_SA_INIT and IKE_AUTH.
  const std::optional<Wish>& current() const { return current_; }
  bool WindowFree() const { return !own_task_ && !requests_.in_flight(); }
  // Neither end has an exchange under way, and nothing is wanted.
  bool Idle() const { return WindowFree() && !peer_task_ && wishes_.empty(); }
  bool Wants(Wish::Kind kind, ChildSaId child = {}) const {
    return Wants(Wish{kind, child});
  }
  bool Wants(const Wish& wish) const;
  // What is still to be done about CHILD_SAs is the successor's from now on.
  void PassWishesOn(IkeSaId successor);

  // --- for tasks ---
  void set_peer(Peer* peer) { peer_ = peer; }
  void set_remote_spi(uint64_t spi) { remote_spi_ = spi; }
  void set_path(const Path& path) { path_ = path; }
  void set_nat(const NatVerdict& nat) { nat_ = nat; }
  void set_fragmentation(bool on) { fragmentation_ = on; }
  bool fragmentation() const { return fragmentation_; }
  void set_peer_key(std::shared_ptr<const crypto::PublicKey> key) {
    peer_key_ = std::move(key);
  }
  const std::shared_ptr<const crypto::PublicKey>& peer_key() const {
    return peer_key_;
  }
  // Keys are there; protected messages can be read (kInit to kAuth).
  void SetKeys(const IkeSuite& suite, IkeKeys keys);
  std::unique_ptr<AuthMaterial>& auth_material() { return auth_material_; }
  const AuthMaterial* auth_material() const { return auth_material_.get(); }
  CryptoJobId RunCrypto(crypto::Job job);
  // IKE_SA_INIT: whole messages in the clear.
  void SendInitRequest(base::Bytes message, bool again);
  void SendInitResponse(base::Bytes message);
  // The response to IKE_SA_INIT is good: it is not repeated any more.
  void SettleInit() { requests_.Settle(0); }
  // Protected; the request takes the next message id, the response that of the
  // request being worked on.
  void SendRequest(wire::ExchangeType exchange, const wire::Payloads& payloads);
  void SendResponse(wire::ExchangeType exchange,
                    const wire::Payloads& payloads);
  // The next exchange of ours, right after the current one.
  void Continue(std::unique_ptr<Task> next) { next_task_ = std::move(next); }
  // Both ends are authenticated.
  void Establish(bool initial_contact);
  bool initial_contact() const { return initial_contact_; }
  // A rekeyed IKE_SA takes over here; its keys are set.
  void EstablishAsSuccessorOf(IkeSa& old);
  void set_stage(Stage stage) { stage_ = stage; }
  // Of a simultaneous rekey of this IKE_SA: the smaller nonce of the exchange
  // that the peer began, and what it made (RFC 7296 2.8.1).
  struct PeerRekey {
    base::Bytes lower_nonce;
    IkeSaId successor;
  };
  std::optional<PeerRekey> peer_rekey;
  // There is one, and what it made has not been deleted already.
  bool PeerRekeyStands() const;
  // SPIs in Deletes that overtook the making of their CHILD_SA here; while an
  // exchange of ours is under way.
  std::vector<base::Spi> early_deletes;
  // RFC 9611: the peer makes CHILD_SAs for single CPUs; and more than there are
  // it will not.
  bool cpu_sas = false;
  bool cpu_sas_exhausted = false;
  // Of two crossing IKE_SAs the one that goes, once the other carries traffic.
  IkeSaId superseded_by;

  void set_close_at(base::Instant at) { close_at_ = at; }
  // The peer never rekeys it; it lasts until its hard lifetime.
  void StopRekeying() { rekey_at_.reset(); }
  // A sign of life other than an IKE message: its ESP (RFC 7296 2.4).
  void Heard() { last_heard_ = ctx_.now; }
  // Why it ended: the peer does not answer, or has restarted.
  bool lost() const { return lost_; }
  // It is superfluous: deleted then, unless the peer does so before.
  void set_delete_at(base::Instant at) { delete_at_ = at; }
  bool superfluous() const { return delete_at_.has_value(); }

 private:
  using Progress = Task::Progress;
  struct Partial {
    uint32_t message_id = 0;
    Reassembly reassembly;
  };

  // Incoming (ike_sa_receive.cc).
  void HandleClear(const Path& path, const wire::Message& message,
                   base::ByteSpan raw);
  void HandleUnprotected(const wire::Message& message);
  void Hold(const Path& path, base::ByteSpan bytes);
  void HandleProtected(const Path& path, const wire::Message& message);
  void HandleFragment(const Path& path, const wire::Message& message,
                      base::Bytes chain);
  void HandleChain(const Path& path, const wire::Header& header,
                   wire::PayloadType first, base::ByteSpan chain);
  void HandleRequest(const wire::Header& header,
                     const wire::Payloads& payloads);
  void HandleResponse(const wire::Header& header,
                      const wire::Payloads& payloads);
  void Refuse(const wire::Header& header, const wire::Verdict& verdict);
  void HeardFrom(const Path& path);
  void ResendResponse(const Path& path);

  // Tasks.
  std::optional<Wish> NextWish();
  std::unique_ptr<Task> MakeTask(const Wish& wish);
  void BecomeEstablished();
  void ReleaseHeld();
  void RunOwn(Progress progress);
  void RunPeers(Progress progress);
  wire::Header HeaderOf(wire::ExchangeType exchange, bool response,
                        uint32_t message_id) const;
  size_t FragmentSize() const;

  // Timers.
  void CheckRetransmission();
  void CheckWaiting();
  void CheckLifetime();
  void CheckLiveness();

  Context& ctx_;
  const IkeSaId id_;
  const bool initiator_;
  bool fragmentation_ = false;
  bool initial_contact_ = false;
  bool lost_ = false;
  bool proven_ = false;
  Stage stage_ = Stage::kInit;
  wire::ExchangeType in_flight_exchange_ = wire::ExchangeType::kIkeSaInit;
  NatVerdict nat_;
  const uint64_t local_spi_;
  uint64_t remote_spi_ = 0;
  Peer* peer_;
  Path path_;
  Path reply_path_;  // of the request being worked on
  IkeSuite suite_;
  IkeKeys keys_;
  uint64_t iv_counter_ = 0;
  RequestWindow requests_;
  ResponseWindow responses_;
  std::unique_ptr<AuthMaterial> auth_material_;
  std::shared_ptr<const crypto::PublicKey> peer_key_;
  // One message under way in each direction: requests, responses.
  std::array<std::unique_ptr<Partial>, 2> partial_;
  std::vector<std::pair<Path, base::Bytes>> held_;
  std::unique_ptr<Task> own_task_, peer_task_, next_task_;
  std::optional<base::Instant> own_wait_until_, peer_wait_until_;
  std::vector<Wish> wishes_;
  IkeSaId successor_;  // once replaced
  std::optional<Wish> current_;
  std::optional<base::Instant> retry_at_;  // after TEMPORARY_FAILURE

  IkeSaId begun_;
  base::Instant created_, established_, last_heard_, last_sent_;
  std::optional<base::Instant> rekey_at_, expire_at_, close_at_, delete_at_;

 public:
  // TEMPORARY_FAILURE (2.25): nothing of ours is begun before this.
  void RetryLater(Wish::Kind kind, ChildSaId child) {
    RetryLater(Wish{kind, child});
  }
  void RetryLater(const Wish& wish);
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_IKE_SA_H_
