#include "agent/wire/message.h"

#include "agent/base/byte_reader.h"
#include "agent/wire/payload_chain.h"

namespace espalier::wire {
namespace {

// nullopt: the fields of an SKF are cut short or make no sense.
std::optional<EncryptedPart> ToEncryptedPart(base::ByteSpan datagram,
                                             const Chain& chain) {
  EncryptedPart part;
  part.first_inner = chain.first_inner;
  part.message = datagram;
  part.body = chain.encrypted_body;
  if (chain.encrypted_type == PayloadType::kEncryptedFragment) {
    base::ByteReader reader(chain.encrypted_body);
    FragmentPlace place;
    // RFC 7383 2.5: counted from 1, and the number is not above the total.
    if (!reader.ReadU16(&place.number) || !reader.ReadU16(&place.total) ||
        place.number == 0 || place.number > place.total) {
      return std::nullopt;
    }
    part.fragment = place;
    part.body = reader.rest();
  }
  part.associated_data = datagram.first(datagram.size() - part.body.size());
  return part;
}

}  // namespace

Decoded<Message> DecodeMessage(base::ByteSpan datagram) {
  Decoded<DecodedHeader> header = DecodeHeader(datagram);
  if (!header.ok()) return header.verdict();
  Chain chain = WalkChain(header->first_payload, datagram.subspan(kHeaderSize),
                          /*outer=*/true);
  Message message;
  message.header = header->header;
  const bool init = message.header.exchange == ExchangeType::kIkeSaInit;
  if (chain.error == ChainError::kUnsupportedCritical && init &&
      !message.header.response) {
    return Verdict::Notify(NotifyType::kUnsupportedCriticalPayload,
                           {static_cast<uint8_t>(chain.critical_type)},
                           std::move(chain.why));
  }
  if (chain.error.has_value()) return Verdict::Drop(std::move(chain.why));
  message.payloads = std::move(chain.payloads);
  if (chain.encrypted_type == PayloadType::kNone) return message;
  if (init) return Verdict::Drop("SK in IKE_SA_INIT");
  message.encrypted = ToEncryptedPart(datagram, chain);
  if (!message.encrypted.has_value()) {
    return Verdict::Drop("SKF: fragment number out of range");
  }
  return message;
}

base::Bytes EncodeMessage(const Header& header, const Payloads& payloads) {
  base::ByteWriter writer;
  EncodeHeader(header,
               payloads.empty() ? PayloadType::kNone : payloads.front().type,
               &writer);
  EncodeChain(payloads, &writer);
  writer.PatchU32(kLengthOffset, static_cast<uint32_t>(writer.size()));
  return writer.Take();
}

}  // namespace espalier::wire
