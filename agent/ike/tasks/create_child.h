// CREATE_CHILD_SA for a CHILD_SA: an additional one (RFC 7296 1.3.1) or one
// that replaces another (1.3.3, 2.8).
#ifndef ESPALIER_AGENT_IKE_TASKS_CREATE_CHILD_H_
#define ESPALIER_AGENT_IKE_TASKS_CREATE_CHILD_H_

#include <memory>

#include "agent/ike/tasks/task.h"

namespace espalier::ike {

// `rekeyed`: the CHILD_SA to replace; 0 for an additional one.
std::unique_ptr<Task> MakeCreateChild(ChildSaId rekeyed);
// One more, for the traffic of one CPU (RFC 9611).
std::unique_ptr<Task> MakeCreateCpuChild(uint32_t cpu);
// `rekeyed`: the one that the request names, already found; else 0.
std::unique_ptr<Task> MakeCreateChildResponder(wire::ExchangeKind kind,
                                               const wire::Payloads& request,
                                               ChildSaId rekeyed);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TASKS_CREATE_CHILD_H_
