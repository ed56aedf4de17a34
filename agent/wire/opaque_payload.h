// Payloads that are carried, not read: Vendor ID (RFC 7296 3.12), and those
// that Espalier knows without using them (CP 3.15, EAP 3.16).
#ifndef ESPALIER_AGENT_WIRE_OPAQUE_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_OPAQUE_PAYLOAD_H_

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct VendorIdPayload {
  static constexpr PayloadType kType = PayloadType::kVendorId;
  base::Bytes vendor_id;
  friend bool operator==(const VendorIdPayload&,
                         const VendorIdPayload&) = default;
};

struct OpaquePayload {
  base::Bytes body;
  friend bool operator==(const OpaquePayload&, const OpaquePayload&) = default;
};

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_OPAQUE_PAYLOAD_H_
