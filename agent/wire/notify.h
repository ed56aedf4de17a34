// Notify payload, and the data of those types that carry some. RFC 7296 3.10.
#ifndef ESPALIER_AGENT_WIRE_NOTIFY_H_
#define ESPALIER_AGENT_WIRE_NOTIFY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/base/security_association.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct NotifyPayload {
  static constexpr PayloadType kType = PayloadType::kNotify;
  NotifyType type = NotifyType::kInvalidSyntax;
  // Both only where the notification is about one CHILD_SA: INVALID_SELECTORS,
  // REKEY_SA, CHILD_SA_NOT_FOUND.
  ProtocolId protocol = ProtocolId::kNone;
  base::Bytes spi;
  base::Bytes data;
  friend bool operator==(const NotifyPayload&, const NotifyPayload&) = default;

  static NotifyPayload Of(NotifyType type, base::Bytes data = {});
  // About the ESP SA that the sender of the message receives on.
  static NotifyPayload OfEsp(NotifyType type, base::Spi spi);
  // INVALID_KE_PAYLOAD with the group that is wanted (RFC 7296 1.3, 3.10.1).
  static NotifyPayload InvalidKe(uint16_t group);
  // RFC 7427 4.
  static NotifyPayload SignatureHashAlgorithms(
      const std::vector<HashAlgorithm>& algorithms);

  // The SPI of an ESP SA; nullopt when it is not 4 octets.
  std::optional<base::Spi> EspSpi() const;
  // The data as a number of 16 bits (INVALID_KE_PAYLOAD); nullopt when it has
  // another size.
  std::optional<uint16_t> DataU16() const;
  // The data of SIGNATURE_HASH_ALGORITHMS; an odd last octet is left out.
  std::vector<HashAlgorithm> HashAlgorithms() const;
};

[[nodiscard]] bool DecodeBody(base::ByteSpan body, NotifyPayload* out,
                              std::string* why);
void EncodeBody(const NotifyPayload& payload, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_NOTIFY_H_
