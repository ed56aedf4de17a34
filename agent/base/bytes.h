// The two byte types that cross folder borders.
#ifndef ESPALIER_AGENT_BASE_BYTES_H_
#define ESPALIER_AGENT_BASE_BYTES_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace espalier::base {

using Bytes = std::vector<uint8_t>;
using ByteSpan = std::span<const uint8_t>;
using MutableByteSpan = std::span<uint8_t>;

// Lower-case hexadecimal without separators. Never for keys.
std::string ToHex(ByteSpan bytes);

// Accepts an even number of digits of either case; false leaves *out alone.
bool FromHex(const std::string& hex, Bytes* out);

// For text that came as bytes (identities, vendor ids).
inline ByteSpan AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_BYTES_H_
