#include "agent/wire/ke_payload.h"

#include "agent/base/byte_reader.h"

namespace espalier::wire {

bool DecodeBody(base::ByteSpan body, KePayload* out, std::string* why) {
  base::ByteReader reader(body);
  uint16_t reserved = 0;
  if (!reader.ReadU16(&out->group) || !reader.ReadU16(&reserved) ||
      reader.empty()) {
    *why = "no key exchange data";
    return false;
  }
  return reader.ReadBytes(reader.remaining(), &out->data);
}

void EncodeBody(const KePayload& payload, base::ByteWriter* writer) {
  writer->WriteU16(payload.group);
  writer->WriteU16(0);
  writer->WriteSpan(payload.data);
}

}  // namespace espalier::wire
