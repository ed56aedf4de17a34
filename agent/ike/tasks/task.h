// One exchange, from one end: what it needs, sends, checks and changes.
#ifndef ESPALIER_AGENT_IKE_TASKS_TASK_H_
#define ESPALIER_AGENT_IKE_TASKS_TASK_H_

#include <optional>

#include "absl/status/status.h"
#include "agent/crypto/job.h"
#include "agent/ike/action.h"
#include "agent/wire/exchange_rules.h"
#include "agent/wire/message.h"

namespace espalier::ike {

class IkeSa;

// An IKE_SA has at most one task for an exchange of its own, and one for the
// peer's (a window of one each way). Between its steps a task waits for a
// crypto job, a datapath operation or the response; each may fail, and each
// that never comes is reported as DeadlineExceeded.
class Task {
 public:
  enum class Progress { kRunning, kDone };

  explicit Task(wire::ExchangeKind kind) : kind_(kind) {}
  virtual ~Task() = default;

  wire::ExchangeKind kind() const { return kind_; }

  // First step. Exchanges of ours send their request when they can; those of
  // the peer's were constructed with it.
  virtual Progress Start(IkeSa& sa) = 0;
  // The response to our request, decrypted and checked for its payloads.
  virtual Progress HandleResponse(IkeSa& sa, const wire::Payloads& payloads);
  // IKE_SA_INIT has no encrypted part; `raw` is the whole message.
  virtual Progress HandleClearResponse(IkeSa& sa, const wire::Message& message,
                                       base::ByteSpan raw);
  virtual Progress HandleCrypto(IkeSa& sa, crypto::Result result);
  virtual Progress HandleDatapath(IkeSa& sa, const absl::Status& status);

  bool Awaits(CryptoJobId job) const { return job_ == job; }
  bool Awaits(DatapathOpId op) const { return op_ == op; }
  bool waiting() const { return job_ || op_; }
  // What it waited for has come, or never will.
  void StopWaiting() {
    job_.reset();
    op_.reset();
  }
  bool waits_for_crypto() const { return job_.has_value(); }

 protected:
  void Await(CryptoJobId job) { job_ = job; }
  void Await(DatapathOpId op) { op_ = op; }

 private:
  const wire::ExchangeKind kind_;
  std::optional<CryptoJobId> job_;
  std::optional<DatapathOpId> op_;
};

inline Task::Progress Task::HandleResponse(IkeSa&, const wire::Payloads&) {
  return Progress::kDone;
}
inline Task::Progress Task::HandleClearResponse(IkeSa&, const wire::Message&,
                                                base::ByteSpan) {
  return Progress::kRunning;
}
inline Task::Progress Task::HandleCrypto(IkeSa&, crypto::Result) {
  return Progress::kDone;
}
inline Task::Progress Task::HandleDatapath(IkeSa&, const absl::Status&) {
  return Progress::kDone;
}

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_TASKS_TASK_H_
