#include "agent/ike/core.h"

#include <utility>

#include "agent/base/byte_reader.h"
#include "agent/ike/core_impl.h"

namespace espalier::ike {
namespace {

// Answers to messages that nobody authenticated, a second.
constexpr int kStatelessReplies = 20;

}  // namespace

Core::Impl::Impl(CoreConfig config, base::RandomSource* random)
    : ctx_(std::move(config), random),
      gate_(random),
      stateless_replies_(kStatelessReplies) {
  ctx_.peers = &peers_;
}

IkeSa* Core::Impl::Find(IkeSaId id) {
  auto at = sas_.find(id);
  return at == sas_.end() ? nullptr : at->second.get();
}

IkeSa* Core::Impl::FindBySpi(uint64_t spi) {
  auto at = ctx_.ike_spis.find(spi);
  return at == ctx_.ike_spis.end() ? nullptr : Find(at->second);
}

IkeSa& Core::Impl::Adopt(std::unique_ptr<IkeSa> sa) {
  IkeSa& adopted = *sa;
  ctx_.ike_spis[adopted.local_spi()] = adopted.id();
  Touch(adopted.id());
  sas_.emplace(adopted.id(), std::move(sa));
  return adopted;
}

// --- datagrams ---

void Core::Impl::HandleDatagram(const Path& path, base::ByteSpan bytes) {
  ++ctx_.counters.datagrams_in;
  const wire::Decoded<wire::DecodedHeader> decoded = wire::DecodeHeader(bytes);
  if (!decoded.ok()) return HandleBadHeader(path, bytes, decoded.verdict());
  const wire::Header& header = decoded->header;
  if (header.exchange == wire::ExchangeType::kIkeSaInit && !header.response &&
      header.responder_spi == 0) {
    return HandleInitRequest(path, bytes, header.initiator_spi);
  }
  const uint64_t ours =
      header.from_initiator ? header.responder_spi : header.initiator_spi;
  IkeSa* sa = FindBySpi(ours);
  const uint64_t theirs =
      header.from_initiator ? header.initiator_spi : header.responder_spi;
  // A message of our own, reflected, has the I flag of this end (3.1).
  const IkeSa* sender = FindBySpi(theirs);
  if (sender != nullptr && sender->initiator() == header.from_initiator &&
      sender->remote_spi() == ours) {
    ++ctx_.counters.malformed;
    return;
  }
  // The responder's SPI is not known before its answer to IKE_SA_INIT.
  if (sa == nullptr || sa->initiator() == header.from_initiator ||
      (sa->remote_spi() != 0 && sa->remote_spi() != theirs)) {
    return HandleUnknownSpi(path, header);
  }
  Touch(sa->id());
  sa->HandleDatagram(path, bytes);
}

void Core::Impl::HandleInitRequest(const Path& path, base::ByteSpan bytes,
                                   uint64_t initiator_spi) {
  const InitKey key = {initiator_spi, path.remote};
  if (auto at = half_open_.find(key); at != half_open_.end()) {
    if (IkeSa* sa = Find(at->second)) sa->HandleDatagram(path, bytes);
    return;
  }
  InitGate::Decision decision =
      gate_.Judge(ctx_, path, bytes, half_open_.size());
  if (decision.reply) {
    if (stateless_replies_.Allow(ctx_.now) || decision.solicited) {
      ctx_.Send(path, *std::move(decision.reply));
    }
    return;
  }
  if (decision.task == nullptr) return;
  IkeSa& sa = Adopt(std::make_unique<IkeSa>(ctx_, nullptr, /*initiator=*/false,
                                            ctx_.NewIkeSpi(), path));
  half_open_.emplace(key, sa.id());
  half_open_keys_.emplace(sa.id(), key);
  sa.set_remote_spi(initiator_spi);
  sa.set_nat(decision.nat);
  sa.set_fragmentation(decision.fragmentation);
  sa.set_close_at(ctx_.now + ctx_.config.half_open_timeout);
  sa.StartPeerTask(std::move(decision.task), path);
}

void Core::Impl::HandleUnknownSpi(const Path& path,
                                  const wire::Header& header) {
  ++ctx_.counters.unknown_spi;
  // RFC 7296 2.21.4: an answer that nobody has to believe, to requests only.
  if (header.response || !stateless_replies_.Allow(ctx_.now)) return;
  wire::Header reply = header;
  reply.minor_version = 0;
  reply.response = true;
  reply.higher_version = false;
  reply.from_initiator = !header.from_initiator;
  ctx_.Send(path, wire::EncodeMessage(
                      reply, {wire::Payload::Of(wire::NotifyPayload::Of(
                                 wire::NotifyType::kInvalidIkeSpi))}));
}

void Core::Impl::HandleBadHeader(const Path& path, base::ByteSpan bytes,
                                 const wire::Verdict& verdict) {
  ++ctx_.counters.malformed;
  if (!verdict.notify || !stateless_replies_.Allow(ctx_.now)) return;
  // RFC 7296 2.5: INVALID_MAJOR_VERSION. The fixed fields are where every
  // version has them.
  base::ByteReader reader(bytes);
  wire::Header reply;
  uint8_t next = 0, version = 0, exchange = 0, flags = 0;
  if (!reader.ReadU64(&reply.initiator_spi) ||
      !reader.ReadU64(&reply.responder_spi) || !reader.ReadU8(&next) ||
      !reader.ReadU8(&version) || !reader.ReadU8(&exchange) ||
      !reader.ReadU8(&flags) || !reader.ReadU32(&reply.message_id)) {
    return;
  }
  constexpr uint8_t kInitiatorFlag = 0x08;
  reply.exchange = static_cast<wire::ExchangeType>(exchange);
  reply.response = true;
  reply.from_initiator = (flags & kInitiatorFlag) == 0;
  ctx_.Send(path, wire::EncodeMessage(
                      reply, {wire::Payload::Of(wire::NotifyPayload::Of(
                                 *verdict.notify, verdict.notify_data))}));
}

// --- answers to actions ---

void Core::Impl::HandleCryptoDone(CryptoJobId id, crypto::Result result) {
  auto at = ctx_.jobs.find(id);
  if (at == ctx_.jobs.end()) return;
  const IkeSaId owner = at->second;
  ctx_.jobs.erase(at);
  IkeSa* sa = Find(owner);
  if (sa == nullptr) return;
  Touch(owner);
  sa->HandleCrypto(id, std::move(result));
}

void Core::Impl::HandleDatapathDone(DatapathOpId op,
                                    const absl::Status& status) {
  auto at = ctx_.ops.find(op);
  if (at == ctx_.ops.end()) return;  // of a RemoveSa, or answered twice
  const Context::OpOwner owner = at->second;
  ctx_.ops.erase(at);
  Touch(owner.peer);
  if (IkeSa* sa = Find(owner.ike_sa)) {
    Touch(sa->id());
    if (sa->HandleDatapath(op, status)) return;
  }
  if (Peer* peer = peers_.Find(owner.peer)) {
    peer->tunnels.HandleDatapathDone(ctx_, op, status);
  }
}

Peer* Core::Impl::FindByInbound(base::Spi spi) {
  auto at = ctx_.inbound_spis.find(spi);
  return at == ctx_.inbound_spis.end() ? nullptr : peers_.Find(at->second);
}

void Core::Impl::HandleInboundTraffic(base::Spi spi) {
  Peer* peer = FindByInbound(spi);
  const ChildSa* child =
      peer == nullptr ? nullptr : peer->tunnels.FindInbound(spi);
  // Of that IKE_SA alone: the peer may have lost another one.
  IkeSa* sa = child == nullptr ? nullptr : Find(child->owner);
  if (sa == nullptr) return;
  sa->Heard();
  Touch(sa->id());
}

void Core::Impl::HandleInboundSeen(base::Spi spi) {
  Peer* peer = FindByInbound(spi);
  if (peer == nullptr) return;
  Touch(peer->id);
  peer->tunnels.HandleInboundSeen(ctx_, spi);
}

void Core::Impl::HandleSaExpired(base::Direction direction,
                                 const base::IpAddress& destination,
                                 base::Spi spi, bool hard) {
  for (const auto& [id, peer] : peers_.all()) {
    ChildSa* child = direction == base::Direction::kInbound
                         ? peer->tunnels.FindInbound(spi)
                         : peer->tunnels.FindOutbound(spi);
    if (child == nullptr) continue;
    if (direction == base::Direction::kOutbound &&
        child->remote_address != destination) {
      continue;
    }
    Touch(id);
    peer->tunnels.HandleExpired(ctx_, *child, hard);
    return;
  }
}

// --- time ---

std::optional<base::Instant> Core::Impl::NextTimeout() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->at;
}

