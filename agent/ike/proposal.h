// Offering and choosing algorithms: SA payloads from and to configured
// proposals (RFC 7296 2.7, 3.3). What crypto/ does not list is never offered
// and never chosen.
#ifndef ESPALIER_AGENT_IKE_PROPOSAL_H_
#define ESPALIER_AGENT_IKE_PROPOSAL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/bytes.h"
#include "agent/base/security_association.h"
#include "agent/ike/config.h"
#include "agent/ike/key_derivation.h"
#include "agent/wire/sa_payload.h"

namespace espalier::ike {

// --- IKE_SA ---

// `spi`: empty in IKE_SA_INIT, 8 octets when an IKE_SA is rekeyed.
wire::SaPayload OfferIke(const std::vector<IkeProposal>& proposals,
                         base::ByteSpan spi);

struct ChosenIke {
  IkeSuite suite;
  wire::SaPayload answer;  // without SPI
  base::Bytes peer_spi;    // as offered
};
// Our order of preference decides, but the group of the initiator's KE payload
// (`ke_group`) is taken when it is acceptable at all: it saves a round trip.
// Compare the result's group with `ke_group`: when they differ, the answer is
// INVALID_KE_PAYLOAD. nullopt: NO_PROPOSAL_CHOSEN.
std::optional<ChosenIke> ChooseIke(const std::vector<IkeProposal>& ours,
                                   const wire::SaPayload& offer,
                                   uint16_t ke_group);

struct AcceptedIke {
  IkeSuite suite;
  base::Bytes peer_spi;
};
// The responder's answer: exactly one proposal, made of what we offered.
std::optional<AcceptedIke> AcceptIke(const std::vector<IkeProposal>& ours,
                                     const wire::SaPayload& answer);

// Whether `suite` is one of what `proposals` allow.
bool Allows(const std::vector<IkeProposal>& proposals, const IkeSuite& suite);

// --- CHILD_SA ---

// Without `groups` (in IKE_AUTH) no key exchange is offered.
wire::SaPayload OfferChild(const std::vector<ChildProposal>& proposals,
                           base::Spi spi, bool groups);

struct ChosenChild {
  base::EspSuite suite;
  std::optional<crypto::Group> group;
  base::Spi peer_spi;
  wire::SaPayload answer;  // needs our SPI: see SetSpi
};
// `ke_group`: that of the KE payload, 0 without one. With `groups` false (in
// IKE_AUTH), key exchange transforms are ignored.
std::optional<ChosenChild> ChooseChild(const std::vector<ChildProposal>& ours,
                                       const wire::SaPayload& offer,
                                       uint16_t ke_group, bool groups);

// The responder's answer; `group` must be the one of our KE payload.
std::optional<ChosenChild> AcceptChild(const std::vector<ChildProposal>& ours,
                                       const wire::SaPayload& answer,
                                       bool groups);

void SetSpi(wire::SaPayload* answer, base::Spi spi);
void SetSpi(wire::SaPayload* answer, uint64_t spi);

// --- both ---

// InvalidArgument names a combination that cannot be offered.
absl::Status Validate(const IkeProposal& proposal);
absl::Status Validate(const ChildProposal& proposal);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_PROPOSAL_H_
