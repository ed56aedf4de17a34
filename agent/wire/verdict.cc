#include "agent/wire/verdict.h"

namespace espalier::wire {

Verdict Verdict::Drop(std::string reason) {
  return {.disposition = Disposition::kDrop,
          .notify = std::nullopt,
          .notify_data = {},
          .reason = std::move(reason)};
}

Verdict Verdict::Notify(NotifyType type, base::Bytes data, std::string reason) {
  return {.disposition = Disposition::kNotify,
          .notify = type,
          .notify_data = std::move(data),
          .reason = std::move(reason)};
}

Verdict Verdict::CloseForSyntax(bool response, std::string reason) {
  Verdict verdict = {.disposition = Disposition::kClose,
                     .notify = std::nullopt,
                     .notify_data = {},
                     .reason = std::move(reason)};
  if (!response) verdict.notify = NotifyType::kInvalidSyntax;
  return verdict;
}

}  // namespace espalier::wire
