// docs/configuration.md is a reference of every field: a field without a row,
// or a row without a field, fails here.
#include <fstream>
#include <set>
#include <string>

#include "agent/mesh/config/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/source_dir.h"

namespace espalier::mesh {
namespace {

TEST(Documentation, HasARowForEveryFieldAndNoOther) {
  std::ifstream stream(testing::InSource("docs/configuration.md"));
  ASSERT_TRUE(stream.good());
  std::set<std::string> rows;
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind("| `", 0) != 0) continue;
    const size_t end = line.find('`', 3);
    ASSERT_NE(end, std::string::npos) << line;
    rows.insert(line.substr(3, end - 3));
  }
  const std::vector<std::string> fields = ConfigFields();
  EXPECT_THAT(rows, ::testing::UnorderedElementsAreArray(
                        std::set<std::string>(fields.begin(), fields.end())));
}

}  // namespace
}  // namespace espalier::mesh
