// Identification payloads IDi and IDr. RFC 7296 3.5.
#ifndef ESPALIER_AGENT_WIRE_ID_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_ID_PAYLOAD_H_

#include <array>
#include <cstdint>
#include <string>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct IdPayload {
  IdType type = IdType::kFqdn;
  // Sent as 0 and ignored, but AUTH covers the octets as they came.
  std::array<uint8_t, 3> reserved{};
  base::Bytes data;
  friend bool operator==(const IdPayload&, const IdPayload&) = default;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, IdPayload* out,
                              std::string* why);
// What RFC 7296 2.15 calls RestOfInitIDPayload and RestOfRespIDPayload.
void EncodeBody(const IdPayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_ID_PAYLOAD_H_
