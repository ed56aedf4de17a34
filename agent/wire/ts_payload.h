// Traffic Selector payloads TSi and TSr. RFC 7296 3.13.
#ifndef ESPALIER_AGENT_WIRE_TS_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_TS_PAYLOAD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/base/security_association.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

// A selector that matches nothing here: its type is not an address range, or
// its range is empty. Narrowing leaves it out (RFC 7296 2.9).
struct UnusableSelector {
  uint8_t type = 0;
  uint8_t protocol = 0;
  base::Bytes rest;  // behind the length field
  friend bool operator==(const UnusableSelector&,
                         const UnusableSelector&) = default;
};

struct TsPayload {
  // In the order they came: the first may be the packet's that asked for the
  // SA (RFC 7296 2.9). At most 255, with `unusable`.
  std::vector<base::TrafficSelector> selectors;
  std::vector<UnusableSelector> unusable;
  friend bool operator==(const TsPayload&, const TsPayload&) = default;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, TsPayload* out,
                              std::string* why);
void EncodeBody(const TsPayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_TS_PAYLOAD_H_
