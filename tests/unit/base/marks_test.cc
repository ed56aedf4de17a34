#include "agent/base/marks.h"

#include <gtest/gtest.h>

namespace espalier::base {
namespace {

TEST(MarksTest, MaskIsOneRunOfEnoughBits) {
  EXPECT_TRUE(CheckMarkMask(kDefaultMarkMask).ok());
  EXPECT_TRUE(CheckMarkMask(0x1f0000).ok());
  EXPECT_TRUE(CheckMarkMask(0xf0000000).ok());
  EXPECT_FALSE(CheckMarkMask(0).ok());
  EXPECT_FALSE(CheckMarkMask(0x70000).ok()) << "three bits";
  EXPECT_FALSE(CheckMarkMask(0x0f0f0000).ok()) << "two runs";
}

TEST(MarksTest, MaskLeavesOthersBitsAlone) {
  EXPECT_FALSE(CheckMarkMask(0xf000).ok());
  EXPECT_FALSE(CheckMarkMask(0x3c00).ok()) << "portmap's";
  EXPECT_FALSE(CheckMarkMask(0x78000).ok()) << "kube-proxy's drop";
  EXPECT_TRUE(CheckMarkMask(0xf0000).ok());
}

TEST(MarksTest, ValuesLieInTheMaskAndDiffer) {
  EXPECT_EQ(MarkValue(0x0f000000, Mark::kFromRequired), 0x01000000u);
  EXPECT_EQ(MarkValue(0x0f000000, Mark::kBypass), 0x09000000u);
  EXPECT_EQ(MarkValue(0xf0000000, Mark::kBypass), 0x90000000u);
  EXPECT_EQ(MarkValue(0x1f0000, Mark::kNone), 0u);
}

}  // namespace
}  // namespace espalier::base
