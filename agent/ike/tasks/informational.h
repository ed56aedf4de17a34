// INFORMATIONAL exchanges (RFC 7296 1.4): Delete, liveness, and word of a
// failed authentication.
#ifndef ESPALIER_AGENT_IKE_TASKS_INFORMATIONAL_H_
#define ESPALIER_AGENT_IKE_TASKS_INFORMATIONAL_H_

#include <memory>

#include "agent/ike/context.h"
#include "agent/ike/tasks/task.h"

namespace espalier::ike {

// Deletes the IKE_SA with all its CHILD_SAs (1.4.1).
std::unique_ptr<Task> MakeDeleteIke();
// Deletes one CHILD_SA; nothing when it is already on its way out.
std::unique_ptr<Task> MakeDeleteChild(ChildSaId child);
// Deletes a CHILD_SA that the peer has and we could not make.
std::unique_ptr<Task> MakeDeleteSpi(base::IpsecProtocol protocol,
                                    InboundSpi spi);
// An empty request: is the peer alive (2.4)?
std::unique_ptr<Task> MakeLiveness();
// AUTHENTICATION_FAILED to a responder that failed to prove itself (2.21.2).
std::unique_ptr<Task> MakeAuthenticationFailed();

std::unique_ptr<Task> MakeInformationalResponder(const wire::Payloads& request);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TASKS_INFORMATIONAL_H_
