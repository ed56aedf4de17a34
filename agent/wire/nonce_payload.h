// Nonce payload. RFC 7296 3.9.
#ifndef ESPALIER_AGENT_WIRE_NONCE_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_NONCE_PAYLOAD_H_

#include <string>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

inline constexpr size_t kMinNonceSize = 16;
inline constexpr size_t kMaxNonceSize = 256;

struct NoncePayload {
  static constexpr PayloadType kType = PayloadType::kNonce;
  base::Bytes nonce;  // kMinNonceSize to kMaxNonceSize octets
  friend bool operator==(const NoncePayload&, const NoncePayload&) = default;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, NoncePayload* out,
                              std::string* why);
void EncodeBody(const NoncePayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_NONCE_PAYLOAD_H_
