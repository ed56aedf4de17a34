// CREATE_CHILD_SA for the IKE_SA itself (RFC 7296 1.3.2, 2.8, 2.18): a new
// IKE_SA takes over the CHILD_SAs, and the old one is deleted.
#ifndef ESPALIER_AGENT_IKE_TASKS_REKEY_IKE_H_
#define ESPALIER_AGENT_IKE_TASKS_REKEY_IKE_H_

#include <memory>

#include "agent/ike/tasks/task.h"

namespace espalier::ike {

std::unique_ptr<Task> MakeRekeyIke();
std::unique_ptr<Task> MakeRekeyIkeResponder(const wire::Payloads& request);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TASKS_REKEY_IKE_H_
