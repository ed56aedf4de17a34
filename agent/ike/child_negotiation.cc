#include "agent/ike/child_negotiation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::ike {
namespace {

using wire::Payload;
using wire::PayloadType;

Payload Ts(PayloadType type, const Selectors& selectors) {
  return {type, wire::TsPayload{.selectors = selectors}};
}

// Whether some packet could match: both ends have addresses of one family.
bool ShareFamily(const Selectors& local, const Selectors& remote) {
  return std::any_of(local.begin(), local.end(), [&](const auto& a) {
    return std::any_of(remote.begin(), remote.end(), [&](const auto& b) {
      return a.first.family() == b.first.family();
    });
  });
}

uint16_t KeGroup(const wire::Payloads& payloads) {
  const auto* ke = wire::Find<wire::KePayload>(payloads);
  return ke == nullptr ? 0 : ke->group;
}

void FillPath(const IkeSa& sa, ChildPlan* plan) {
  plan->path = sa.path();
  plan->encapsulated = sa.encapsulates();
}

}  // namespace

void AppendChildOffer(const PeerConfig& config, base::Spi inbound, bool groups,
                      wire::Payloads* payloads, const wire::Payloads& between) {
  payloads->push_back(
      Payload::Of(OfferChild(config.child_proposals, inbound, groups)));
  payloads->insert(payloads->end(), between.begin(), between.end());
  payloads->push_back(Ts(PayloadType::kTsi, config.local_selectors));
  payloads->push_back(Ts(PayloadType::kTsr, config.remote_selectors));
}

std::variant<NegotiatedChild, wire::NotifyType> AnswerChild(
    const IkeSa& sa, const wire::Payloads& request, base::Spi inbound,
    bool groups) {
  const PeerConfig& config = *sa.peer()->config;
  if (sa.peer()->tunnels.all().size() >= kMaxChildrenPerPeer) {
    return wire::NotifyType::kNoAdditionalSas;
  }
  const auto* offer = wire::Find<wire::SaPayload>(request);
  const auto* tsi = wire::Find<wire::TsPayload>(request, PayloadType::kTsi);
  const auto* tsr = wire::Find<wire::TsPayload>(request, PayloadType::kTsr);
  if (offer == nullptr || tsi == nullptr || tsr == nullptr) {
    return wire::NotifyType::kNoProposalChosen;
  }
  std::optional<ChosenChild> chosen =
      ChooseChild(config.child_proposals, *offer, KeGroup(request), groups);
  if (!chosen) return wire::NotifyType::kNoProposalChosen;
  NegotiatedChild child;
  child.group = chosen->group;
  child.plan.inbound_spi = inbound;
  child.plan.outbound_spi = chosen->peer_spi;
  child.plan.suite = chosen->suite;
  child.plan.remote = Narrow(tsi->selectors, config.remote_selectors);
  child.plan.local = Narrow(tsr->selectors, config.local_selectors);
  if (!ShareFamily(child.plan.local, child.plan.remote)) {
    return wire::NotifyType::kTsUnacceptable;
  }
  FillPath(sa, &child.plan);
  child.answer = std::move(chosen->answer);
  SetSpi(&child.answer, inbound);
  return child;
}

void AppendSelectors(const ChildPlan& plan, wire::Payloads* payloads) {
  // Only the responder answers: TSi is the peer's side.
  payloads->push_back(Ts(PayloadType::kTsi, plan.remote));
  payloads->push_back(Ts(PayloadType::kTsr, plan.local));
}

std::optional<NegotiatedChild> AcceptChildAnswer(const IkeSa& sa,
                                                 const wire::Payloads& response,
                                                 base::Spi inbound,
                                                 bool groups) {
  const PeerConfig& config = *sa.peer()->config;
  const auto* answer = wire::Find<wire::SaPayload>(response);
  const auto* tsi = wire::Find<wire::TsPayload>(response, PayloadType::kTsi);
  const auto* tsr = wire::Find<wire::TsPayload>(response, PayloadType::kTsr);
  if (answer == nullptr || tsi == nullptr || tsr == nullptr) {
    return std::nullopt;
  }
  const std::optional<ChosenChild> chosen =
      AcceptChild(config.child_proposals, *answer, groups);
  if (!chosen) return std::nullopt;
  if (!tsi->unusable.empty() || !tsr->unusable.empty() ||
      !IsNarrowing(tsi->selectors, config.local_selectors) ||
      !IsNarrowing(tsr->selectors, config.remote_selectors)) {
    return std::nullopt;
  }
  NegotiatedChild child;
  child.group = chosen->group;
  child.plan.initiated = true;
  child.plan.inbound_spi = inbound;
  child.plan.outbound_spi = chosen->peer_spi;
  child.plan.suite = chosen->suite;
  child.plan.local = tsi->selectors;
  child.plan.remote = tsr->selectors;
  FillPath(sa, &child.plan);
  return child;
}

void ReportChildRefused(const IkeSa& sa, wire::NotifyType type, bool by_us) {
  Event::Kind kind = Event::Kind::kProtocolError;
  if (type == wire::NotifyType::kNoProposalChosen) {
    kind = Event::Kind::kNoProposalChosen;
  } else if (type == wire::NotifyType::kTsUnacceptable) {
    kind = Event::Kind::kTsUnacceptable;
  }
  sa.ctx().Report(
      kind, sa.peer_id(), sa.id(), {},
      absl::StrCat("CHILD_SA refused ", by_us ? "by us" : "by the peer",
                   " with ", wire::ToString(type)));
}

}  // namespace espalier::ike
