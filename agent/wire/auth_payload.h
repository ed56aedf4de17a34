// Authentication payload. RFC 7296 3.8; digital signatures RFC 7427 3.
#ifndef ESPALIER_AGENT_WIRE_AUTH_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_AUTH_PAYLOAD_H_

#include <optional>
#include <string>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct AuthPayload {
  static constexpr PayloadType kType = PayloadType::kAuth;
  AuthMethod method = AuthMethod::kSharedKey;
  base::Bytes data;
  friend bool operator==(const AuthPayload&, const AuthPayload&) = default;
};

// The data of method 14.
struct DigitalSignature {
  base::Bytes algorithm_identifier;  // DER, at most 255 octets
  base::Bytes signature;
  friend bool operator==(const DigitalSignature&,
                         const DigitalSignature&) = default;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, AuthPayload* out,
                              std::string* why);
void EncodeBody(const AuthPayload& payload, base::ByteWriter* writer);

// nullopt when the identifier is empty or longer than the data, or nothing is
// left for the signature.
std::optional<DigitalSignature> DecodeDigitalSignature(base::ByteSpan data);
base::Bytes EncodeDigitalSignature(const DigitalSignature& signature);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_AUTH_PAYLOAD_H_
