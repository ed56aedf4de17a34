// The "error" result of the CNI specification, section 5.
#ifndef ESPALIER_CNI_ERROR_H_
#define ESPALIER_CNI_ERROR_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace espalier::cni {

// Codes below 100 are the specification's.
enum class ErrorCode : uint32_t {
  kIncompatibleVersion = 1,
  kUnsupportedField = 2,
  kUnknownContainer = 3,
  kInvalidEnvironment = 4,
  kIo = 5,
  kDecoding = 6,
  kInvalidNetworkConfig = 7,
  kInvalidNetworkNamespace = 8,  // as the reference library has it
  kTryAgainLater = 11,
  kNotAvailable = 50,
  kInternal = 100,
};

struct Error {
  uint32_t code = 0;
  std::string message;  // what failed, on what
  std::string details;  // why, and what to do

  Error(ErrorCode error_code, std::string text, std::string more = "")
      : code(static_cast<uint32_t>(error_code)),
        message(std::move(text)),
        details(std::move(more)) {}
  // What the agent decided.
  Error(uint32_t error_code, std::string text, std::string more)
      : code(error_code), message(std::move(text)), details(std::move(more)) {}
};

// A value, or why there is none.
template <typename T>
using Outcome = std::variant<T, Error>;

template <typename T>
const Error* ErrorOf(const Outcome<T>& outcome) {
  return std::get_if<Error>(&outcome);
}

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_ERROR_H_
