#include "agent/wire/notify.h"

#include "agent/base/byte_reader.h"

namespace espalier::wire {

NotifyPayload NotifyPayload::Of(NotifyType type, base::Bytes data) {
  NotifyPayload payload;
  payload.type = type;
  payload.data = std::move(data);
  return payload;
}

NotifyPayload NotifyPayload::OfEsp(NotifyType type, base::Spi spi) {
  base::ByteWriter writer;
  writer.WriteU32(spi.value());
  NotifyPayload payload;
  payload.type = type;
  payload.protocol = ProtocolId::kEsp;
  payload.spi = writer.Take();
  return payload;
}

NotifyPayload NotifyPayload::InvalidKe(uint16_t group) {
  base::ByteWriter writer;
  writer.WriteU16(group);
  return Of(NotifyType::kInvalidKePayload, writer.Take());
}

NotifyPayload NotifyPayload::SignatureHashAlgorithms(
    const std::vector<HashAlgorithm>& algorithms) {
  base::ByteWriter writer;
  for (HashAlgorithm algorithm : algorithms) {
    writer.WriteU16(static_cast<uint16_t>(algorithm));
  }
  return Of(NotifyType::kSignatureHashAlgorithms, writer.Take());
}

std::optional<base::Spi> NotifyPayload::EspSpi() const {
  base::ByteReader reader(spi);
  uint32_t value = 0;
  if (!reader.ReadU32(&value) || !reader.empty()) return std::nullopt;
  return base::Spi(value);
}

std::optional<uint16_t> NotifyPayload::DataU16() const {
  base::ByteReader reader(data);
  uint16_t value = 0;
  if (!reader.ReadU16(&value) || !reader.empty()) return std::nullopt;
  return value;
}

std::vector<HashAlgorithm> NotifyPayload::HashAlgorithms() const {
  base::ByteReader reader(data);
  std::vector<HashAlgorithm> algorithms;
  for (uint16_t value = 0; reader.ReadU16(&value);) {
    algorithms.push_back(static_cast<HashAlgorithm>(value));
  }
  return algorithms;
}

bool DecodeBody(base::ByteSpan body, NotifyPayload* out, std::string* why) {
  base::ByteReader reader(body);
  uint8_t protocol = 0, spi_size = 0;
  uint16_t type = 0;
  if (!reader.ReadU8(&protocol) || !reader.ReadU8(&spi_size) ||
      !reader.ReadU16(&type) || !reader.ReadBytes(spi_size, &out->spi)) {
    *why = "cut short";
    return false;
  }
  out->protocol = static_cast<ProtocolId>(protocol);
  out->type = static_cast<NotifyType>(type);
  return reader.ReadBytes(reader.remaining(), &out->data);
}

void EncodeBody(const NotifyPayload& payload, base::ByteWriter* writer) {
  writer->WriteU8(static_cast<uint8_t>(payload.protocol));
  writer->WriteU8(static_cast<uint8_t>(payload.spi.size()));
  writer->WriteU16(static_cast<uint16_t>(payload.type));
  writer->WriteSpan(payload.spi);
  writer->WriteSpan(payload.data);
}

}  // namespace espalier::wire
