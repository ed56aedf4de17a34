#include "agent/wire/cert_payload.h"

#include "agent/base/byte_reader.h"

namespace espalier::wire {
namespace {

bool Decode(base::ByteSpan body, CertEncoding* encoding, base::Bytes* data,
            std::string* why) {
  base::ByteReader reader(body);
  uint8_t value = 0;
  if (!reader.ReadU8(&value)) {
    *why = "no encoding";
    return false;
  }
  *encoding = static_cast<CertEncoding>(value);
  return reader.ReadBytes(reader.remaining(), data);
}

}  // namespace

bool DecodeBody(base::ByteSpan body, CertPayload* out, std::string* why) {
  return Decode(body, &out->encoding, &out->data, why);
}

bool DecodeBody(base::ByteSpan body, CertreqPayload* out, std::string* why) {
  return Decode(body, &out->encoding, &out->authority, why);
}

void EncodeBody(const CertPayload& payload, base::ByteWriter* writer) {
  writer->WriteU8(static_cast<uint8_t>(payload.encoding));
  writer->WriteSpan(payload.data);
}

void EncodeBody(const CertreqPayload& payload, base::ByteWriter* writer) {
  writer->WriteU8(static_cast<uint8_t>(payload.encoding));
  writer->WriteSpan(payload.authority);
}

}  // namespace espalier::wire
