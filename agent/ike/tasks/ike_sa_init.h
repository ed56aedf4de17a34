// IKE_SA_INIT (RFC 7296 1.2), both ends: algorithms, nonces, key exchange.
#ifndef ESPALIER_AGENT_IKE_TASKS_IKE_SA_INIT_H_
#define ESPALIER_AGENT_IKE_TASKS_IKE_SA_INIT_H_

#include <memory>
#include <optional>
#include <variant>

#include "agent/ike/authentication.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/proposal.h"
#include "agent/ike/tasks/task.h"

namespace espalier::ike {

class InitInitiator : public Task {
 public:
  InitInitiator() : Task(wire::ExchangeKind::kIkeSaInit) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleClearResponse(IkeSa& sa, const wire::Message& message,
                               base::ByteSpan raw) override;
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) override;

 private:
  // The key exchange key is being made; `again` after INVALID_KE_PAYLOAD.
  struct Generating {
    bool again;
  };
  struct Asked {
    crypto::KeyExchangeGenerated key;
    base::Bytes request;
  };
  // The shared secret is being computed.
  struct Agreed {
    IkeSuite suite;
    AuthMaterial material;
  };

  void Ask(IkeSa& sa, crypto::KeyExchangeGenerated key, bool again);
  Progress Refused(IkeSa& sa, const wire::Payloads& payloads);
  Progress Accept(IkeSa& sa, const wire::Message& message, base::ByteSpan raw);

  std::variant<Generating, Asked, Agreed> state_;
  crypto::Group group_ = crypto::Group::kX25519;
  base::Bytes nonce_;
  base::Bytes cookie_;
  // Answers that only asked for another request; more than a few are a game.
  int rounds_ = 0;
};

// A request that init_gate.h let through.
class InitResponder : public Task {
 public:
  struct Request {
    base::Bytes raw;
    base::Bytes nonce;
    base::Bytes peer_public;
    ChosenIke chosen;
    std::vector<uint16_t> peer_hashes;
    bool force_encapsulation = false;
  };
  explicit InitResponder(Request request)
      : Task(wire::ExchangeKind::kIkeSaInit), request_(std::move(request)) {}
  Progress Start(IkeSa& sa) override;
  Progress HandleCrypto(IkeSa& sa, crypto::Result result) override;

 private:
  Progress Respond(IkeSa& sa, crypto::KeyExchangeGenerated key);

  Request request_;
  bool responded_ = false;
};

// Both ends' notifications of capabilities and of NAT detection, which
// IKE_SA_INIT carries in either direction.
void AppendInitNotifications(const SpiPair& spis, const Path& path, bool forced,
                             Context& ctx, wire::Payloads* payloads);
NatVerdict NatOf(const SpiPair& spis, const Path& path,
                 const wire::Payloads& payloads);
// Of SIGNATURE_HASH_ALGORITHMS (RFC 7427 4).
std::vector<uint16_t> HashesOf(const wire::Payloads& payloads);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TASKS_IKE_SA_INIT_H_
