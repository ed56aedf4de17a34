// When both ends change the same thing at once (RFC 7296 2.8.1, 2.25).
#ifndef ESPALIER_AGENT_IKE_COLLISIONS_H_
#define ESPALIER_AGENT_IKE_COLLISIONS_H_

#include <optional>

#include "agent/ike/ike_sa.h"
#include "agent/wire/exchange_rules.h"

namespace espalier::ike {

// What a request of CREATE_CHILD_SA is refused with because of what this end
// is doing; nullopt: it is worked on. For kRekeyChildSa, `*rekeyed` is then
// the CHILD_SA that it names.
std::optional<wire::NotifyPayload> Collision(IkeSa& sa, wire::ExchangeKind kind,
                                             const wire::Payloads& request,
                                             ChildSaId* rekeyed);

// Whether the peer has deleted `child` while it was being made here.
bool DeletedEarly(const IkeSa& sa, const ChildSa& child);

// Our rekey of `old` made `child`. If the peer's made another one of the same
// old CHILD_SA, the one whose exchange had the lowest of the four nonces is
// redundant: it never carries traffic of ours, and who made it deletes it
// (2.8.1).
void SettleChildCollision(IkeSa& sa, ChildSa& child, ChildSaId old,
                          const base::Bytes& lower_nonce);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_COLLISIONS_H_
