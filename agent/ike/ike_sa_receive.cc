// How an IKE_SA takes a datagram apart, and to whom its message goes.
#include <algorithm>
#include <utility>

#include "agent/ike/exchange_rows.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/protected_message.h"

namespace espalier::ike {
namespace {

// Messages that overtook the key derivation; an IKE_AUTH request in fragments
// at most.
constexpr size_t kMaxHeld = 16;
constexpr size_t kMaxHeldBytes = 20000;

}  // namespace

void IkeSa::StartPeerTask(std::unique_ptr<Task> task, const Path& path) {
  responses_.Accept();
  reply_path_ = path;
  peer_task_ = std::move(task);
  RunPeers(peer_task_->Start(*this));
}

void IkeSa::HandleDatagram(const Path& path, base::ByteSpan bytes) {
  if (dead()) return;
  const wire::Decoded<wire::Message> decoded = wire::DecodeMessage(bytes);
  if (!decoded.ok()) {
    ++ctx_.counters.malformed;
    return;
  }
  const wire::Message& message = *decoded;
  // The I flag tells who began the IKE_SA; a message of our own, reflected,
  // has it wrong (RFC 7296 3.1).
  if (message.header.from_initiator == initiator_) {
    ++ctx_.counters.malformed;
  } else if (message.header.exchange == wire::ExchangeType::kIkeSaInit) {
    HandleClear(path, message, bytes);
  } else if (!message.encrypted) {
    HandleUnprotected(message);
  } else if (stage_ == Stage::kInit) {
    if (!initiator_) Hold(path, bytes);
  } else {
    HandleProtected(path, message);
  }
}

void IkeSa::HandleClear(const Path& path, const wire::Message& message,
                        base::ByteSpan raw) {
  if (message.header.message_id != 0) return;
  if (message.header.response) {
    if (stage_ != Stage::kInit || !initiator_ || !own_task_ ||
        !requests_.Awaits(0)) {
      return;
    }
    RunOwn(own_task_->HandleClearResponse(*this, message, raw));
    Proceed();
    return;
  }
  // The request again: only octet for octet the same, or it is another's.
  if (initiator_ || !auth_material_ ||
      !std::equal(raw.begin(), raw.end(), auth_material_->request.begin(),
                  auth_material_->request.end())) {
    return;
  }
  ResendResponse(path);
}

void IkeSa::HandleUnprotected(const wire::Message& message) {
  // RFC 7296 2.21.4: what is not protected is no reason to do anything. But
  // an IKE_SA that is being deleted need not wait for the answer to its Delete
  // once the peer, whose answer was lost, does not know it any more.
  const bool deleting = current_ && current_->kind == Wish::Kind::kDeleteIke;
  if (deleting && message.header.response &&
      requests_.Awaits(message.header.message_id) &&
      wire::FindNotify(message.payloads, wire::NotifyType::kInvalidIkeSpi)) {
    return Close(Ending::kSilent, "deleted");
  }
  ++ctx_.counters.malformed;
}

void IkeSa::Hold(const Path& path, base::ByteSpan bytes) {
  size_t total = bytes.size();
  for (const auto& [unused, held] : held_) total += held.size();
  if (held_.size() >= kMaxHeld || total > kMaxHeldBytes) return;
  held_.emplace_back(path, base::Bytes(bytes.begin(), bytes.end()));
}

void IkeSa::ReleaseHeld() {
  if (stage_ == Stage::kInit || held_.empty()) return;
  const auto held = std::exchange(held_, {});
  for (const auto& [path, bytes] : held) HandleDatagram(path, bytes);
}

void IkeSa::HandleProtected(const Path& path, const wire::Message& message) {
  const wire::Header& header = message.header;
  bool duplicate = false;
  if (header.response) {
    if (!requests_.Awaits(header.message_id) ||
        header.exchange != in_flight_exchange_) {
      return;
    }
  } else {
    switch (responses_.Classify(header.message_id)) {
      case ResponseWindow::Verdict::kOutside:
        return;
      case ResponseWindow::Verdict::kDuplicate:
        duplicate = true;
        break;
      case ResponseWindow::Verdict::kNew:
        // A window of one: the request before has not been answered yet.
        if (peer_task_) return;
        break;
    }
  }
  std::optional<base::Bytes> chain =
      Open(KeysOf(suite_, keys_, !initiator_), *message.encrypted);
  if (!chain) {
    ++ctx_.counters.bad_integrity;
    return;
  }
  const auto& place = message.encrypted->fragment;
  if (duplicate) {
    // RFC 7383 2.6.1: only the first fragment asks for the response again.
    if (!place || place->number == 1) ResendResponse(path);
  } else if (place) {
    HandleFragment(path, message, std::move(*chain));
  } else {
    HandleChain(path, header, message.encrypted->first_inner, *chain);
  }
}

void IkeSa::HandleFragment(const Path& path, const wire::Message& message,
                           base::Bytes chain) {
  // RFC 7383 2.3: only when both ends have said so.
  if (!fragmentation_) return;
  const wire::Header& header = message.header;
  std::unique_ptr<Partial>& partial = partial_[header.response ? 1 : 0];
  if (partial == nullptr || partial->message_id != header.message_id) {
    partial = std::make_unique<Partial>(Partial{
        .message_id = header.message_id,
        .reassembly =
            Reassembly(stage_ == Stage::kAuth ? kMaxReassembledUnauthenticated
                                              : kMaxReassembled)});
  }
  const Reassembly::Outcome outcome =
      partial->reassembly.Add(*message.encrypted->fragment,
                              message.encrypted->first_inner, std::move(chain));
  if (outcome != Reassembly::Outcome::kComplete) return;
  const wire::PayloadType first = partial->reassembly.first_inner();
  const base::Bytes whole = partial->reassembly.Take();
  partial.reset();
  HandleChain(path, header, first, whole);
}

void IkeSa::HandleChain(const Path& path, const wire::Header& header,
                        wire::PayloadType first, base::ByteSpan chain) {
  wire::Decoded<wire::Payloads> payloads =
      wire::DecodeInner(first, chain, header.response);
  HeardFrom(path);
  if (header.response) {
    if (!payloads.ok()) return Refuse(header, payloads.verdict());
    return HandleResponse(header, *payloads);
  }
  // IKE_AUTH is the initiator's to ask; nothing else comes before it is done.
  const bool auth = header.exchange == wire::ExchangeType::kIkeAuth;
  if (stage_ == Stage::kAuth && (initiator_ || !auth)) return;
  if (stage_ == Stage::kFailed) return;
  responses_.Accept();
  reply_path_ = path;
  // What the request deletes is no longer to be switched to.
  const bool deletes =
      payloads.ok() && wire::Find<wire::DeletePayload>(*payloads) != nullptr;
  if (peer_ != nullptr && !deletes) peer_->tunnels.PeerRequested(ctx_, id_);
  if (!payloads.ok()) return Refuse(header, payloads.verdict());
  HandleRequest(header, *payloads);
}

void IkeSa::HeardFrom(const Path& path) {
  last_heard_ = ctx_.now;
  if (stage_ == Stage::kEstablished) proven_ = true;
  if (path == path_) return;
  if (stage_ == Stage::kAuth && !initiator_) {
    // The initiator moves to port 4500 with IKE_AUTH (2.23).
    path_ = path;
    return;
  }
  // RFC 7296 2.23: the end that is not behind a NAT follows the one that is.
  if (stage_ != Stage::kEstablished || !nat_.remote || nat_.local) return;
  path_ = path;
  ctx_.Notify(Notice::Kind::kPathChanged, id_);
}

void IkeSa::ResendResponse(const Path& path) {
  const Packets* cached = responses_.cached();
  if (cached == nullptr) return;
  ++ctx_.counters.duplicate_requests;
  for (const base::Bytes& packet : *cached) ctx_.Send(path, packet);
}

void IkeSa::HandleResponse(const wire::Header& header,
                           const wire::Payloads& payloads) {
  if (!own_task_) {
    requests_.Settle(header.message_id);
    return;
  }
  if (const auto verdict =
          wire::CheckPayloads(own_task_->kind(), true, payloads)) {
    return Refuse(header, *verdict);
  }
  requests_.Settle(header.message_id);
  if (peer_ != nullptr) peer_->tunnels.OwnExchangeEnded(ctx_, id_);
  RunOwn(own_task_->HandleResponse(*this, payloads));
  Proceed();
}

void IkeSa::HandleRequest(const wire::Header& header,
                          const wire::Payloads& payloads) {
  const wire::Decoded<wire::ExchangeKind> kind =
      wire::ClassifyRequest(header, payloads);
  if (!kind.ok()) return Refuse(header, kind.verdict());
  if (const auto verdict = wire::CheckPayloads(*kind, false, payloads)) {
    return Refuse(header, *verdict);
  }
  RowOutcome outcome = AnswerByRow(*this, *kind, payloads);
  if (outcome.refusal) {
    SendResponse(header.exchange, {wire::Payload::Of(*outcome.refusal)});
    return;
  }
  peer_task_ = std::move(outcome.task);
  RunPeers(peer_task_->Start(*this));
  Proceed();
}

void IkeSa::Refuse(const wire::Header& header, const wire::Verdict& verdict) {
  if (verdict.disposition == wire::Verdict::Disposition::kDrop) return;
  ++ctx_.counters.malformed;
  ctx_.Report(Event::Kind::kProtocolError, peer_id(), id_, {}, verdict.reason);
  if (!header.response && verdict.notify) {
    SendResponse(header.exchange, {wire::Payload::Of(wire::NotifyPayload::Of(
                                      *verdict.notify, verdict.notify_data))});
  }
  if (verdict.disposition == wire::Verdict::Disposition::kClose) {
    Close(Ending::kSilent, verdict.reason);
  }
}

}  // namespace espalier::ike
