// One CHILD_SA: a pair of ESP SAs, as the IKE side of it remembers them.
#ifndef ESPALIER_AGENT_IKE_CHILD_SA_H_
#define ESPALIER_AGENT_IKE_CHILD_SA_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "agent/base/bytes.h"
#include "agent/base/clock.h"
#include "agent/base/security_association.h"
#include "agent/ike/action.h"
#include "agent/ike/config.h"
#include "agent/ike/key_derivation.h"
#include "agent/ike/traffic_selectors.h"
#include "agent/wire/iana.h"

namespace espalier::ike {

// What a negotiation came to, before anything is installed.
struct ChildPlan {
  bool initiated = false;  // we began the exchange
  base::Spi inbound_spi, outbound_spi;
  base::EspSuite suite;
  Path path;                  // outer addresses and, encapsulated, ports
  bool encapsulated = false;  // ESP in UDP
  base::SaMode mode = base::SaMode::kTunnel;
  std::optional<uint32_t> cpu;  // RFC 9611; nullopt: the fallback SA
  Selectors local, remote;
  ChildKeys keys;
  ChildSaId predecessor;  // that it rekeys; 0 for none
};

struct ChildSa {
  enum class State : uint8_t {
    kInstalling,  // inbound asked for
    kHeld,        // inbound stands; outbound waits until the peer has its own
    kSwitching,   // outbound asked for
    kUp,
    kRetired,  // deleted; what is under way may still come in until remove_at
  };
  ChildSaId id;
  IkeSaId owner;  // 0: its IKE_SA is gone, it stays until a successor works
  State state = State::kInstalling;
  bool initiated = false;
  bool encapsulated = false;
  base::SaMode mode = base::SaMode::kTunnel;
  std::optional<uint32_t> cpu;
  // The peer is known to send on it, or to have its inbound SA in place.
  bool confirmed = false;
  // Ours is, or soon will be, the exchange that rekeys or deletes it.
  bool rekeying = false;
  bool deleting = false;
  // Of two rekeys at once, the one that does not stand (RFC 7296 2.8.1): it
  // is never sent on.
  bool redundant = false;
  base::Spi inbound_spi, outbound_spi;
  base::EspSuite suite;
  base::IpAddress local_address, remote_address;
  ChildSaId predecessor;  // may be gone by now
  // The order in which outbound SAs were installed: the datapath sends on the
  // newest.
  uint32_t switch_order = 0;
  DatapathOpId outbound_op;
  base::Instant established;
  std::optional<base::Instant> rekey_at, expire_at, remove_at;
  std::optional<base::Instant> remove_outbound_at;
  Selectors local, remote;
  std::unique_ptr<base::EspSa> held_outbound;
  // The smaller nonce of the exchange that made it, while a simultaneous rekey
  // may have to be told apart by it (RFC 7296 2.8.1); else empty.
  base::Bytes lower_nonce;

  bool sends() const {
    return state == State::kSwitching || state == State::kUp;
  }
};

ChildSaInfo InfoOf(const ChildSa& child);

inline wire::ProtocolId ToWire(base::IpsecProtocol protocol) {
  return static_cast<wire::ProtocolId>(protocol);
}

// The two SAs of a plan.
base::EspSa InboundSa(const ChildPlan& plan, base::Reqid reqid,
                      const CoreConfig& config);
base::EspSa OutboundSa(const ChildPlan& plan, base::Reqid reqid,
                       const CoreConfig& config);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_CHILD_SA_H_
