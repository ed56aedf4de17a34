// Delete payload. RFC 7296 3.11.
#ifndef ESPALIER_AGENT_WIRE_DELETE_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_DELETE_PAYLOAD_H_

#include <string>
#include <vector>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/base/security_association.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct DeletePayload {
  static constexpr PayloadType kType = PayloadType::kDelete;
  ProtocolId protocol = ProtocolId::kEsp;
  // Those the sender receives on; none for kIke, whose SPI is the header's.
  std::vector<base::Spi> spis;
  friend bool operator==(const DeletePayload&, const DeletePayload&) = default;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, DeletePayload* out,
                              std::string* why);
void EncodeBody(const DeletePayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_DELETE_PAYLOAD_H_
