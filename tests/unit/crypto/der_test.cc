#include "agent/crypto/der.h"

#include <gtest/gtest.h>

#include "tests/unit/crypto/test_vectors.h"

namespace espalier::crypto {
namespace {

TEST(DerTest, ReadsShortAndLongLengths) {
  base::Bytes bytes = Hex("3081 80");
  bytes.resize(3 + 128 + 2);
  bytes[131] = 0x05;
  base::ByteReader reader(bytes);
  base::ByteSpan contents;
  ASSERT_TRUE(ReadDer(&reader, kDerSequence, &contents));
  EXPECT_EQ(contents.size(), 128u);
  EXPECT_TRUE(NextDerIs(reader, kDerNull));
  ASSERT_TRUE(ReadDer(&reader, kDerNull, &contents));
  EXPECT_TRUE(contents.empty());
  EXPECT_FALSE(NextDerIs(reader, kDerNull));
}

TEST(DerTest, RefusesOtherEncodingsAndMovesNothing) {
  for (const char* text :
       {"", "30", "3001", "308101ff", "30800000", "3082000100", "0500",
        "3083000001ff", "3084ffffffff"}) {
    const base::Bytes bytes = Hex(text);
    base::ByteReader reader(bytes);
    base::ByteSpan contents;
    EXPECT_FALSE(ReadDer(&reader, kDerSequence, &contents)) << text;
    EXPECT_EQ(reader.position(), 0u) << text;
  }
}

TEST(DerTest, SmallIntegers) {
  uint8_t value = 0;
  const base::Bytes good = Hex("020120");
  base::ByteReader reader(good);
  ASSERT_TRUE(ReadDerSmallInteger(&reader, &value));
  EXPECT_EQ(value, 32);
  for (const char* text : {"0200", "020180", "02020100", "0301"}) {
    const base::Bytes bytes = Hex(text);
    base::ByteReader bad(bytes);
    EXPECT_FALSE(ReadDerSmallInteger(&bad, &value)) << text;
    EXPECT_EQ(bad.position(), 0u);
  }
}

}  // namespace
}  // namespace espalier::crypto
