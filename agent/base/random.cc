#include "agent/base/random.h"

#include <array>

namespace espalier::base {

uint64_t RandomSource::U64() {
  std::array<uint8_t, 8> octets{};
  Fill(octets);
  uint64_t value = 0;
  for (uint8_t octet : octets) value = value << 8 | octet;
  return value;
}

uint32_t RandomSource::U32() { return static_cast<uint32_t>(U64() >> 32); }

}  // namespace espalier::base
