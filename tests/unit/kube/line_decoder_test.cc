#include "agent/kube/line_decoder.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kube {
namespace {

using ::testing::ElementsAre;
using Result = LineDecoder::Result;

TEST(LineDecoder, AnyCutGivesTheSameLines) {
  const std::string text = "one\r\n\n{\"two\":2}\nthree\nunfinished";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    LineDecoder decoder(100);
    std::vector<std::string> lines;
    const auto take = [&](absl::string_view line) {
      lines.emplace_back(line);
      return true;
    };
    EXPECT_EQ(decoder.Feed(text.substr(0, cut), take), Result::kMore);
    EXPECT_EQ(decoder.Feed(text.substr(cut), take), Result::kMore);
    EXPECT_THAT(lines, ElementsAre("one", "{\"two\":2}", "three")) << cut;
    EXPECT_EQ(decoder.pending(), 10u);
  }
}

TEST(LineDecoder, ALineTooLongIsToldAndForgotten) {
  const auto take = [](absl::string_view) { return true; };
  LineDecoder decoder(4);
  EXPECT_EQ(decoder.Feed("1234\n", take), Result::kMore);
  EXPECT_EQ(decoder.Feed("12345\n", take), Result::kTooLong);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(decoder.Feed("1", take), Result::kMore);
  EXPECT_EQ(decoder.Feed("1", take), Result::kTooLong);
  EXPECT_EQ(decoder.pending(), 0u);
}

TEST(LineDecoder, TheConsumerCanStopIt) {
  LineDecoder decoder(10);
  int lines = 0;
  EXPECT_EQ(
      decoder.Feed("a\nb\nc\n", [&](absl::string_view) { return ++lines < 2; }),
      Result::kStopped);
  EXPECT_EQ(lines, 2);
}

}  // namespace
}  // namespace espalier::kube
