#include "agent/mesh/config/files.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::mesh {
namespace {

using ::testing::HasSubstr;

std::string Write(const std::string& name, const std::string& content) {
  const std::string path =
      std::filesystem::path(::testing::TempDir()) / ("files_test." + name);
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

TEST(ReadWholeFile, TakesMemoryByTheFileAndNotByTheLimit) {
  const std::string content(100'000, 'x');
  const auto text = ReadWholeFile(Write("content", content), size_t{256} << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, content);
  EXPECT_LT(text->capacity(), 3 * content.size());
}

TEST(ReadWholeFile, AsMuchAsAllowedAndNoMore) {
  EXPECT_EQ(*ReadWholeFile(Write("four", "1234"), 4), "1234");
  EXPECT_EQ(*ReadWholeFile(Write("empty", ""), 4), "");
  EXPECT_EQ(*ReadWholeFile(Write("empty", ""), 0), "");
  EXPECT_FALSE(ReadWholeFile(Write("five", "12345"), 4).ok());
}

// Of proc: regular files that say that they are empty, as one that grows does.
TEST(ReadWholeFile, MoreThanItsSizeSays) {
  const auto text = ReadWholeFile("/proc/self/mountinfo", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr(" / "));
  EXPECT_EQ(text->back(), '\n');
  const auto less = ReadWholeFile("/proc/self/mountinfo", 10);
  EXPECT_THAT(less.status().message(), HasSubstr("grew beyond 10 octets"));
}

}  // namespace
}  // namespace espalier::mesh
