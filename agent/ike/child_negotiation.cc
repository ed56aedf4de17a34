#include "agent/ike/child_negotiation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/byte_writer.h"

namespace espalier::ike {
namespace {

using wire::NotifyType;
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

bool Has(const wire::Payloads& payloads, NotifyType type) {
  return wire::FindNotify(payloads, type) != nullptr;
}

// RFC 9611 5.1: the data is for the sender alone; our CPU's number.
void AppendResourceInfo(std::optional<uint32_t> cpu, wire::Payloads* payloads) {
  base::ByteWriter writer;
  if (cpu) writer.WriteU32(*cpu);
  payloads->push_back(Payload::Of(
      wire::NotifyPayload::Of(NotifyType::kSaResourceInfo, writer.Take())));
}

bool OnlyHost(const Selectors& selectors, const base::IpAddress& address) {
  return std::all_of(selectors.begin(), selectors.end(), [&](const auto& ts) {
    return ts.first == address && ts.last == address;
  });
}

// Whether the plan can be carried out in the mode and with the protocol that it
// has: what transport mode protects is what the two ends themselves send, and
// AH covers the outer addresses. Neither is given where a NAT changes those
// (RFC 7296 2.23.1 is not implemented).
bool Feasible(const IkeSa& sa, const ChildPlan& plan) {
  if (plan.suite.ah() && sa.encapsulates()) return false;
  return plan.mode == base::SaMode::kTunnel ||
         (OnlyHost(plan.local, plan.path.local.address) &&
          OnlyHost(plan.remote, plan.path.remote.address));
}

}  // namespace

void AppendChildOffer(const PeerConfig& config, base::Spi inbound, bool groups,
                      std::optional<uint32_t> cpu, wire::Payloads* payloads,
                      const wire::Payloads& between) {
  if (config.transport_mode) {
    payloads->push_back(
        Payload::Of(wire::NotifyPayload::Of(NotifyType::kUseTransportMode)));
  }
  if (config.max_cpu_sas > 0) AppendResourceInfo(cpu, payloads);
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
  if (sa.peer()->tunnels.all().size() >=
      kMaxChildrenPerPeer + size_t{3} * config.max_cpu_sas) {
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
  // RFC 7296 1.3.1: who is not configured for it is answered without the
  // notification, and gets tunnel mode.
  if (config.transport_mode) {
    if (!Has(request, NotifyType::kUseTransportMode)) {
      return wire::NotifyType::kNoProposalChosen;
    }
    child.plan.mode = base::SaMode::kTransport;
  }
  if (!Feasible(sa, child.plan)) return wire::NotifyType::kNoProposalChosen;
  child.answer = std::move(chosen->answer);
  SetSpi(&child.answer, inbound);
  return child;
}

CpuAnswer AnswerCpu(const IkeSa& sa, const wire::Payloads& request) {
  // Without a fallback SA, this will be it.
  if (!Has(request, NotifyType::kSaResourceInfo) ||
      !sa.peer()->tunnels.HasLive(sa.id())) {
    return {};
  }
  const uint32_t limit = sa.peer()->config->max_cpu_sas;
  bool collides = false;
  for (uint32_t cpu = 0; cpu < limit; ++cpu) {
    if (sa.peer()->tunnels.HasLive(sa.id(), cpu)) continue;
    const bool asked = sa.own_task() && sa.current() &&
                       sa.current()->kind == Wish::Kind::kCreateCpuChild &&
                       sa.current()->cpu == cpu;
    if (!asked) return {.cpu = cpu};
    collides = true;
  }
  // Both ends ask for the last place: that it is taken would end it for both.
  return {.refusal = collides ? NotifyType::kTemporaryFailure
                              : NotifyType::kTsMaxQueue};
}

void NoteCpuSas(IkeSa& sa, const wire::Payloads& payloads) {
  if (sa.peer()->config->max_cpu_sas > 0 &&
      Has(payloads, NotifyType::kSaResourceInfo)) {
    sa.cpu_sas = true;
  }
}

void AppendChildAnswer(const IkeSa& sa, const ChildPlan& plan,
                       const wire::Payloads& request,
                       wire::Payloads* payloads) {
  if (plan.mode == base::SaMode::kTransport) {
    payloads->push_back(
        Payload::Of(wire::NotifyPayload::Of(NotifyType::kUseTransportMode)));
  }
  if (sa.peer()->config->max_cpu_sas > 0 &&
      Has(request, NotifyType::kSaResourceInfo)) {
    AppendResourceInfo(plan.cpu, payloads);
  }
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
  // RFC 7296 1.3.1: tunnel mode in the place of transport mode is a CHILD_SA
  // that has to be deleted, where only transport mode is wanted.
  if (Has(response, NotifyType::kUseTransportMode) != config.transport_mode) {
    return std::nullopt;
  }
  if (config.transport_mode) child.plan.mode = base::SaMode::kTransport;
  if (!Feasible(sa, child.plan)) return std::nullopt;
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
