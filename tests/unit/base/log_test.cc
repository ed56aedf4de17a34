#include "agent/base/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>

#include "agent/base/secret_bytes.h"

namespace espalier::base {
namespace {

// A secret cannot become a field: this does not compile, and must not.
static_assert(
    !std::is_constructible_v<LogField, absl::string_view, SecretBytes>);
static_assert(!std::is_constructible_v<LogField, absl::string_view, ByteSpan>);
static_assert(
    std::is_constructible_v<LogField, absl::string_view, std::string>);

TEST(LogTest, OneJsonObjectALine) {
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, "peer up",
      {{"peer", "node-b"},
       {"tunnels", 3},
       {"nat", false},
       {"text", "a\n\"b\xff"}});
  const std::string line = testing::internal::GetCapturedStderr();
  ASSERT_FALSE(line.empty());
  EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["event"], "peer up");
  EXPECT_EQ(json["level"], "info");
  EXPECT_EQ(json["peer"], "node-b");
  EXPECT_EQ(json["tunnels"], 3);
  EXPECT_EQ(json["nat"], false);
}

TEST(LogTest, LinesBelowTheLevelAreDropped) {
  LogLevel level = LogLevel::kInfo;
  ASSERT_TRUE(ParseLogLevel("warning", &level));
  EXPECT_FALSE(ParseLogLevel("loud", &level));
  SetLogLevel(level);
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, "quiet");
  Log(LogLevel::kError, "loud");
  const std::string text = testing::internal::GetCapturedStderr();
  SetLogLevel(LogLevel::kInfo);
  EXPECT_EQ(text.find("quiet"), std::string::npos);
  EXPECT_NE(text.find("loud"), std::string::npos);
}

}  // namespace
}  // namespace espalier::base
