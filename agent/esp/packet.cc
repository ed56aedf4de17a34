#include "agent/esp/packet.h"

#include "agent/base/byte_reader.h"
#include "agent/esp/octets.h"

namespace espalier::esp {

std::optional<EspHeader> ReadHeader(base::ByteSpan packet) {
  base::ByteReader reader(packet);
  uint32_t spi;
  EspHeader header;
  if (!reader.ReadU32(&spi) || !reader.ReadU32(&header.sequence)) {
    return std::nullopt;
  }
  header.spi = base::Spi(spi);
  return header;
}

void WriteHeader(const EspHeader& header, uint8_t* packet) {
  Store32(header.spi.value(), packet);
  Store32(header.sequence, packet + 4);
}

size_t WriteTrailer(uint8_t* payload, size_t size, uint32_t block,
                    uint8_t next_header) {
  const size_t padded = (size + 2 + block - 1) / block * block;
  const size_t padding = padded - size - 2;
  for (size_t i = 0; i < padding; ++i) {
    payload[size + i] = static_cast<uint8_t>(i + 1);
  }
  payload[padded - 2] = static_cast<uint8_t>(padding);
  payload[padded - 1] = next_header;
  return padded;
}

std::optional<Trailer> ReadTrailer(base::ByteSpan padded) {
  if (padded.size() < 2) return std::nullopt;
  const size_t padding = padded[padded.size() - 2];
  if (padding + 2 > padded.size()) return std::nullopt;
  return Trailer{padded.size() - 2 - padding, padded.back()};
}

}  // namespace espalier::esp
