#include "agent/base/secret_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <type_traits>
#include <utility>

namespace espalier::base {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

static_assert(!std::is_copy_constructible_v<SecretBytes>);
static_assert(!std::is_copy_assignable_v<SecretBytes>);

TEST(SecretBytesTest, AMoveLeavesTheSourceEmpty) {
  const Bytes key = {1, 2, 3};
  SecretBytes a{ByteSpan(key)};
  SecretBytes b = std::move(a);
  EXPECT_TRUE(
      a.empty());  // NOLINT(bugprone-use-after-move): the promise under test
  EXPECT_THAT(b.span(), ElementsAre(1, 2, 3));
  SecretBytes c(2);
  c = std::move(b);
  EXPECT_THAT(c.span(), ElementsAre(1, 2, 3));
  EXPECT_THAT(c.Clone().span(), ElementsAre(1, 2, 3));
  EXPECT_THAT(c.Slice(1, 2).span(), ElementsAre(2, 3));
}

TEST(SecretBytesTest, WipeOverwritesAll) {
  Bytes key(64, 0xaa);
  Wipe(key);
  EXPECT_THAT(key, Each(0));
}

TEST(ConstantTimeEqualTest, ComparesContentsAndSizes) {
  const Bytes a = {1, 2, 3};
  EXPECT_TRUE(ConstantTimeEqual(a, Bytes{1, 2, 3}));
  EXPECT_FALSE(ConstantTimeEqual(a, Bytes{1, 2}));
  EXPECT_TRUE(ConstantTimeEqual({}, {}));
  for (size_t i = 0; i < a.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes b = a;
      b[i] ^= static_cast<uint8_t>(1 << bit);
      EXPECT_FALSE(ConstantTimeEqual(a, b));
    }
  }
}

}  // namespace
}  // namespace espalier::base
