#include "agent/wire/id_payload.h"

#include "absl/strings/str_cat.h"
#include "agent/base/byte_reader.h"

namespace espalier::wire {

bool DecodeBody(base::ByteSpan body, IdPayload* out, std::string* why) {
  base::ByteReader reader(body);
  uint8_t type = 0;
  if (!reader.ReadU8(&type) || !reader.ReadArray(&out->reserved)) {
    *why = "cut short";
    return false;
  }
  out->type = static_cast<IdType>(type);
  if (!reader.ReadBytes(reader.remaining(), &out->data)) return false;
  const size_t size = out->data.size();
  if ((out->type == IdType::kIpv4Addr && size != 4) ||
      (out->type == IdType::kIpv6Addr && size != 16)) {
    *why = absl::StrCat("address of ", size, " octets");
    return false;
  }
  return true;
}

void EncodeBody(const IdPayload& payload, base::ByteWriter* writer) {
  writer->WriteU8(static_cast<uint8_t>(payload.type));
  writer->WriteSpan(payload.reserved);
  writer->WriteSpan(payload.data);
}

}  // namespace espalier::wire
