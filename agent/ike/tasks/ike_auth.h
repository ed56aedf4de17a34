// IKE_AUTH (RFC 7296 1.2, 2.15, 2.21.2), both ends: who the other is, and the
// first CHILD_SA.
#ifndef ESPALIER_AGENT_IKE_TASKS_IKE_AUTH_H_
#define ESPALIER_AGENT_IKE_TASKS_IKE_AUTH_H_

#include <memory>

#include "agent/ike/tasks/task.h"

namespace espalier::ike {

std::unique_ptr<Task> MakeIkeAuthInitiator();
std::unique_ptr<Task> MakeIkeAuthResponder(const wire::Payloads& request);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TASKS_IKE_AUTH_H_
