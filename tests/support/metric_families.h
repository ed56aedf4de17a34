// Whether a program's metrics are well named, and as docs/metrics.md has them.
#ifndef ESPALIER_TESTS_SUPPORT_METRIC_FAMILIES_H_
#define ESPALIER_TESTS_SUPPORT_METRIC_FAMILIES_H_

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "tests/support/source_dir.h"

namespace espalier::testing {

// Of the controller's families when `of_controller`, else of the agent's.
inline void ExpectFamiliesAreDocumented(const std::string& text,
                                        bool of_controller) {
  std::set<std::string> families;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StartsWith(line, "# TYPE ")) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    EXPECT_TRUE(families.insert(words[2]).second) << line;
    EXPECT_TRUE(absl::StartsWith(words[2], "espalier_")) << line;
    EXPECT_EQ(words[3] == "counter", absl::EndsWith(words[2], "_total"))
        << line;
  }
  std::ifstream stream(InSource("docs/metrics.md"));
  ASSERT_TRUE(stream.good());
  std::set<std::string> rows;
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind("| `", 0) != 0) continue;
    const std::string name = line.substr(3, line.find('`', 3) - 3);
    if (absl::StartsWith(name, "espalier_controller_") == of_controller) {
      rows.insert(name);
    }
  }
  EXPECT_EQ(rows, families);
}

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_SUPPORT_METRIC_FAMILIES_H_
