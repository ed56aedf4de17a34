#include "agent/wire/payload.h"

#include "agent/wire/payload_chain.h"

namespace espalier::wire {
namespace {

struct BodyEncoder {
  base::ByteWriter* writer;

  void operator()(const VendorIdPayload& payload) const {
    writer->WriteSpan(payload.vendor_id);
  }
  void operator()(const OpaquePayload& payload) const {
    writer->WriteSpan(payload.body);
  }
  template <typename T>
  void operator()(const T& payload) const {
    EncodeBody(payload, writer);
  }
};

}  // namespace

const NotifyPayload* FindNotify(const Payloads& payloads, NotifyType type) {
  for (const Payload& payload : payloads) {
    const auto* notify = std::get_if<NotifyPayload>(&payload.body);
    if (notify != nullptr && notify->type == type) return notify;
  }
  return nullptr;
}

const NotifyPayload* FindError(const Payloads& payloads) {
  for (const Payload& payload : payloads) {
    const auto* notify = std::get_if<NotifyPayload>(&payload.body);
    if (notify != nullptr && IsError(notify->type)) return notify;
  }
  return nullptr;
}

Decoded<Payloads> DecodeInner(PayloadType first, base::ByteSpan chain_bytes,
                              bool response) {
  Chain chain = WalkChain(first, chain_bytes, /*outer=*/false);
  if (!chain.error.has_value()) return std::move(chain.payloads);
  if (*chain.error == ChainError::kUnsupportedCritical && !response) {
    return Verdict::Notify(NotifyType::kUnsupportedCriticalPayload,
                           {static_cast<uint8_t>(chain.critical_type)},
                           std::move(chain.why));
  }
  return Verdict::CloseForSyntax(response, std::move(chain.why));
}

PayloadType EncodeChain(const Payloads& payloads, base::ByteWriter* writer) {
  for (size_t i = 0; i < payloads.size(); ++i) {
    const size_t start = writer->size();
    const bool last = i + 1 == payloads.size();
    writer->WriteU8(
        static_cast<uint8_t>(last ? PayloadType::kNone : payloads[i + 1].type));
    writer->WriteU8(0);
    const size_t length = writer->ReserveU16();
    std::visit(BodyEncoder{writer}, payloads[i].body);
    writer->PatchU16(length, static_cast<uint16_t>(writer->size() - start));
  }
  return payloads.empty() ? PayloadType::kNone : payloads.front().type;
}

}  // namespace espalier::wire
