#include "agent/base/run_directory.h"

#include <cstdint>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace espalier::base {

std::string DeletionFileName(const std::string& container_id,
                             const std::string& interface_name) {
  return absl::StrCat(container_id, "@", interface_name);
}

std::string Heartbeat::ToString() const {
  return absl::StrCat(boot_id, " ", absl::ToUnixNanos(at), "\n");
}

std::optional<Heartbeat> Heartbeat::Parse(const std::string& text) {
  const std::vector<std::string> words =
      absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  int64_t nanoseconds = 0;
  if (words.size() != 2 || !absl::SimpleAtoi(words[1], &nanoseconds)) {
    return std::nullopt;
  }
  return Heartbeat{words[0], absl::FromUnixNanos(nanoseconds)};
}

}  // namespace espalier::base
