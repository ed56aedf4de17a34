// How a pod's traffic to and from other nodes may travel (DESIGN 5).
#ifndef ESPALIER_AGENT_BASE_MODE_H_
#define ESPALIER_AGENT_BASE_MODE_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace espalier::base {

// Zero, what is not known, and what nobody has heard of are the strongest.
enum class Mode : uint8_t {
  kRequired = 0,   // ESP or drop
  kPreferred = 1,  // ESP or drop towards every node with an agent
  kDisabled = 2,   // plaintext where both ends are kDisabled
};

inline const char* ModeName(Mode mode) {
  switch (mode) {
    case Mode::kPreferred:
      return "preferred";
    case Mode::kDisabled:
      return "disabled";
    case Mode::kRequired:
      break;
  }
  return "required";
}

// nullopt for a word that is none of the three: to be taken as kRequired, and
// told to whoever wrote it.
inline std::optional<Mode> ParseMode(absl::string_view word) {
  for (const Mode mode : {Mode::kRequired, Mode::kPreferred, Mode::kDisabled}) {
    if (word == ModeName(mode)) return mode;
  }
  return std::nullopt;
}

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_MODE_H_
