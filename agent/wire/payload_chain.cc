#include "agent/wire/payload_chain.h"

#include "absl/strings/str_cat.h"

namespace espalier::wire {
namespace {

constexpr uint8_t kCriticalBit = 0x80;

template <typename T>
bool DecodeInto(base::ByteSpan bytes, Payload::Body* body, std::string* why) {
  return DecodeBody(bytes, &body->emplace<T>(), why);
}

// nullopt: of a type that nothing here knows.
std::optional<bool> DecodeKnown(PayloadType type, base::ByteSpan bytes,
                                Payload::Body* body, std::string* why) {
  switch (type) {
    case PayloadType::kSa:
      return DecodeInto<SaPayload>(bytes, body, why);
    case PayloadType::kKe:
      return DecodeInto<KePayload>(bytes, body, why);
    case PayloadType::kIdi:
    case PayloadType::kIdr:
      return DecodeInto<IdPayload>(bytes, body, why);
    case PayloadType::kCert:
      return DecodeInto<CertPayload>(bytes, body, why);
    case PayloadType::kCertreq:
      return DecodeInto<CertreqPayload>(bytes, body, why);
    case PayloadType::kAuth:
      return DecodeInto<AuthPayload>(bytes, body, why);
    case PayloadType::kNonce:
      return DecodeInto<NoncePayload>(bytes, body, why);
    case PayloadType::kNotify:
      return DecodeInto<NotifyPayload>(bytes, body, why);
    case PayloadType::kDelete:
      return DecodeInto<DeletePayload>(bytes, body, why);
    case PayloadType::kTsi:
    case PayloadType::kTsr:
      return DecodeInto<TsPayload>(bytes, body, why);
    case PayloadType::kVendorId:
      body->emplace<VendorIdPayload>().vendor_id.assign(bytes.begin(),
                                                        bytes.end());
      return true;
    case PayloadType::kCp:
    case PayloadType::kEap:
      body->emplace<OpaquePayload>().body.assign(bytes.begin(), bytes.end());
      return true;
    case PayloadType::kNone:
    case PayloadType::kEncrypted:
    case PayloadType::kEncryptedFragment:
      break;
  }
  return std::nullopt;
}

bool IsEncrypted(PayloadType type) {
  return type == PayloadType::kEncrypted ||
         type == PayloadType::kEncryptedFragment;
}

}  // namespace

Chain WalkChain(PayloadType first, base::ByteSpan bytes, bool outer) {
  Chain chain;
  auto fail = [&chain](ChainError error, std::string why) {
    chain.error = error;
    chain.why = std::move(why);
  };
  base::ByteReader reader(bytes);
  PayloadType type = first;
  size_t count = 0;
  while (type != PayloadType::kNone) {
    uint8_t next = 0, flags = 0;
    uint16_t length = 0;
    base::ByteSpan body;
    if (++count > kMaxPayloads) {
      fail(ChainError::kSyntax, "more payloads than are read");
      return chain;
    }
    if (!reader.ReadU8(&next) || !reader.ReadU8(&flags) ||
        !reader.ReadU16(&length) || length < kGenericHeaderSize ||
        !reader.ReadSpan(length - kGenericHeaderSize, &body)) {
      fail(ChainError::kSyntax, absl::StrCat(ToString(type), " cut short"));
      return chain;
    }
    if (IsEncrypted(type)) {
      if (!outer || !reader.empty()) {
        fail(ChainError::kSyntax,
             absl::StrCat(ToString(type), outer ? " is not last" : " inside"));
        return chain;
      }
      chain.encrypted_type = type;
      chain.first_inner = static_cast<PayloadType>(next);
      chain.encrypted_body = body;
      return chain;
    }
    Payload payload{.type = type, .body = {}};
    std::string why;
    const std::optional<bool> decoded =
        DecodeKnown(type, body, &payload.body, &why);
    if (!decoded.has_value()) {
      if ((flags & kCriticalBit) != 0) {
        chain.critical_type = type;
        fail(ChainError::kUnsupportedCritical,
             absl::StrCat("unsupported critical ", ToString(type)));
        return chain;
      }
    } else if (!*decoded) {
      fail(ChainError::kSyntax, absl::StrCat(ToString(type), ": ", why));
      return chain;
    } else {
      chain.payloads.push_back(std::move(payload));
    }
    type = static_cast<PayloadType>(next);
  }
  if (!reader.empty()) {
    fail(ChainError::kSyntax, "octets behind the last payload");
  }
  return chain;
}

}  // namespace espalier::wire
