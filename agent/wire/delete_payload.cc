#include "agent/wire/delete_payload.h"

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"

namespace espalier::wire {

bool DecodeBody(base::ByteSpan body, DeletePayload* out, std::string* why) {
  base::ByteReader reader(body);
  uint8_t protocol = 0, spi_size = 0;
  uint16_t count = 0;
  if (!reader.ReadU8(&protocol) || !reader.ReadU8(&spi_size) ||
      !reader.ReadU16(&count)) {
    *why = "cut short";
    return false;
  }
  out->protocol = static_cast<ProtocolId>(protocol);
  // RFC 7296 3.11: an IKE_SA has no SPI here, AH and ESP have 4 octets.
  const bool ike = out->protocol == ProtocolId::kIke;
  if (spi_size != (ike ? 0 : 4) || (ike && count != 0)) {
    *why = absl::StrCat(count, " SPIs of ", static_cast<int>(spi_size),
                        " octets for ", ToString(out->protocol));
    return false;
  }
  if (reader.remaining() != size_t{count} * 4) {
    *why = absl::StrCat(count, " SPIs in ", reader.remaining(), " octets");
    return false;
  }
  out->spis.reserve(count);
  for (uint32_t spi = 0; reader.ReadU32(&spi);) out->spis.emplace_back(spi);
  return true;
}

void EncodeBody(const DeletePayload& payload, base::ByteWriter* writer) {
  writer->WriteU8(static_cast<uint8_t>(payload.protocol));
  writer->WriteU8(payload.protocol == ProtocolId::kIke ? 0 : 4);
  writer->WriteU16(static_cast<uint16_t>(payload.spis.size()));
  for (base::Spi spi : payload.spis) writer->WriteU32(spi.value());
}

}  // namespace espalier::wire