void Core::Impl::Schedule(bool peer, uint64_t id,
                          std::optional<base::Instant> at) {
  const std::pair<bool, uint64_t> key = {peer, id};
  auto known = scheduled_.find(key);
  if (known != scheduled_.end()) {
    if (at == known->second) return;
    timers_.erase({known->second, peer, id});
    scheduled_.erase(known);
  }
  if (!at) return;
  timers_.insert({*at, peer, id});
  scheduled_.emplace(key, *at);
}

void Core::Impl::HandleTimeout() {
  // Each due entry once: what is due again at the same time waits for the
  // next call, so that a call always ends.
  std::vector<TimerKey> due;
  for (const TimerKey& timer : timers_) {
    if (timer.at > ctx_.now) break;
    due.push_back(timer);
  }
  for (const TimerKey& timer : due) {
    Schedule(timer.peer, timer.id, std::nullopt);
    if (timer.peer) {
      const PeerId id(static_cast<uint32_t>(timer.id));
      Touch(id);
      if (Peer* peer = peers_.Find(id)) RunPeerTimers(*peer);
    } else {
      const IkeSaId id(timer.id);
      Touch(id);
      if (IkeSa* sa = Find(id)) sa->HandleTimeout();
    }
    Settle();
  }
}

// --- the public face ---

Core::Core(CoreConfig config, base::RandomSource* random)
    : impl_(std::make_unique<Impl>(std::move(config), random)) {}
