// Just enough of DER (X.690) to read an AlgorithmIdentifier out of an AUTH
// payload. Total: any bytes give a verdict.
#ifndef ESPALIER_AGENT_CRYPTO_DER_H_
#define ESPALIER_AGENT_CRYPTO_DER_H_

#include <cstdint>

#include "agent/base/byte_reader.h"
#include "agent/base/bytes.h"

namespace espalier::crypto {

inline constexpr uint8_t kDerInteger = 0x02;
inline constexpr uint8_t kDerNull = 0x05;
inline constexpr uint8_t kDerObjectIdentifier = 0x06;
inline constexpr uint8_t kDerSequence = 0x30;
// [n] EXPLICIT
constexpr uint8_t DerContext(uint8_t n) { return 0xa0 | n; }

// Reads one element with `tag` and steps over it; `*contents` borrows. Only
// the shortest form of a length below 65536 is taken. False moves nothing.
[[nodiscard]] bool ReadDer(base::ByteReader* reader, uint8_t tag,
                           base::ByteSpan* contents);

// Whether the next element has this tag; for OPTIONAL and DEFAULT ones.
bool NextDerIs(const base::ByteReader& reader, uint8_t tag);

// A non-negative INTEGER of one octet.
[[nodiscard]] bool ReadDerSmallInteger(base::ByteReader* reader,
                                       uint8_t* value);

}  // namespace espalier::crypto

#endif  // ESPALIER_AGENT_CRYPTO_DER_H_
