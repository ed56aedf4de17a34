// Agreeing on a CHILD_SA, whichever exchange carries it: IKE_AUTH or
// CREATE_CHILD_SA (RFC 7296 1.2, 1.3, 2.9, 2.17).
#ifndef ESPALIER_AGENT_IKE_CHILD_NEGOTIATION_H_
#define ESPALIER_AGENT_IKE_CHILD_NEGOTIATION_H_

#include <optional>
#include <variant>

#include "agent/ike/child_sa.h"
#include "agent/ike/ike_sa.h"
#include "agent/ike/proposal.h"
#include "agent/wire/payload.h"

namespace espalier::ike {

// More CHILD_SAs of one peer, draining ones included, are refused with
// NO_ADDITIONAL_SAS.
inline constexpr size_t kMaxChildrenPerPeer = 24;

struct NegotiatedChild {
  ChildPlan plan;  // without keys
  std::optional<crypto::Group> group;
  wire::SaPayload answer;  // the responder's, with our SPI
};

// Appends SA, TSi and TSr of the initiator, and the notifications that say
// what kind of CHILD_SA is asked for; `cpu` when it is one CPU's own.
void AppendChildOffer(const PeerConfig& config, base::Spi inbound, bool groups,
                      std::optional<uint32_t> cpu, wire::Payloads* payloads,
                      const wire::Payloads& between);

// The responder: chooses and narrows; NO_PROPOSAL_CHOSEN, TS_UNACCEPTABLE or
// NO_ADDITIONAL_SAS otherwise. `groups`: with a key exchange of the child's
// own (not in IKE_AUTH).
std::variant<NegotiatedChild, wire::NotifyType> AnswerChild(
    const IkeSa& sa, const wire::Payloads& request, base::Spi inbound,
    bool groups);

// TSi and TSr of the answer, and its notifications.
void AppendChildAnswer(const IkeSa& sa, const ChildPlan& plan,
                       const wire::Payloads& request, wire::Payloads* payloads);

// RFC 9611: which of our CPUs gets the CHILD_SA that `request` asks for beside
// the fallback one; nullopt: it asks for none. TS_MAX_QUEUE: no more of them.
// TEMPORARY_FAILURE: we ask for the last one ourselves.
struct CpuAnswer {
  std::optional<uint32_t> cpu;
  std::optional<wire::NotifyType> refusal;
};
CpuAnswer AnswerCpu(const IkeSa& sa, const wire::Payloads& request);
// The peer's half of an exchange that makes a CHILD_SA: it knows RFC 9611.
void NoteCpuSas(IkeSa& sa, const wire::Payloads& payloads);

// What all CHILD_SAs of this peer are.
inline base::IpsecProtocol ProtocolOf(const PeerConfig& config) {
  return config.child_proposals.front().protocol;
}

// The initiator: what the responder made of our offer; nullopt when it is no
// subset of it.
std::optional<NegotiatedChild> AcceptChildAnswer(const IkeSa& sa,
                                                 const wire::Payloads& response,
                                                 base::Spi inbound,
                                                 bool groups);

// For logs and metrics of a refused CHILD_SA.
void ReportChildRefused(const IkeSa& sa, wire::NotifyType type, bool by_us);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_CHILD_NEGOTIATION_H_
