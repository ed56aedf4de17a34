#include "agent/wire/auth_payload.h"

#include "agent/base/byte_reader.h"

namespace espalier::wire {

bool DecodeBody(base::ByteSpan body, AuthPayload* out, std::string* why) {
  base::ByteReader reader(body);
  uint8_t method = 0;
  if (!reader.ReadU8(&method) || !reader.Skip(3)) {
    *why = "cut short";
    return false;
  }
  out->method = static_cast<AuthMethod>(method);
  return reader.ReadBytes(reader.remaining(), &out->data);
}

void EncodeBody(const AuthPayload& payload, base::ByteWriter* writer) {
  writer->WriteU8(static_cast<uint8_t>(payload.method));
  writer->WriteZeros(3);
  writer->WriteSpan(payload.data);
}

std::optional<DigitalSignature> DecodeDigitalSignature(base::ByteSpan data) {
  base::ByteReader reader(data);
  DigitalSignature out;
  uint8_t length = 0;
  if (!reader.ReadU8(&length) || length == 0 ||
      !reader.ReadBytes(length, &out.algorithm_identifier) || reader.empty() ||
      !reader.ReadBytes(reader.remaining(), &out.signature)) {
    return std::nullopt;
  }
  return out;
}

base::Bytes EncodeDigitalSignature(const DigitalSignature& signature) {
  base::ByteWriter writer;
  writer.WriteU8(static_cast<uint8_t>(signature.algorithm_identifier.size()));
  writer.WriteSpan(signature.algorithm_identifier);
  writer.WriteSpan(signature.signature);
  return writer.Take();
}

}  // namespace espalier::wire
