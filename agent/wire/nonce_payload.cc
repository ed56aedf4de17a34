#include "agent/wire/nonce_payload.h"

#include "absl/strings/str_cat.h"

namespace espalier::wire {

bool DecodeBody(base::ByteSpan body, NoncePayload* out, std::string* why) {
  if (body.size() < kMinNonceSize || body.size() > kMaxNonceSize) {
    *why = absl::StrCat("nonce of ", body.size(), " octets");
    return false;
  }
  out->nonce.assign(body.begin(), body.end());
  return true;
}

void EncodeBody(const NoncePayload& payload, base::ByteWriter* writer) {
  writer->WriteSpan(payload.nonce);
}

}  // namespace espalier::wire
