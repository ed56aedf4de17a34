#include "tests/property/wire_decode_check.h"

#include "agent/wire/exchange_rules.h"
#include "agent/wire/message.h"

namespace espalier::wire {
namespace {

using Disposition = Verdict::Disposition;

std::string CheckVerdict(const Verdict& verdict, bool authenticated,
                         bool response) {
  if (verdict.reason.empty()) return "a verdict without reason";
  switch (verdict.disposition) {
    case Disposition::kDrop:
      if (verdict.notify.has_value()) return "a drop with an answer";
      break;
    case Disposition::kNotify:
      if (!verdict.notify.has_value()) return "an answer without a type";
      if (response) return "an answer to a response";
      break;
    case Disposition::kClose:
      if (!authenticated) return "a forger could close the IKE_SA";
      if (verdict.notify.has_value() == response) {
        return "a close answers requests and only those";
      }
      break;
  }
  return "";
}

// Octets that decoded payloads hold on the heap, roughly.
size_t Weight(const Payloads& payloads) {
  size_t weight = payloads.size() * sizeof(Payload);
  for (const Payload& payload : payloads) {
    if (const auto* sa = std::get_if<SaPayload>(&payload.body)) {
      for (const Proposal& proposal : sa->proposals) {
        weight += sizeof(Proposal);
        for (const Transform& transform : proposal.transforms) {
          weight += sizeof(Transform) +
                    transform.unknown_attributes.size() * sizeof(Attribute);
        }
      }
    } else if (const auto* ts = std::get_if<TsPayload>(&payload.body)) {
      weight += ts->selectors.size() * sizeof(base::TrafficSelector) +
                ts->unusable.size() * sizeof(UnusableSelector);
    }
  }
  return weight;
}

// A decoded chain encodes to octets that decode to the same chain, obeys the
// limits, and can be judged by the tables.
std::string CheckDecoded(const Payloads& payloads, size_t size) {
  if (payloads.size() > kMaxPayloads) return "more payloads than the limit";
  // The worst are attributes: 4 octets on the wire, one value each.
  if (Weight(payloads) > size * 16 + 1024) return "out of proportion";
  base::ByteWriter writer;
  const PayloadType first = EncodeChain(payloads, &writer);
  const base::Bytes encoded = writer.Take();
  const Decoded<Payloads> again = DecodeInner(first, encoded, false);
  if (!again.ok()) {
    return "what was decoded encodes to bad syntax: " + again.verdict().reason;
  }
  if (*again != payloads) return "decode and encode disagree";
  for (int exchange = 34; exchange <= 38; ++exchange) {
    const auto kind = ClassifyRequest(
        {.exchange = static_cast<ExchangeType>(exchange)}, payloads);
    if (!kind.ok()) continue;
    for (bool response : {false, true}) {
      const auto verdict = CheckPayloads(*kind, response, payloads);
      if (!verdict.has_value()) continue;
      std::string why =
          CheckVerdict(*verdict, *kind != ExchangeKind::kIkeSaInit, response);
      if (!why.empty()) return why;
    }
  }
  return "";
}

bool Contains(base::ByteSpan outer, base::ByteSpan inner) {
  return inner.empty() ||
         (inner.data() >= outer.data() &&
          inner.data() + inner.size() <= outer.data() + outer.size());
}

}  // namespace

std::string CheckChainDecoding(PayloadType first, base::ByteSpan chain,
                               bool response, bool* accepted) {
  const Decoded<Payloads> decoded = DecodeInner(first, chain, response);
  if (accepted != nullptr) *accepted = decoded.ok();
  if (!decoded.ok()) return CheckVerdict(decoded.verdict(), true, response);
  return CheckDecoded(*decoded, chain.size());
}

std::string CheckMessageDecoding(base::ByteSpan datagram, bool* accepted) {
  const Decoded<Message> message = DecodeMessage(datagram);
  if (accepted != nullptr) *accepted = message.ok();
  if (!message.ok()) {
    const bool response = datagram.size() > 19 && (datagram[19] & 0x20) != 0;
    return CheckVerdict(message.verdict(), false, response);
  }
  if (message->encrypted.has_value()) {
    const EncryptedPart& part = *message->encrypted;
    if (!Contains(datagram, part.body) ||
        !Contains(datagram, part.associated_data) ||
        part.associated_data.size() + part.body.size() != datagram.size()) {
      return "spans that do not tile the datagram";
    }
    if (part.fragment.has_value() &&
        (part.fragment->number == 0 ||
         part.fragment->number > part.fragment->total)) {
      return "a fragment outside its message";
    }
    // As if it had been decrypted; both must be total.
    if (const auto chain = RemovePadding(part.body)) {
      std::string why = CheckChainDecoding(part.first_inner, *chain,
                                           message->header.response);
      if (!why.empty()) return why;
    }
  }
  return CheckDecoded(message->payloads, datagram.size());
}

}  // namespace espalier::wire
