// Fixed-place access to header fields whose bounds the caller has checked
// once for the whole header. Everything that still needs checking goes
// through base::ByteReader.
#ifndef ESPALIER_AGENT_ESP_OCTETS_H_
#define ESPALIER_AGENT_ESP_OCTETS_H_

#include <cstdint>
#include <cstring>

namespace espalier::esp {

inline uint16_t Load16(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] << 8 | p[1]);
}
inline uint32_t Load32(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) << 24 | static_cast<uint32_t>(p[1]) << 16 |
         static_cast<uint32_t>(p[2]) << 8 | p[3];
}
inline void Store16(uint16_t value, uint8_t* p) {
  p[0] = static_cast<uint8_t>(value >> 8);
  p[1] = static_cast<uint8_t>(value);
}
inline void Store32(uint32_t value, uint8_t* p) {
  p[0] = static_cast<uint8_t>(value >> 24);
  p[1] = static_cast<uint8_t>(value >> 16);
  p[2] = static_cast<uint8_t>(value >> 8);
  p[3] = static_cast<uint8_t>(value);
}
// For checksums, which are kept in the machine's order (checksum.h).
inline void StoreRaw16(uint16_t value, uint8_t* p) {
  std::memcpy(p, &value, sizeof value);
}

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_OCTETS_H_
