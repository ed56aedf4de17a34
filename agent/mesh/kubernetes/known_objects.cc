#include "agent/mesh/kubernetes/known_objects.h"

#include <optional>

#include "agent/base/mode.h"
#include "agent/base/pod_modes.h"
#include "agent/mesh/kubernetes/compose.h"

namespace espalier::mesh {
namespace {

using Annotations = std::map<std::string, std::string>;

std::optional<std::string> Word(const Annotations& annotations,
                                const char* key) {
  const auto found = annotations.find(key);
  if (found == annotations.end()) return std::nullopt;
  return found->second;
}

// A word that nobody knows is `required`.
base::Mode ModeOf(const std::string& word) {
  return base::ParseMode(word).value_or(base::Mode::kRequired);
}

}  // namespace

Annotations Strengthened(const Annotations& known, const Annotations& older) {
  Annotations result = known;
  if (const auto asked = Word(older, kEncryptionAnnotation)) {
    const auto now = Word(known, kEncryptionAnnotation);
    const base::Mode mode = ModeOf(*asked);
    // Without a word the cluster's default holds, which `required` alone is
    // sure not to be weaker than.
    const bool stronger =
        now ? mode != ModeOf(*now) && base::Stronger(mode, ModeOf(*now)) == mode
            : mode == base::Mode::kRequired;
    if (stronger) result[kEncryptionAnnotation] = *asked;
  }
  if (Word(older, kOutsideAnnotation) == "deny") {
    result[kOutsideAnnotation] = "deny";
  }
  return result;
}

}  // namespace espalier::mesh
