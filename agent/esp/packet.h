// The ESP packet (RFC 4303 2) over buffers: header, trailer, sizes. Pure.
#ifndef ESPALIER_AGENT_ESP_PACKET_H_
#define ESPALIER_AGENT_ESP_PACKET_H_

#include <cstdint>
#include <optional>

#include "agent/base/bytes.h"
#include "agent/base/security_association.h"

namespace espalier::esp {

inline constexpr size_t kEspHeader = 8;  // SPI, low sequence number
// What WriteTrailer may need behind a payload.
inline constexpr size_t kMaxTrailer = 32;

// The octets that differ between suites, looked up once an SA.
struct EspLayout {
  explicit EspLayout(const base::EspSuite& suite)
      : iv(static_cast<uint32_t>(suite.iv_size())),
        icv(static_cast<uint32_t>(suite.icv_size())),
        block(static_cast<uint32_t>(suite.block_size())) {}

  // Payload, padding, pad length and next header for `inner` octets.
  size_t padded(size_t inner) const {
    return (inner + 2 + block - 1) / block * block;
  }
  // The whole ESP packet, from SPI to ICV.
  size_t packet(size_t inner) const {
    return kEspHeader + iv + padded(inner) + icv;
  }
  // The least that can be an ESP packet: a trailer and no payload.
  size_t smallest() const { return packet(0); }

  uint32_t iv;
  uint32_t icv;
  uint32_t block;
};

struct EspHeader {
  base::Spi spi;
  uint32_t sequence = 0;
};

// nullopt when the 8 octets are not there.
std::optional<EspHeader> ReadHeader(base::ByteSpan packet);
void WriteHeader(const EspHeader& header, uint8_t* packet);

// Writes padding 1, 2, 3 …, its length and `next_header` behind payload[0,
// size) (RFC 4303 2.4); returns the size with them. kMaxTrailer octets behind
// `size` must be writable.
size_t WriteTrailer(uint8_t* payload, size_t size, uint32_t block,
                    uint8_t next_header);

struct Trailer {
  size_t payload = 0;  // octets before the padding
  uint8_t next_header = 0;
};
// Of a decrypted payload; nullopt when the pad length exceeds what is there.
// The padding's contents are not judged: the ICV covered them.
std::optional<Trailer> ReadTrailer(base::ByteSpan padded);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_PACKET_H_
