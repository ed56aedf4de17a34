// A payload of any type, and the chain of them. RFC 7296 3.2, 2.5.
#ifndef ESPALIER_AGENT_WIRE_PAYLOAD_H_
#define ESPALIER_AGENT_WIRE_PAYLOAD_H_

#include <cstddef>
#include <variant>
#include <vector>

#include "agent/base/byte_writer.h"
#include "agent/base/bytes.h"
#include "agent/wire/auth_payload.h"
#include "agent/wire/cert_payload.h"
#include "agent/wire/delete_payload.h"
#include "agent/wire/iana.h"
#include "agent/wire/id_payload.h"
#include "agent/wire/ke_payload.h"
#include "agent/wire/nonce_payload.h"
#include "agent/wire/notify.h"
#include "agent/wire/opaque_payload.h"
#include "agent/wire/sa_payload.h"
#include "agent/wire/ts_payload.h"
#include "agent/wire/verdict.h"

namespace espalier::wire {

inline constexpr size_t kGenericHeaderSize = 4;
// More in one message are malformed, skipped ones included.
inline constexpr size_t kMaxPayloads = 100;

// `type` says which alternative `body` holds: IdPayload for kIdi and kIdr,
// TsPayload for kTsi and kTsr, OpaquePayload for kCp and kEap, else the struct
// whose kType it is.
struct Payload {
  using Body =
      std::variant<SaPayload, KePayload, IdPayload, CertPayload, CertreqPayload,
                   AuthPayload, NoncePayload, NotifyPayload, DeletePayload,
                   VendorIdPayload, TsPayload, OpaquePayload>;
  PayloadType type;
  Body body;

  // For those structs that belong to one type.
  template <typename T>
  static Payload Of(T body) {
    return {T::kType, std::move(body)};
  }
  friend bool operator==(const Payload&, const Payload&) = default;
};

using Payloads = std::vector<Payload>;

// The first of its type, or null; borrows from `payloads`. For types that two
// payloads share: Find<IdPayload>(payloads, PayloadType::kIdi).
template <typename T>
const T* Find(const Payloads& payloads, PayloadType type) {
  for (const Payload& payload : payloads) {
    if (payload.type == type) return std::get_if<T>(&payload.body);
  }
  return nullptr;
}
template <typename T>
const T* Find(const Payloads& payloads) {
  return Find<T>(payloads, T::kType);
}

// All of its type, in order.
template <typename T>
std::vector<const T*> FindAll(const Payloads& payloads) {
  std::vector<const T*> found;
  for (const Payload& payload : payloads) {
    if (const T* body = std::get_if<T>(&payload.body)) found.push_back(body);
  }
  return found;
}

const NotifyPayload* FindNotify(const Payloads& payloads, NotifyType type);
// The first notification of an error (below 16384), or null.
const NotifyPayload* FindError(const Payloads& payloads);

// Decodes a decrypted chain (the content of SK, padding removed, or of all SKF
// together), whose first type is the SK payload's next payload field. The
// message was authenticated: bad syntax closes the IKE_SA, an unsupported
// critical payload is answered (2.5); neither is answered in a `response`.
// Payloads of unknown type without the critical bit are skipped; the bit of
// known ones is ignored.
Decoded<Payloads> DecodeInner(PayloadType first, base::ByteSpan chain,
                              bool response);

// Appends the chain; returns the type of its first payload (kNone for none).
PayloadType EncodeChain(const Payloads& payloads, base::ByteWriter* writer);

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_PAYLOAD_H_
