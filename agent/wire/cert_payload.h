// Certificate and Certificate Request payloads. RFC 7296 3.6, 3.7; raw public
// keys RFC 7670.
#ifndef ESPALIER_AGENT_WIRE_CERT_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_CERT_PAYLOAD_H_

#include <string>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct CertPayload {
  static constexpr PayloadType kType = PayloadType::kCert;
  CertEncoding encoding = CertEncoding::kRawPublicKey;
  base::Bytes data;
  friend bool operator==(const CertPayload&, const CertPayload&) = default;
};

struct CertreqPayload {
  static constexpr PayloadType kType = PayloadType::kCertreq;
  CertEncoding encoding = CertEncoding::kRawPublicKey;
  base::Bytes authority;  // empty for raw public keys (RFC 7670 3)
  friend bool operator==(const CertreqPayload&,
                         const CertreqPayload&) = default;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, CertPayload* out,
                              std::string* why);
[[nodiscard]] bool DecodeBody(base::ByteSpan body, CertreqPayload* out,
                              std::string* why);
void EncodeBody(const CertPayload& payload, base::ByteWriter* writer);
void EncodeBody(const CertreqPayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_CERT_PAYLOAD_H_