Core::~Core() = default;

absl::Status Core::UpsertPeer(base::Instant now, PeerConfig peer) {
  impl_->at(now);
  const absl::Status status = impl_->UpsertPeer(std::move(peer));
  impl_->Settle();
  return status;
}

void Core::RemovePeer(base::Instant now, PeerId id) {
  impl_->at(now);
  if (Peer* peer = impl_->peers().Find(id)) impl_->RemovePeer(*peer);
  impl_->Settle();
}

void Core::Establish(base::Instant now, PeerId id, bool at_once) {
  impl_->at(now);
  Peer* peer = impl_->peers().Find(id);
  if (peer != nullptr && !peer->removed) impl_->Establish(*peer, at_once);
  impl_->Settle();
}

void Core::StopEstablishing(base::Instant now, PeerId id) {
  impl_->at(now);
  if (Peer* peer = impl_->peers().Find(id)) {
    peer->establishing.Stop();
    impl_->Touch(id);
  }
  impl_->Settle();
}

void Core::Reestablish(base::Instant now, PeerId id) {
  impl_->at(now);
  Peer* peer = impl_->peers().Find(id);
  if (peer != nullptr && !peer->removed) impl_->Reestablish(*peer);
  impl_->Settle();
}

void Core::SetPrivateKey(std::shared_ptr<const crypto::PrivateKey> key) {
  impl_->ctx().config.private_key = std::move(key);
}

void Core::RekeyIkeSa(base::Instant now, PeerId id) {
  impl_->at(now);
  if (Peer* peer = impl_->peers().Find(id)) {
    for (IkeSaId sa : std::vector<IkeSaId>(peer->established)) {
      impl_->Touch(sa);
      if (IkeSa* found = impl_->Find(sa)) found->Want(Wish::Kind::kRekeyIke);
    }
  }
  impl_->Settle();
}

void Core::RekeyChildSa(base::Instant now, PeerId id) {
  impl_->at(now);
  if (Peer* peer = impl_->peers().Find(id)) {
    for (IkeSaId sa : std::vector<IkeSaId>(peer->established)) {
      impl_->Touch(sa);
      IkeSa* found = impl_->Find(sa);
      if (found == nullptr) continue;
      for (ChildSa* child : peer->tunnels.Of(sa)) {
        found->Want(Wish::Kind::kRekeyChild, child->id);
      }
    }
  }
  impl_->Settle();
}

void Core::WantCpuSa(base::Instant now, PeerId id, uint32_t cpu) {
  impl_->at(now);
  Peer* peer = impl_->peers().Find(id);
  if (peer != nullptr && cpu < peer->config->max_cpu_sas) {
    peer->cpus.wanted.insert(cpu);
    impl_->Touch(id);
  }
  impl_->Settle();
}

void Core::Delete(base::Instant now, PeerId id) {
  impl_->at(now);
  if (Peer* peer = impl_->peers().Find(id)) impl_->DeleteIkeSas(*peer);
  impl_->Settle();
}

void Core::HandleDatagram(base::Instant now, const Path& path,
                          base::ByteSpan bytes) {
  impl_->at(now);
  impl_->HandleDatagram(path, bytes);
  impl_->Settle();
}

void Core::HandleTimeout(base::Instant now) {
  impl_->at(now);
  impl_->HandleTimeout();
  impl_->Settle();
}

void Core::HandleCryptoDone(base::Instant now, CryptoJobId id,
                            crypto::Result result) {
  impl_->at(now);
  impl_->HandleCryptoDone(id, std::move(result));
  impl_->Settle();
}

void Core::HandleDatapathDone(base::Instant now, DatapathOpId op,
                              absl::Status status) {
  impl_->at(now);
  impl_->HandleDatapathDone(op, status);
  impl_->Settle();
}

void Core::HandleInboundTraffic(base::Instant now, base::Spi spi) {
  impl_->at(now);
  impl_->HandleInboundTraffic(spi);
  impl_->Settle();
}

void Core::HandleInboundSeen(base::Instant now, base::Spi spi) {
  impl_->at(now);
  impl_->HandleInboundSeen(spi);
  impl_->Settle();
}

void Core::HandleSaExpired(base::Instant now, base::Direction direction,
                           const base::IpAddress& outer_destination,
                           base::Spi spi, bool hard) {
  impl_->at(now);
  impl_->HandleSaExpired(direction, outer_destination, spi, hard);
  impl_->Settle();
}

std::optional<Action> Core::PollAction() {
  std::deque<Action>& actions = impl_->ctx().actions;
  if (actions.empty()) return std::nullopt;
  std::optional<Action> action = std::move(actions.front());
  actions.pop_front();
  return action;
}

std::optional<base::Instant> Core::NextTimeout() const {
  return impl_->NextTimeout();
}

std::vector<IkeSaInfo> Core::IkeSas() const {
  std::vector<IkeSaInfo> infos;
  for (const auto& [id, sa] : impl_->ike_sas()) infos.push_back(sa->Info());
  return infos;
}

const CoreCounters& Core::counters() const { return impl_->ctx().counters; }

}  // namespace espalier::ike
