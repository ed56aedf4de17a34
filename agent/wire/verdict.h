// What a message that cannot be accepted deserves. What a peer does is not a
// failure of ours, so decoders give a verdict where others give a Status.
// RFC 7296 2.5, 2.21, 3.10.1.
#ifndef ESPALIER_AGENT_WIRE_VERDICT_H_
#define ESPALIER_AGENT_WIRE_VERDICT_H_

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "agent/base/bytes.h"
#include "agent/wire/iana.h"

namespace espalier::wire {

struct Verdict {
  enum class Disposition : uint8_t {
    // As if it had never come: no answer, no change of state. All that is
    // malformed and not authenticated, or every forger could end an IKE_SA.
    kDrop,
    // Answer the request with `notify`; nothing else changes.
    kNotify,
    // End the IKE_SA (RFC 7296 2.21.3); when `notify` is set, the message was
    // a request and gets it as its answer first.
    kClose,
  };

  Disposition disposition = Disposition::kDrop;
  // What to answer, with the data that its type asks for.
  std::optional<NotifyType> notify;
  base::Bytes notify_data;
  std::string reason;  // for logs: what was wrong, and in which payload

  static Verdict Drop(std::string reason);
  static Verdict Notify(NotifyType type, base::Bytes data, std::string reason);
  // INVALID_SYNTAX of an authenticated message; no notification answers a
  // response.
  static Verdict CloseForSyntax(bool response, std::string reason);
};

// A value, or the verdict on what should have been one.
template <typename T>
class [[nodiscard]] Decoded {
 public:
  Decoded(T value) : state_(std::move(value)) {}            // NOLINT
  Decoded(Verdict verdict) : state_(std::move(verdict)) {}  // NOLINT

  bool ok() const { return std::holds_alternative<T>(state_); }
  // Only when ok().
  const T& value() const& { return *std::get_if<T>(&state_); }
  T& value() & { return *std::get_if<T>(&state_); }
  T&& value() && { return std::move(*std::get_if<T>(&state_)); }
  const T& operator*() const& { return value(); }
  T& operator*() & { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  const T* operator->() const { return std::get_if<T>(&state_); }
  T* operator->() { return std::get_if<T>(&state_); }
  // Only when !ok().
  const Verdict& verdict() const { return *std::get_if<Verdict>(&state_); }

 private:
  std::variant<T, Verdict> state_;
};

}  // namespace espalier::wire

#endif  // ESPALIER_AGENT_WIRE_VERDICT_H_
