#include "agent/wire/header.h"

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"

namespace espalier::wire {
namespace {

// RFC 7296 3.1, flags as bits of the octet.
constexpr uint8_t kFlagInitiator = 0x08;
constexpr uint8_t kFlagVersion = 0x10;
constexpr uint8_t kFlagResponse = 0x20;

}  // namespace

Decoded<DecodedHeader> DecodeHeader(base::ByteSpan datagram) {
  base::ByteReader reader(datagram);
  DecodedHeader out;
  Header& header = out.header;
  uint8_t first = 0, version = 0, exchange = 0, flags = 0;
  if (!reader.ReadU64(&header.initiator_spi) ||
      !reader.ReadU64(&header.responder_spi) || !reader.ReadU8(&first) ||
      !reader.ReadU8(&version) || !reader.ReadU8(&exchange) ||
      !reader.ReadU8(&flags) || !reader.ReadU32(&header.message_id) ||
      !reader.ReadU32(&out.length)) {
    return Verdict::Drop(
        absl::StrCat("datagram of ", datagram.size(), " octets has no header"));
  }
  out.first_payload = static_cast<PayloadType>(first);
  header.minor_version = version & 0x0f;
  header.exchange = static_cast<ExchangeType>(exchange);
  header.response = (flags & kFlagResponse) != 0;
  header.higher_version = (flags & kFlagVersion) != 0;
  header.from_initiator = (flags & kFlagInitiator) != 0;

  const int major = version >> 4;
  if (major > kMajorVersion && !header.response) {
    return Verdict::Notify(NotifyType::kInvalidMajorVersion,
                           {kMajorVersion << 4},
                           absl::StrCat("major version ", major));
  }
  if (major != kMajorVersion) {
    return Verdict::Drop(absl::StrCat("major version ", major));
  }
  if (out.length != datagram.size()) {
    return Verdict::Drop(absl::StrCat("length field ", out.length,
                                      " in a datagram of ", datagram.size(),
                                      " octets"));
  }
  if (header.initiator_spi == 0) return Verdict::Drop("initiator SPI 0");
  return out;
}

void EncodeHeader(const Header& header, PayloadType first_payload,
                  base::ByteWriter* writer) {
  uint8_t flags = 0;
  if (header.response) flags |= kFlagResponse;
  if (header.higher_version) flags |= kFlagVersion;
  if (header.from_initiator) flags |= kFlagInitiator;
  writer->WriteU64(header.initiator_spi);
  writer->WriteU64(header.responder_spi);
  writer->WriteU8(static_cast<uint8_t>(first_payload));
  writer->WriteU8(
      static_cast<uint8_t>(kMajorVersion << 4 | (header.minor_version & 0x0f)));
  writer->WriteU8(static_cast<uint8_t>(header.exchange));
  writer->WriteU8(flags);
  writer->WriteU32(header.message_id);
  writer->WriteU32(0);
}

}  // namespace espalier::wire
