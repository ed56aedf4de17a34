// ESPALIER_RETURN_IF_ERROR(expr) and ESPALIER_ASSIGN_OR_RETURN(lhs, expr).
#ifndef ESPALIER_AGENT_BASE_STATUS_MACROS_H_
#define ESPALIER_AGENT_BASE_STATUS_MACROS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#define ESPALIER_RETURN_IF_ERROR(expr)                 \
  do {                                                 \
    absl::Status espalier_status = (expr);             \
    if (!espalier_status.ok()) return espalier_status; \
  } while (false)

#define ESPALIER_CONCAT_INNER(a, b) a##b
#define ESPALIER_CONCAT(a, b) ESPALIER_CONCAT_INNER(a, b)
#define ESPALIER_ASSIGN_OR_RETURN(lhs, expr)                                   \
  ESPALIER_ASSIGN_OR_RETURN_IMPL(ESPALIER_CONCAT(espalier_or_, __LINE__), lhs, \
                                 expr)
#define ESPALIER_ASSIGN_OR_RETURN_IMPL(or_name, lhs, expr) \
  auto or_name = (expr);                                   \
  if (!or_name.ok()) return std::move(or_name).status();   \
  lhs = *std::move(or_name)

namespace espalier::base {

// The same code, with "context: " before the message; OK stays OK.
inline absl::Status Annotate(const absl::Status& status,
                             absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(context, ": ", status.message()));
}

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_STATUS_MACROS_H_
