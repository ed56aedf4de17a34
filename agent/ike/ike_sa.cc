#include "agent/ike/ike_sa.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/ike/protected_message.h"
#include "agent/ike/tasks/create_child.h"
#include "agent/ike/tasks/informational.h"
#include "agent/ike/tasks/rekey_ike.h"

namespace espalier::ike {
namespace {

// A crypto job or a datapath operation that takes longer will not come.
constexpr absl::Duration kTaskPatience = absl::Seconds(20);

void Earliest(std::optional<base::Instant>* result,
              const std::optional<base::Instant>& at) {
  if (at && (!*result || *at < **result)) *result = at;
}

bool Due(const std::optional<base::Instant>& at, base::Instant now) {
  return at && *at <= now;
}

// RFC 7296 2.25.2: the IKE_SA is not rekeyed while CHILD_SAs on it change. What
// the peer began first is waited for.
bool Collides(Wish::Kind ours, std::optional<wire::ExchangeKind> peers) {
  switch (ours) {
    case Wish::Kind::kRekeyIke:
      return peers == wire::ExchangeKind::kCreateChildSa ||
             peers == wire::ExchangeKind::kRekeyChildSa;
    case Wish::Kind::kDeleteChild:
    case Wish::Kind::kRekeyChild:
    case Wish::Kind::kCreateChild:
    case Wish::Kind::kCreateCpuChild:
      return peers == wire::ExchangeKind::kRekeyIkeSa;
    case Wish::Kind::kDeleteIke:
    case Wish::Kind::kLiveness:
      return false;
  }
  return false;
}

}  // namespace

IkeSa::IkeSa(Context& ctx, Peer* peer, bool initiator, uint64_t local_spi,
             const Path& path)
    : ctx_(ctx),
      id_(ctx.NextIkeSaId()),
      initiator_(initiator),
      local_spi_(local_spi),
      peer_(peer),
      path_(path),
      begun_(id_),
      created_(ctx.now),
      last_heard_(ctx.now),
      last_sent_(ctx.now) {}

IkeSa::~IkeSa() = default;

SpiPair IkeSa::spis() const {
  return initiator_ ? SpiPair{local_spi_, remote_spi_}
                    : SpiPair{remote_spi_, local_spi_};
}

// --- what it wants to do ---

bool IkeSa::Wants(const Wish& wish) const {
  return std::find(wishes_.begin(), wishes_.end(), wish) != wishes_.end();
}

void IkeSa::Want(const Wish& wish) {
  if (dead() || Wants(wish)) return;
  wishes_.push_back(wish);
  if (successor_ != IkeSaId()) PassWishesOn(successor_);
  Proceed();
}

void IkeSa::RetryLater(const Wish& wish) {
  // RFC 7296 2.25: wait, and not as long as the other end does.
  retry_at_ = ctx_.now + ctx_.Jitter(absl::Seconds(4), 0.75);
  if (!Wants(wish)) wishes_.push_back(wish);
  if (successor_ != IkeSaId()) PassWishesOn(successor_);
}

bool IkeSa::PeerRekeyStands() const {
  return peer_rekey &&
         std::any_of(ctx_.ike_spis.begin(), ctx_.ike_spis.end(),
                     [this](const auto& entry) {
                       return entry.second == peer_rekey->successor;
                     });
}

void IkeSa::PassWishesOn(IkeSaId successor) {
  successor_ = successor;
  for (const Wish& wish : wishes_) {
    switch (wish.kind) {
      case Wish::Kind::kDeleteChild:
        ctx_.Notify(Notice::Kind::kDeleteChild, successor, wish.child);
        break;
      case Wish::Kind::kRekeyChild:
        ctx_.Notify(Notice::Kind::kRekeyChild, successor, wish.child);
        break;
      case Wish::Kind::kCreateChild:
        ctx_.Notify(Notice::Kind::kChildMissing, successor);
        break;
      case Wish::Kind::kCreateCpuChild:  // the core asks the successor itself
      case Wish::Kind::kDeleteIke:
      case Wish::Kind::kRekeyIke:
      case Wish::Kind::kLiveness:
        break;
    }
  }
  std::erase_if(wishes_, [](const Wish& wish) {
    return wish.kind != Wish::Kind::kDeleteIke;
  });
}

std::unique_ptr<Task> IkeSa::MakeTask(const Wish& wish) {
  switch (wish.kind) {
    case Wish::Kind::kDeleteIke:
      return MakeDeleteIke();
    case Wish::Kind::kRekeyIke:
      return MakeRekeyIke();
    case Wish::Kind::kDeleteChild:
      return MakeDeleteChild(wish.child);
    case Wish::Kind::kRekeyChild:
      return MakeCreateChild(wish.child);
    case Wish::Kind::kCreateChild:
      return MakeCreateChild(ChildSaId());
    case Wish::Kind::kCreateCpuChild:
      return MakeCreateCpuChild(wish.cpu);
    case Wish::Kind::kLiveness:
      return MakeLiveness();
  }
  return nullptr;
}

std::optional<Wish> IkeSa::NextWish() {
  auto at = std::find_if(wishes_.begin(), wishes_.end(), [](const Wish& w) {
    return w.kind == Wish::Kind::kDeleteIke;
  });
  if (at == wishes_.end()) {
    // A replaced IKE_SA carries nothing but its own Delete.
    if (stage_ != Stage::kEstablished) return std::nullopt;
    const bool waiting = retry_at_ && ctx_.now < *retry_at_;
    const auto peers =
        peer_task_ ? std::optional(peer_task_->kind()) : std::nullopt;
    at = std::find_if(wishes_.begin(), wishes_.end(), [&](const Wish& w) {
      if (Collides(w.kind, peers)) return false;
      return !waiting || w.kind == Wish::Kind::kDeleteChild ||
             w.kind == Wish::Kind::kLiveness;
    });
    if (at == wishes_.end()) return std::nullopt;
    if (!waiting) retry_at_.reset();
  } else if (stage_ != Stage::kEstablished && stage_ != Stage::kReplaced) {
    return std::nullopt;
  }
  const Wish wish = *at;
  wishes_.erase(at);
  return wish;
}

void IkeSa::Proceed() {
  while (!dead() && WindowFree()) {
    std::unique_ptr<Task> task = std::move(next_task_);
    if (task == nullptr) {
      const std::optional<Wish> wish = NextWish();
      if (!wish) return;
      current_ = wish;
      task = MakeTask(*wish);
    }
    if (task == nullptr) continue;
    own_task_ = std::move(task);
    RunOwn(own_task_->Start(*this));
  }
}

void IkeSa::RunOwn(Progress progress) {
  if (progress == Progress::kDone) {
    own_task_.reset();
    early_deletes.clear();
    own_wait_until_.reset();
    if (!next_task_) current_.reset();
    return;
  }
  own_wait_until_.reset();
  if (own_task_->waiting()) own_wait_until_ = ctx_.now + kTaskPatience;
}

void IkeSa::RunPeers(Progress progress) {
  peer_wait_until_.reset();
  if (progress == Progress::kDone) {
    peer_task_.reset();
    return;
  }
  if (peer_task_->waiting()) peer_wait_until_ = ctx_.now + kTaskPatience;
}

void IkeSa::HandleCrypto(CryptoJobId job, crypto::Result result) {
  if (dead()) return;
  if (own_task_ && own_task_->Awaits(job)) {
    own_task_->StopWaiting();
    RunOwn(own_task_->HandleCrypto(*this, std::move(result)));
    Proceed();
  } else if (peer_task_ && peer_task_->Awaits(job)) {
    peer_task_->StopWaiting();
    RunPeers(peer_task_->HandleCrypto(*this, std::move(result)));
    ReleaseHeld();
    Proceed();
  }
}

bool IkeSa::HandleDatapath(DatapathOpId op, const absl::Status& status) {
  if (dead()) return false;
  if (own_task_ && own_task_->Awaits(op)) {
    own_task_->StopWaiting();
    RunOwn(own_task_->HandleDatapath(*this, status));
    Proceed();
    return true;
  }
  if (peer_task_ && peer_task_->Awaits(op)) {
    peer_task_->StopWaiting();
    RunPeers(peer_task_->HandleDatapath(*this, status));
    Proceed();
    return true;
  }
  return false;
}

// --- state ---

void IkeSa::SetKeys(const IkeSuite& suite, IkeKeys keys) {
  suite_ = suite;
  keys_ = std::move(keys);
  stage_ = Stage::kAuth;
  if (!ctx_.config.key_log) return;
  ctx_.Emit(LogIkeKeys{.initiator_spi = spis().initiator,
                       .responder_spi = spis().responder,
                       .cipher = suite.cipher.cipher,
                       .key_bits = suite.cipher.key_bits,
                       .integrity = suite.cipher.integrity,
                       .sk_ei = keys_.sk_ei.Clone(),
                       .sk_er = keys_.sk_er.Clone(),
                       .sk_ai = keys_.sk_ai.Clone(),
                       .sk_ar = keys_.sk_ar.Clone()});
}

void IkeSa::BecomeEstablished() {
  stage_ = Stage::kEstablished;
  proven_ = initiator_;
  established_ = ctx_.now;
  last_heard_ = ctx_.now;
  close_at_.reset();
  auth_material_.reset();
  held_ = {};
  ++ctx_.counters.ike_sas_established;
  const CoreConfig& config = ctx_.config;
  rekey_at_ =
      ctx_.now + (initiator_ ? ctx_.Jitter(config.ike_soft_lifetime, 0.1)
                             : config.ike_soft_lifetime);
  expire_at_ = ctx_.now + config.ike_hard_lifetime;
}

void IkeSa::Establish(bool initial_contact) {
  initial_contact_ = initial_contact;
  BecomeEstablished();
  ctx_.Report(
      Event::Kind::kIkeSaUp, peer_id(), id_, {},
      absl::StrCat(initiator_ ? "initiator" : "responder", ", ",
                   path_.remote.ToString(), ", ", suite_.cipher.ToString()));
  ctx_.Notify(Notice::Kind::kEstablished, id_);
}

void IkeSa::EstablishAsSuccessorOf(IkeSa& old) {
  nat_ = old.nat_;
  fragmentation_ = old.fragmentation_;
  begun_ = old.begun_;
  peer_key_ = old.peer_key_;
  cpu_sas = old.cpu_sas;
  cpu_sas_exhausted = old.cpu_sas_exhausted;
  // What was to go still is.
  delete_at_ = old.delete_at_;
  superseded_by = old.superseded_by;
  BecomeEstablished();
}

void IkeSa::Close(Ending ending, const std::string& why) {
  if (dead()) return;
  const bool was_up =
      stage_ == Stage::kEstablished || stage_ == Stage::kClosing;
  stage_ = Stage::kDead;
  if (peer_ == nullptr) {
    lost_ = ending == Ending::kLost;
    return;
  }
  const bool last =
      std::none_of(peer_->established.begin(), peer_->established.end(),
                   [this](IkeSaId other) { return other != id_; });
  // A tunnel on demand that this end has closed would stand until its hard
  // lifetime, with nobody to close it.
  const bool unwanted = last && peer_->config->on_demand &&
                        !peer_->config->passive &&
                        !peer_->establishing.wanted();
  lost_ = ending == Ending::kLost && !unwanted;
  // The peer's rekey made a successor while ours was under way.
  if (PeerRekeyStands()) {
    peer_->tunnels.Inherit(id_, peer_rekey->successor);
    PassWishesOn(peer_rekey->successor);
  }
  peer_->tunnels.OwnerGone(ctx_, id_, lost_);
  // Of a superfluous one, nobody has to hear.
  if (was_up && last) {
    ctx_.Report(Event::Kind::kIkeSaDown, peer_id(), id_, {}, why);
  }
}

// --- sending ---

CryptoJobId IkeSa::RunCrypto(crypto::Job job) {
  return ctx_.RunCrypto(id_, std::move(job));
}

wire::Header IkeSa::HeaderOf(wire::ExchangeType exchange, bool response,
                             uint32_t message_id) const {
  const SpiPair pair = spis();
  return {.initiator_spi = pair.initiator,
          .responder_spi = pair.responder,
          .exchange = exchange,
          .response = response,
          .from_initiator = initiator_,
          .message_id = message_id};
}

void IkeSa::SendInitRequest(base::Bytes message, bool again) {
  in_flight_exchange_ = wire::ExchangeType::kIkeSaInit;
  Packets packets;
  packets.push_back(message);
  if (again) {
    requests_.ResentAs(std::move(packets), ctx_.now, ctx_.config);
  } else {
    requests_.Sent(std::move(packets), ctx_.now, ctx_.config);
  }
  ctx_.Send(path_, std::move(message));
}

void IkeSa::SendInitResponse(base::Bytes message) {
  responses_.Answered({message}, ctx_.now);
  ctx_.Send(path_, std::move(message));
}

size_t IkeSa::FragmentSize() const {
  return fragmentation_ ? ctx_.config.fragment_size : 0;
}

void IkeSa::SendRequest(wire::ExchangeType exchange,
                        const wire::Payloads& payloads) {
  if (requests_.exhausted(ctx_.config)) {
    return Close(Ending::kSilent, "message ids are used up");
  }
  in_flight_exchange_ = exchange;
  Packets packets = Seal(KeysOf(suite_, keys_, initiator_),
                         HeaderOf(exchange, false, requests_.next_id()),
                         payloads, FragmentSize(), &iv_counter_);
  if (packets.empty()) {
    return Close(Ending::kSilent, "a request is larger than any message");
  }
  for (const base::Bytes& packet : packets) ctx_.Send(path_, packet);
  requests_.Sent(std::move(packets), ctx_.now, ctx_.config);
  last_sent_ = ctx_.now;
}

void IkeSa::SendResponse(wire::ExchangeType exchange,
                         const wire::Payloads& payloads) {
  Packets packets = Seal(KeysOf(suite_, keys_, initiator_),
                         HeaderOf(exchange, true, responses_.expected() - 1),
                         payloads, FragmentSize(), &iv_counter_);
  if (packets.empty()) {
    return Close(Ending::kSilent, "a response is larger than any message");
  }
  for (const base::Bytes& packet : packets) ctx_.Send(reply_path_, packet);
  responses_.Answered(std::move(packets), ctx_.now);
  last_sent_ = ctx_.now;
}

// --- time ---

std::optional<base::Instant> IkeSa::NextTimeout() const {
  std::optional<base::Instant> next;
  if (dead()) return next;
  Earliest(&next, requests_.deadline());
  Earliest(&next, responses_.deadline());
  Earliest(&next, own_wait_until_);
  Earliest(&next, peer_wait_until_);
  Earliest(&next, close_at_);
  if (stage_ != Stage::kEstablished) return next;
  Earliest(&next, rekey_at_);
  Earliest(&next, expire_at_);
  Earliest(&next, delete_at_);
  if (!wishes_.empty()) Earliest(&next, retry_at_);
  if (WindowFree()) {
    Earliest(&next, last_heard_ + ctx_.config.liveness_interval);
  }
  if (nat_.local) {
    Earliest(&next, last_sent_ + ctx_.config.nat_keepalive_interval);
  }
  return next;
}

void IkeSa::HandleTimeout() {
  if (dead()) return;
  responses_.ForgetOld(ctx_.now);
  if (Due(retry_at_, ctx_.now)) retry_at_.reset();
  CheckWaiting();
  CheckRetransmission();
  if (dead()) return;
  if (Due(close_at_, ctx_.now)) {
    return Close(
        stage_ == Stage::kEstablished ? Ending::kLost : Ending::kSilent,
        "the exchange took too long");
  }
  if (stage_ == Stage::kEstablished) {
    CheckLifetime();
    CheckLiveness();
  }
  Proceed();
}

void IkeSa::CheckRetransmission() {
  switch (requests_.Retransmit(ctx_.now, ctx_.config)) {
    case RequestWindow::Verdict::kWait:
      return;
    case RequestWindow::Verdict::kRetransmit:
      ++ctx_.counters.retransmissions;
      for (const base::Bytes& packet : requests_.packets()) {
        ctx_.Send(path_, packet);
      }
      last_sent_ = ctx_.now;
      return;
    case RequestWindow::Verdict::kGiveUp:
      break;
  }
  if (stage_ == Stage::kClosing || stage_ == Stage::kReplaced) {
    // The owner's Delete takes the CHILD_SAs with it. On a superfluous IKE_SA's
    // the peer may still send, and has not heard that they go.
    const bool superfluous =
        peer_ != nullptr &&
        std::ranges::find(peer_->established, id_) != peer_->established.end();
    return Close(superfluous ? Ending::kLost : Ending::kSilent,
                 "Delete was not answered");
  }
  ctx_.Report(Event::Kind::kPeerUnreachable, peer_id(), id_, {},
              absl::StrCat(path_.remote.ToString(), " does not answer ",
                           wire::ToString(in_flight_exchange_)));
  Close(Ending::kLost, "the peer does not answer");
}

void IkeSa::CheckWaiting() {
  const absl::Status late = absl::DeadlineExceededError("no answer in time");
  if (own_task_ && Due(own_wait_until_, ctx_.now)) {
    const bool crypto = own_task_->waits_for_crypto();
    own_task_->StopWaiting();
    RunOwn(crypto ? own_task_->HandleCrypto(*this, late)
                  : own_task_->HandleDatapath(*this, late));
  }
  if (dead()) return;
  if (peer_task_ && Due(peer_wait_until_, ctx_.now)) {
    const bool crypto = peer_task_->waits_for_crypto();
    peer_task_->StopWaiting();
    RunPeers(crypto ? peer_task_->HandleCrypto(*this, late)
                    : peer_task_->HandleDatapath(*this, late));
    ReleaseHeld();
  }
}

void IkeSa::CheckLifetime() {
  if (Due(delete_at_, ctx_.now)) {
    delete_at_.reset();
    return ctx_.Notify(Notice::Kind::kSuperfluous, id_);
  }
  if (Due(expire_at_, ctx_.now)) {
    expire_at_.reset();
    rekey_at_.reset();
    return Want(Wish::Kind::kDeleteIke);
  }
  if (Due(rekey_at_, ctx_.now)) {
    // Comes again unless the rekey succeeds.
    rekey_at_ = ctx_.now + ctx_.Jitter(absl::Minutes(1), 0.5);
    Want(Wish::Kind::kRekeyIke);
  }
}

void IkeSa::CheckLiveness() {
  if (nat_.local &&
      ctx_.now >= last_sent_ + ctx_.config.nat_keepalive_interval) {
    ctx_.Emit(SendNatKeepalive{.path = path_});
    last_sent_ = ctx_.now;
  }
  // Also while a wish waits for its time.
  if (WindowFree() && ctx_.now >= last_heard_ + ctx_.config.liveness_interval) {
    Want(Wish::Kind::kLiveness);
  }
}

// --- looking in ---

IkeSaInfo IkeSa::Info() const {
  static constexpr const char* kNames[] = {
      "init", "auth", "failed", "established", "replaced", "deleting", "dead"};
  IkeSaInfo info;
  info.id = id_;
  info.peer = peer_id();
  info.initiator_spi = spis().initiator;
  info.responder_spi = spis().responder;
  info.initiator = initiator_;
  info.state = kNames[static_cast<size_t>(stage_)];
  if (stage_ == Stage::kEstablished && own_task_ &&
      own_task_->kind() == wire::ExchangeKind::kRekeyIkeSa) {
    info.state = "rekeying";
  }
  info.path = path_;
  info.nat_local = nat_.local;
  info.nat_remote = nat_.remote;
  info.cipher = suite_.cipher.cipher;
  info.key_bits = suite_.cipher.key_bits;
  info.prf = suite_.prf;
  info.group = suite_.group;
  info.established = established_;
  info.rekey_at = rekey_at_;
  if (peer_ == nullptr) return info;
  for (const auto& child : peer_->tunnels.all()) {
    if (child->owner == id_) info.children.push_back(InfoOf(*child));
  }
  return info;
}

}  // namespace espalier::ike
