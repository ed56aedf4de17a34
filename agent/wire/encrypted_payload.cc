#include "agent/wire/encrypted_payload.h"

#include <algorithm>

#include "agent/base/byte_writer.h"
#include "agent/wire/payload.h"

namespace espalier::wire {
namespace {

// Fragment number and total of an SKF.
constexpr size_t kFragmentFieldsSize = 4;
constexpr size_t kPadLengthSize = 1;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Octets from the start of the message to the IV.
size_t ClearSize(bool fragment) {
  return kHeaderSize + kGenericHeaderSize +
         (fragment ? kFragmentFieldsSize : 0);
}

}  // namespace

base::ByteSpan SealedMessage::associated_data() const {
  return base::ByteSpan(bytes_).first(iv_offset_);
}
base::MutableByteSpan SealedMessage::iv() {
  return base::MutableByteSpan(bytes_).subspan(iv_offset_,
                                               plaintext_offset_ - iv_offset_);
}
base::MutableByteSpan SealedMessage::plaintext() {
  return base::MutableByteSpan(bytes_).subspan(plaintext_offset_,
                                               icv_offset_ - plaintext_offset_);
}
base::MutableByteSpan SealedMessage::icv() {
  return base::MutableByteSpan(bytes_).subspan(icv_offset_);
}
base::ByteSpan SealedMessage::integrity_input() const {
  return base::ByteSpan(bytes_).first(icv_offset_);
}

size_t SealedSize(size_t chain_size, bool fragment, CipherSizes sizes) {
  return ClearSize(fragment) + sizes.iv +
         RoundUp(chain_size + kPadLengthSize,
                 std::max<size_t>(sizes.block, 1)) +
         sizes.icv;
}

SealedMessage LayOut(const Header& header, PayloadType first_inner,
                     base::ByteSpan chain,
                     std::optional<FragmentPlace> fragment, CipherSizes sizes) {
  const size_t total = SealedSize(chain.size(), fragment.has_value(), sizes);
  // RFC 7383 2.5: all fragments but the first have a next payload of 0.
  const bool later = fragment.has_value() && fragment->number != 1;
  base::ByteWriter writer;
  EncodeHeader(header,
               fragment.has_value() ? PayloadType::kEncryptedFragment
                                    : PayloadType::kEncrypted,
               &writer);
  writer.PatchU32(kLengthOffset, static_cast<uint32_t>(total));
  writer.WriteU8(
      static_cast<uint8_t>(later ? PayloadType::kNone : first_inner));
  writer.WriteU8(0);
  writer.WriteU16(static_cast<uint16_t>(total - kHeaderSize));
  if (fragment.has_value()) {
    writer.WriteU16(fragment->number);
    writer.WriteU16(fragment->total);
  }
  SealedMessage message;
  message.iv_offset_ = writer.size();
  writer.WriteZeros(sizes.iv);
  message.plaintext_offset_ = writer.size();
  message.icv_offset_ = total - sizes.icv;
  writer.WriteSpan(chain);
  const size_t padding = message.icv_offset_ - kPadLengthSize - writer.size();
  writer.WriteZeros(padding);
  writer.WriteU8(static_cast<uint8_t>(padding));
  writer.WriteZeros(sizes.icv);
  message.bytes_ = writer.Take();
  return message;
}

std::vector<base::ByteSpan> SplitIntoFragments(base::ByteSpan chain,
                                               size_t max_message,
                                               CipherSizes sizes) {
  const size_t fixed = ClearSize(true) + sizes.iv + sizes.icv;
  const size_t block = std::max<size_t>(sizes.block, 1);
  if (max_message < fixed) return {};
  const size_t encrypted = (max_message - fixed) / block * block;
  if (encrypted <= kPadLengthSize) return {};
  const size_t piece = encrypted - kPadLengthSize;
  if ((chain.size() + piece - 1) / piece > 65535) return {};
  std::vector<base::ByteSpan> pieces;
  do {
    const size_t size = std::min(piece, chain.size());
    pieces.push_back(chain.first(size));
    chain = chain.subspan(size);
  } while (!chain.empty());
  return pieces;
}

std::optional<base::ByteSpan> RemovePadding(base::ByteSpan plaintext) {
  if (plaintext.empty()) return std::nullopt;
  const size_t tail = size_t{plaintext.back()} + kPadLengthSize;
  if (tail > plaintext.size()) return std::nullopt;
  return plaintext.first(plaintext.size() - tail);
}

}  // namespace espalier::wire
