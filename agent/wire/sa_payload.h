// Security Association payload: proposals, transforms, attributes.
// RFC 7296 3.3.
#ifndef ESPALIER_AGENT_WIRE_SA_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_SA_PAYLOAD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

inline constexpr size_t kMaxProposals = 64;
// The count field has 8 bits; this many in one proposal are read.
inline constexpr size_t kMaxTransforms = 255;
inline constexpr size_t kMaxAttributes = 8;

// RFC 7296 3.3.5. `tv`: the value is the two octets of the short format.
struct Attribute {
  uint16_t type = 0;  // without the format bit
  bool tv = true;
  base::Bytes value;
  friend bool operator==(const Attribute&, const Attribute&) = default;
};

// RFC 7296 3.3.2.
struct Transform {
  TransformType type = TransformType::kEncryption;
  uint16_t id = 0;
  std::optional<uint16_t> key_length;  // bits
  // A transform with one of these must not be chosen (RFC 7296 3.3.6).
  std::vector<Attribute> unknown_attributes;
  friend bool operator==(const Transform&, const Transform&) = default;
};

// RFC 7296 3.3.1.
struct Proposal {
  uint8_t number = 1;
  ProtocolId protocol = ProtocolId::kIke;
  // Empty in IKE_SA_INIT, 8 octets for an IKE_SA, 4 for ESP and AH.
  base::Bytes spi;
  std::vector<Transform> transforms;
  friend bool operator==(const Proposal&, const Proposal&) = default;
};

struct SaPayload {
  static constexpr PayloadType kType = PayloadType::kSa;
  std::vector<Proposal> proposals;  // at least 1, numbers rise by 1
  friend bool operator==(const SaPayload&, const SaPayload&) = default;
};

// False: malformed, and *why says how. `out` is then unspecified.
[[nodiscard]] bool DecodeBody(base::ByteSpan body, SaPayload* out,
                              std::string* why);
void EncodeBody(const SaPayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_SA_PAYLOAD_H_
