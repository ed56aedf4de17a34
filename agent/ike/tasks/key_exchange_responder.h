// The responder's half of a CREATE_CHILD_SA with a key exchange of its own,
// whatever it makes: a CHILD_SA or an IKE_SA (RFC 7296 1.3).
#ifndef ESPALIER_AGENT_IKE_TASKS_KEY_EXCHANGE_RESPONDER_H_
#define ESPALIER_AGENT_IKE_TASKS_KEY_EXCHANGE_RESPONDER_H_

#include <utility>

#include "agent/crypto/algorithms.h"
#include "agent/ike/tasks/task.h"

namespace espalier::ike {

class KeyExchangeResponder : public Task {
 public:
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) final;

 protected:
  KeyExchangeResponder(wire::ExchangeKind kind, wire::Payloads request)
      : Task(kind), request_(std::move(request)) {}

  // Answers with `notify` alone.
  Progress Refuse(IkeSa& sa, wire::NotifyPayload notify);
  // Ends in HaveSecret, or refuses: a KE payload of another group with
  // INVALID_KE_PAYLOAD, one that is no value of this group, or no job's result.
  Progress BeginKeyExchange(IkeSa& sa, crypto::Group group);
  virtual Progress HaveSecret(IkeSa& sa, base::ByteSpan secret) = 0;

  const wire::Payloads& request() const { return request_; }
  const base::Bytes& peer_nonce() const;
  // Ours, once there is a secret.
  wire::Payload TakeKe();

 private:
  const wire::Payloads request_;
  crypto::Group group_{};
  base::Bytes public_value_;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TASKS_KEY_EXCHANGE_RESPONDER_H_
