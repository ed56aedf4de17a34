#include "agent/ike/tasks/key_exchange_responder.h"

#include "agent/crypto/key_exchange.h"
#include "agent/ike/ike_sa.h"

namespace espalier::ike {

using wire::NotifyPayload;
using wire::NotifyType;
using wire::Payload;

Task::Progress KeyExchangeResponder::Refuse(IkeSa& sa, NotifyPayload notify) {
  sa.SendResponse(wire::ExchangeType::kCreateChildSa,
                  {Payload::Of(std::move(notify))});
  return Progress::kDone;
}

Task::Progress KeyExchangeResponder::BeginKeyExchange(IkeSa& sa,
                                                      crypto::Group group) {
  const auto* ke = wire::Find<wire::KePayload>(request_);
  const uint16_t wanted = static_cast<uint16_t>(group);
  if (ke == nullptr || ke->group != wanted) {
    return Refuse(sa, NotifyPayload::InvalidKe(wanted));
  }
  if (ke->data.size() != crypto::PublicValueSize(group)) {
    return Refuse(sa, NotifyPayload::Of(NotifyType::kInvalidSyntax));
  }
  group_ = group;
  Await(sa.RunCrypto(crypto::GenerateKeyExchange{group}));
  return Progress::kRunning;
}

Task::Progress KeyExchangeResponder::HandleCrypto(IkeSa& sa,
                                                  crypto::Result result) {
  if (!result.ok()) {
    // A public value that is none is the peer's fault, anything else ours.
    const bool invalid = absl::IsInvalidArgument(result.status());
    return Refuse(sa,
                  NotifyPayload::Of(invalid ? NotifyType::kInvalidSyntax
                                            : NotifyType::kTemporaryFailure));
  }
  if (auto* key = std::get_if<crypto::KeyExchangeGenerated>(&*result)) {
    public_value_ = std::move(key->public_value);
    Await(sa.RunCrypto(crypto::ComputeSharedSecret{
        .key = std::move(key->key),
        .peer_public = wire::Find<wire::KePayload>(request_)->data}));
    return Progress::kRunning;
  }
  if (auto* secret = std::get_if<crypto::SharedSecret>(&*result)) {
    return HaveSecret(sa, secret->secret.span());
  }
  return Refuse(sa, NotifyPayload::Of(NotifyType::kTemporaryFailure));
}

const base::Bytes& KeyExchangeResponder::peer_nonce() const {
  return wire::Find<wire::NoncePayload>(request_)->nonce;
}

wire::Payload KeyExchangeResponder::TakeKe() {
  return Payload::Of(wire::KePayload{.group = static_cast<uint16_t>(group_),
                                     .data = std::move(public_value_)});
}

}  // namespace espalier::ike
