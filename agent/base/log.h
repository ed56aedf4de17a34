// Structured logging: one JSON object a line on stderr. No secret is ever a
// field: SecretBytes does not convert to anything a field accepts.
#ifndef ESPALIER_AGENT_BASE_LOG_H_
#define ESPALIER_AGENT_BASE_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace espalier::base {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

// One key with its value, already rendered as a JSON kind.
struct LogField {
  std::string key;
  std::variant<std::string, int64_t, uint64_t, double, bool> value;

  LogField(absl::string_view k, const char* v)
      : key(k), value(std::string(v)) {}
  LogField(absl::string_view k, std::string v) : key(k), value(std::move(v)) {}
  LogField(absl::string_view k, absl::string_view v)
      : key(k), value(std::string(v)) {}
  LogField(absl::string_view k, const absl::Status& v)
      : key(k), value(v.ToString()) {}
  LogField(absl::string_view k, bool v) : key(k), value(v) {}
  LogField(absl::string_view k, double v) : key(k), value(v) {}
  template <typename T>
    requires(std::is_integral_v<T> && !std::is_same_v<T, bool>)
  LogField(absl::string_view k, T v) : key(k) {
    if constexpr (std::is_signed_v<T>) {
      value = static_cast<int64_t>(v);
    } else {
      value = static_cast<uint64_t>(v);
    }
  }
};

// Thread-safe. `event` is a short fixed phrase ("peer up"); what varies goes
// into fields. Lines carry "time" (RFC 3339), "level" and "event".
void Log(LogLevel level, absl::string_view event,
         std::initializer_list<LogField> fields = {});

// Lines below are dropped. Default kInfo.
void SetLogLevel(LogLevel level);
// "debug", "info", "warning" or "error"; anything else is false.
bool ParseLogLevel(absl::string_view text, LogLevel* level);

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_LOG_H_
