#include "agent/guard/block_ranges.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::guard {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}
bool All(const InsideBlock&) { return true; }
bool Disabled(const InsideBlock& block) {
  return block.plaintext_from_disabled;
}

TEST(BlockRanges, TheLongestPrefixDecides) {
  const std::vector<InsideBlock> blocks = {
      InsideBlock::PlaintextPods(Net("10.0.1.240/28")),
      InsideBlock::Pods(Net("10.0.0.0/16")),
      InsideBlock::Pods(Net("10.0.1.248/32")),
      InsideBlock::PlaintextPods(Net("fd00::/64")),
  };
  const std::vector<BlockRange> ranges = RangesOf(blocks, base::Family::kIpv4);
  EXPECT_THAT(RangesWhere(ranges, All), ElementsAre("10.0.0.0-10.0.255.255"));
  EXPECT_THAT(RangesWhere(ranges, Disabled),
              ElementsAre("10.0.1.240-10.0.1.247", "10.0.1.249-10.0.1.255"));
  EXPECT_THAT(RangesWhere(RangesOf(blocks, base::Family::kIpv6), Disabled),
              ElementsAre("fd00::-fd00::ffff:ffff:ffff:ffff"));
}

TEST(BlockRanges, WholeFamiliesAndSingleAddresses) {
  EXPECT_THAT(RangesOf({}, base::Family::kIpv4), IsEmpty());
  const std::vector<InsideBlock> blocks = {
      InsideBlock::OtherNodes(Net("0.0.0.0/0")),
      InsideBlock::Pods(Net("255.255.255.255/32")),
      InsideBlock::Pods(Net("0.0.0.0/32")),
  };
  const auto ranges = RangesOf(blocks, base::Family::kIpv4);
  EXPECT_THAT(RangesWhere(ranges, All), ElementsAre("0.0.0.0-255.255.255.255"));
  EXPECT_THAT(RangesWhere(ranges, Disabled),
              ElementsAre("0.0.0.1-255.255.255.254"));
}

// Two nodes' claims on one prefix: what only one of them allows is not.
TEST(BlockRanges, OfTheSamePrefixTheStricterDecides) {
  const std::vector<InsideBlock> blocks = {
      InsideBlock::PlaintextPods(Net("10.0.0.0/28")),
      InsideBlock::Pods(Net("10.0.0.0/28")),
  };
  EXPECT_THAT(RangesWhere(RangesOf(blocks, base::Family::kIpv4), Disabled),
              IsEmpty());
}

// Against the plain search, for every address of a small net.
TEST(BlockRanges, AgreeWithASearch) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<InsideBlock> blocks;
    for (int i = 0; i < 6; ++i) {
      const int length = 24 + static_cast<int>(random() % 9);
      const auto address =
          base::IpAddress::V4({10, 0, 0, static_cast<uint8_t>(random() % 256)});
      blocks.push_back({.prefix = *base::IpPrefix::Make(address, length),
                        .plaintext_from_disabled = (random() & 1) != 0});
    }
    const auto ranges = RangesOf(blocks, base::Family::kIpv4);
    for (int last = 0; last < 256; ++last) {
      const auto address =
          base::IpAddress::V4({10, 0, 0, static_cast<uint8_t>(last)});
      int longest = -1;
      bool allowed = true;
      for (const InsideBlock& block : blocks) {
        if (!block.prefix.Contains(address)) continue;
        if (block.prefix.length() > longest) allowed = true;
        if (block.prefix.length() >= longest) {
          allowed = allowed && block.plaintext_from_disabled;
        }
        longest = std::max(longest, block.prefix.length());
      }
      int found = 0;
      for (const BlockRange& range : ranges) {
        if (range.first <= address && address <= range.last) {
          ++found;
          EXPECT_EQ(range.block.plaintext_from_disabled, allowed)
              << "round " << round << " " << address.ToString();
        }
      }
      EXPECT_EQ(found, longest >= 0 ? 1 : 0)
          << "round " << round << " " << address.ToString();
    }
  }
}

}  // namespace
}  // namespace espalier::guard
