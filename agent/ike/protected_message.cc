#include "agent/ike/protected_message.h"

#include <utility>

#include "agent/base/secret_bytes.h"

namespace espalier::ike {
namespace {

wire::CipherSizes SizesOf(const crypto::CipherSuite& suite) {
  return {.iv = suite.iv_size(),
          .icv = suite.icv_size(),
          .block = suite.block_size()};
}

base::Bytes SealOne(const ProtectionKeys& keys, const wire::Header& header,
                    wire::PayloadType first, base::ByteSpan chain,
                    std::optional<wire::FragmentPlace> place,
                    uint64_t* iv_counter) {
  wire::SealedMessage message =
      wire::LayOut(header, first, chain, place, SizesOf(keys.suite));
  const size_t body = message.associated_data().size();
  base::Bytes bytes = message.Take();
  if (!crypto::Seal(keys.suite, keys.encryption, keys.integrity,
                    (*iv_counter)++, bytes, body)
           .ok()) {
    // Never the plaintext instead.
    return {};
  }
  return bytes;
}

}  // namespace

ProtectionKeys KeysOf(const IkeSuite& suite, const IkeKeys& keys,
                      bool initiator) {
  if (initiator) {
    return {suite.cipher, keys.sk_ei.span(), keys.sk_ai.span()};
  }
  return {suite.cipher, keys.sk_er.span(), keys.sk_ar.span()};
}

Packets Seal(const ProtectionKeys& keys, const wire::Header& header,
             const wire::Payloads& payloads, size_t fragment_size,
             uint64_t* iv_counter) {
  base::ByteWriter writer;
  const wire::PayloadType first = wire::EncodeChain(payloads, &writer);
  const base::ByteSpan chain = writer.span();
  const wire::CipherSizes sizes = SizesOf(keys.suite);
  const size_t whole = wire::SealedSize(chain.size(), false, sizes);
  Packets packets;
  if (fragment_size == 0 || whole <= fragment_size) {
    if (whole > wire::kMaxMessageSize) return {};
    packets.push_back(
        SealOne(keys, header, first, chain, std::nullopt, iv_counter));
  } else {
    const std::vector<base::ByteSpan> pieces =
        wire::SplitIntoFragments(chain, fragment_size, sizes);
    packets.reserve(pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) {
      const wire::FragmentPlace place = {
          .number = static_cast<uint16_t>(i + 1),
          .total = static_cast<uint16_t>(pieces.size())};
      packets.push_back(SealOne(keys, header,
                                i == 0 ? first : wire::PayloadType::kNone,
                                pieces[i], place, iv_counter));
    }
  }
  for (const base::Bytes& packet : packets) {
    if (packet.empty()) return {};
  }
  return packets;
}

std::optional<base::Bytes> Open(const ProtectionKeys& keys,
                                const wire::EncryptedPart& part) {
  base::Bytes message(part.message.begin(), part.message.end());
  base::MutableByteSpan plaintext;
  if (!crypto::Open(keys.suite, keys.encryption, keys.integrity, message,
                    part.associated_data.size(), &plaintext)) {
    return std::nullopt;
  }
  const std::optional<base::ByteSpan> chain = wire::RemovePadding(plaintext);
  if (!chain) return std::nullopt;
  return base::Bytes(chain->begin(), chain->end());
}

}  // namespace espalier::ike
