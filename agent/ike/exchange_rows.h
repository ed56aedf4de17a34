// Which request an IKE_SA takes in which stage, and what works on it: one row
// each, so that the whole of it can be read in one place.
#ifndef ESPALIER_AGENT_IKE_EXCHANGE_ROWS_H_
#define ESPALIER_AGENT_IKE_EXCHANGE_ROWS_H_

#include <memory>
#include <optional>

#include "agent/ike/ike_sa.h"
#include "agent/ike/tasks/task.h"
#include "agent/wire/exchange_rules.h"

namespace espalier::ike {

// A task for the request, or the notification that refuses it.
struct RowOutcome {
  std::unique_ptr<Task> task;
  std::optional<wire::NotifyPayload> refusal;
};

RowOutcome AnswerByRow(IkeSa& sa, wire::ExchangeKind kind,
                       const wire::Payloads& payloads);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_EXCHANGE_ROWS_H_
