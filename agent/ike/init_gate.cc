#include "agent/ike/init_gate.h"

#include <algorithm>
#include <utility>

#include "agent/crypto/key_exchange.h"
#include "agent/ike/peer.h"
#include "agent/ike/tasks/ike_sa_init.h"

namespace espalier::ike {
namespace {

using wire::NotifyPayload;
using wire::NotifyType;

// Not protected, and smaller than the request that asks for it.
base::Bytes Reply(const wire::Header& request, NotifyPayload notify) {
  wire::Header header = request;
  header.responder_spi = 0;
  header.minor_version = 0;
  header.response = true;
  header.higher_version = false;
  header.from_initiator = false;
  return wire::EncodeMessage(header, {wire::Payload::Of(std::move(notify))});
}

}  // namespace

InitGate::Decision InitGate::Judge(Context& ctx, const Path& path,
                                   base::ByteSpan raw, size_t half_open) {
  Decision decision;
  const wire::Decoded<wire::DecodedHeader> header = wire::DecodeHeader(raw);
  wire::Decoded<wire::Message> message = wire::DecodeMessage(raw);
  if (!header.ok() || !message.ok()) {
    ++ctx.counters.malformed;
    if (header.ok() && message.verdict().notify) {
      decision.reply = Reply(header->header,
                             NotifyPayload::Of(*message.verdict().notify,
                                               message.verdict().notify_data));
    }
    return decision;
  }
  const wire::Payloads& payloads = message->payloads;
  const wire::Header& request = message->header;
  if (!request.from_initiator || request.message_id != 0 ||
      wire::CheckPayloads(wire::ExchangeKind::kIkeSaInit, false, payloads)) {
    ++ctx.counters.malformed;
    return decision;
  }
  if (half_open >= ctx.config.cookie_threshold &&
      !HasCookie(ctx, path, *message)) {
    ++ctx.counters.cookies_sent;
    decision.solicited = true;
    decision.reply =
        Reply(request,
              NotifyPayload::Of(
                  NotifyType::kCookie,
                  cookies_.Make(ctx.now,
                                wire::Find<wire::NoncePayload>(payloads)->nonce,
                                path.remote, request.initiator_spi)));
    return decision;
  }
  if (half_open < ctx.config.max_half_open) {
    Choose(ctx, path, *message, raw, &decision);
  }
  return decision;
}

bool InitGate::HasCookie(Context& ctx, const Path& path,
                         const wire::Message& request) {
  const NotifyPayload* cookie =
      wire::FindNotify(request.payloads, NotifyType::kCookie);
  return cookie != nullptr &&
         cookies_.Check(ctx.now, cookie->data,
                        wire::Find<wire::NoncePayload>(request.payloads)->nonce,
                        path.remote, request.header.initiator_spi);
}

void InitGate::Choose(Context& ctx, const Path& path,
                      const wire::Message& message, base::ByteSpan raw,
                      Decision* decision) {
  const wire::Header& request = message.header;
  const wire::Payloads& payloads = message.payloads;
  const auto* ke = wire::Find<wire::KePayload>(payloads);
  std::optional<ChosenIke> chosen =
      ChooseIke(ctx.peers->ProposalsFor(path.remote.address),
                *wire::Find<wire::SaPayload>(payloads), ke->group);
  if (!chosen) {
    if (reports_.Allow(ctx.now)) {
      ctx.Report(Event::Kind::kNoProposalChosen, PeerId(), IkeSaId(), {},
                 path.remote.ToString());
    }
    decision->reply =
        Reply(request, NotifyPayload::Of(NotifyType::kNoProposalChosen));
    return;
  }
  const uint16_t group = static_cast<uint16_t>(chosen->suite.group);
  if (ke->group != group) {
    decision->reply = Reply(request, NotifyPayload::InvalidKe(group));
    return;
  }
  if (ke->data.size() != crypto::PublicValueSize(chosen->suite.group)) {
    ++ctx.counters.malformed;
    return;
  }
  const auto candidates = ctx.peers->Candidates(path.remote.address);
  const bool force = std::any_of(
      candidates.begin(), candidates.end(),
      [](const Peer* peer) { return peer->config->force_encapsulation; });
  decision->nat = NatOf({request.initiator_spi, 0}, path, payloads);
  decision->nat.forced = force;
  decision->fragmentation =
      wire::FindNotify(payloads, NotifyType::kIkev2FragmentationSupported) !=
      nullptr;
  decision->task = std::make_unique<InitResponder>(InitResponder::Request{
      .raw = base::Bytes(raw.begin(), raw.end()),
      .nonce = wire::Find<wire::NoncePayload>(payloads)->nonce,
      .peer_public = ke->data,
      .chosen = *std::move(chosen),
      .peer_hashes = HashesOf(payloads),
      .force_encapsulation = force});
}

}  // namespace espalier::ike
