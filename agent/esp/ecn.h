// Explicit congestion notification across a tunnel (RFC 6040) and the traffic
// class of the outer header (RFC 4301 5.1.2).
#ifndef ESPALIER_AGENT_ESP_ECN_H_
#define ESPALIER_AGENT_ESP_ECN_H_

#include <cstdint>
#include <optional>

namespace espalier::esp {

inline constexpr uint8_t kEcnMask = 3;
inline constexpr uint8_t kNotEct = 0;
inline constexpr uint8_t kEct1 = 1;
inline constexpr uint8_t kEct0 = 2;
inline constexpr uint8_t kCe = 3;

// RFC 6040 4.1, normal mode: the whole octet is copied, DSCP included.
inline uint8_t OuterTrafficClass(uint8_t inner) { return inner; }

// RFC 6040 4.2: the inner ECN field after decapsulation; nullopt: drop.
inline std::optional<uint8_t> DecapsulatedEcn(uint8_t inner, uint8_t outer) {
  inner &= kEcnMask;
  outer &= kEcnMask;
  if (outer == kCe) {
    if (inner == kNotEct) return std::nullopt;
    return kCe;
  }
  if (outer == kEct1 && inner == kEct0) return kEct1;
  return inner;
}

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_ECN_H_
