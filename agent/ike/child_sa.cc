#include "agent/ike/child_sa.h"

#include <utility>

namespace espalier::ike {
namespace {

base::EspSa Common(const ChildPlan& plan, base::Reqid reqid,
                   const CoreConfig& config) {
  base::EspSa sa;
  sa.suite = plan.suite;
  sa.mode = plan.mode;
  sa.cpu = plan.cpu;
  sa.reqid = reqid;
  sa.local_selectors = plan.local;
  sa.remote_selectors = plan.remote;
  sa.limits = config.child_limits;
  return sa;
}

// RFC 7296 2.17: of each direction first encryption, then integrity; the
// initiator's direction is the one from initiator to responder.
void SetKeys(const ChildPlan& plan, bool initiators, base::EspSa* sa) {
  const ChildKeys& keys = plan.keys;
  sa->encryption_key = initiators ? keys.initiator_encryption.Clone()
                                  : keys.responder_encryption.Clone();
  sa->integrity_key = initiators ? keys.initiator_integrity.Clone()
                                 : keys.responder_integrity.Clone();
}

}  // namespace

ChildSaInfo InfoOf(const ChildSa& child) {
  ChildSaInfo info;
  info.id = child.id;
  info.inbound_spi = child.inbound_spi;
  info.outbound_spi = child.outbound_spi;
  info.suite = child.suite;
  info.encapsulated = child.encapsulated;
  info.mode = child.mode;
  info.cpu = child.cpu;
  info.established = child.established;
  info.rekey_at = child.rekey_at;
  info.local_selectors = child.local;
  info.remote_selectors = child.remote;
  switch (child.state) {
    case ChildSa::State::kInstalling:
    case ChildSa::State::kHeld:
    case ChildSa::State::kSwitching:
      info.state = "installing";
      break;
    case ChildSa::State::kUp:
      info.state = child.rekeying ? "rekeying" : "installed";
      break;
    case ChildSa::State::kRetired:
      info.state = "draining";
      break;
  }
  return info;
}

base::EspSa InboundSa(const ChildPlan& plan, base::Reqid reqid,
                      const CoreConfig& config) {
  base::EspSa sa = Common(plan, reqid, config);
  sa.direction = base::Direction::kInbound;
  sa.spi = plan.inbound_spi;
  sa.outer_source = plan.path.remote.address;
  sa.outer_destination = plan.path.local.address;
  if (plan.encapsulated) {
    sa.encapsulation = {.source_port = plan.path.remote.port,
                        .destination_port = plan.path.local.port};
  }
  sa.replay_window = config.replay_window;
  SetKeys(plan, !plan.initiated, &sa);
  return sa;
}

base::EspSa OutboundSa(const ChildPlan& plan, base::Reqid reqid,
                       const CoreConfig& config) {
  base::EspSa sa = Common(plan, reqid, config);
  sa.direction = base::Direction::kOutbound;
  sa.spi = plan.outbound_spi;
  sa.outer_source = plan.path.local.address;
  sa.outer_destination = plan.path.remote.address;
  if (plan.encapsulated) {
    sa.encapsulation = {.source_port = plan.path.local.port,
                        .destination_port = plan.path.remote.port};
  }
  sa.replay_window = 0;
  SetKeys(plan, plan.initiated, &sa);
  return sa;
}

}  // namespace espalier::ike
