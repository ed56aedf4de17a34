#include "tests/unit/ike/insider.h"

#include <utility>

#include "agent/ike/protected_message.h"

namespace espalier::ike::testing {
namespace {

crypto::CipherSuite SuiteOf(const LogIkeKeys& keys) {
  return {.cipher = keys.cipher,
          .key_bits = keys.key_bits,
          .integrity = keys.integrity};
}

}  // namespace

CoreConfig WithKeyLog(CoreConfig config) {
  config.key_log = true;
  return config;
}

const LogIkeKeys* Insider::KeysFor(const wire::Header& header) const {
  for (const LogIkeKeys& keys : node_.keys) {
    if (keys.initiator_spi == header.initiator_spi &&
        keys.responder_spi == header.responder_spi) {
      return &keys;
    }
  }
  return nullptr;
}

std::optional<wire::Payloads> Insider::Read(const base::Bytes& datagram) const {
  const wire::Decoded<wire::Message> message = wire::DecodeMessage(datagram);
  if (!message.ok() || !message->encrypted) return std::nullopt;
  const wire::Header& header = message->header;
  const LogIkeKeys* keys = KeysFor(header);
  if (keys == nullptr) return std::nullopt;
  const crypto::CipherSuite suite = SuiteOf(*keys);
  const bool initiator = header.from_initiator;
  const std::optional<base::Bytes> chain =
      Open({.suite = suite,
            .encryption = (initiator ? keys->sk_ei : keys->sk_er).span(),
            .integrity = (initiator ? keys->sk_ai : keys->sk_ar).span()},
           *message->encrypted);
  if (!chain) return std::nullopt;
  wire::Decoded<wire::Payloads> payloads = wire::DecodeInner(
      message->encrypted->first_inner, *chain, header.response);
  if (!payloads.ok()) return std::nullopt;
  return *std::move(payloads);
}

void Insider::Rewrite(const wire::Payloads& payloads, base::Bytes* datagram,
                      std::optional<wire::ExchangeType> exchange,
                      std::optional<uint32_t> message_id) {
  wire::Decoded<wire::DecodedHeader> decoded = wire::DecodeHeader(*datagram);
  if (exchange) decoded->header.exchange = *exchange;
  if (message_id) decoded->header.message_id = *message_id;
  const LogIkeKeys* keys = KeysFor(decoded->header);
  const crypto::CipherSuite suite = SuiteOf(*keys);
  const bool initiator = decoded->header.from_initiator;
  Packets packets =
      Seal({.suite = suite,
            .encryption = (initiator ? keys->sk_ei : keys->sk_er).span(),
            .integrity = (initiator ? keys->sk_ai : keys->sk_ar).span()},
           decoded->header, payloads, 0, &iv_counter_);
  *datagram = std::move(packets.front());
}

}  // namespace espalier::ike::testing
