// Key Exchange payload. RFC 7296 3.4.
#ifndef ESPALIER_AGENT_WIRE_KE_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_KE_PAYLOAD_H_

#include <cstdint>
#include <string>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct KePayload {
  static constexpr PayloadType kType = PayloadType::kKe;
  uint16_t group = 0;  // transform id of type 4
  base::Bytes data;    // the public value; its length is the group's business
  friend bool operator==(const KePayload&, const KePayload&) = default;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, KePayload* out,
                              std::string* why);
void EncodeBody(const KePayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_KE_PAYLOAD_H_
