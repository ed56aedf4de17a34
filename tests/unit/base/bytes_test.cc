#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/base/byte_reader.h"
#include "agent/base/byte_writer.h"

namespace espalier::base {
namespace {

using ::testing::ElementsAre;

TEST(ByteReaderTest, ReadsNetworkOrder) {
  const Bytes bytes = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08,
                       0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f};
  ByteReader reader(bytes);
  uint8_t u8 = 0;
  uint16_t u16 = 0;
  uint32_t u32 = 0;
  uint64_t u64 = 0;
  ASSERT_TRUE(reader.ReadU8(&u8));
  ASSERT_TRUE(reader.ReadU16(&u16));
  ASSERT_TRUE(reader.ReadU32(&u32));
  ASSERT_TRUE(reader.ReadU64(&u64));
  EXPECT_EQ(u8, 0x01u);
  EXPECT_EQ(u16, 0x0203u);
  EXPECT_EQ(u32, 0x04050607u);
  EXPECT_EQ(u64, 0x08090a0b0c0d0e0fu);
  EXPECT_TRUE(reader.empty());
}

TEST(ByteReaderTest, AShortReadMovesNothing) {
  const Bytes bytes = {1, 2, 3};
  ByteReader reader(bytes);
  uint32_t u32 = 7;
  ByteSpan span;
  Bytes copy = {9};
  std::array<uint8_t, 4> array = {9, 9, 9, 9};
  ByteReader sub{ByteSpan()};
  EXPECT_FALSE(reader.ReadU32(&u32));
  EXPECT_FALSE(reader.ReadSpan(4, &span));
  EXPECT_FALSE(reader.ReadBytes(4, &copy));
  EXPECT_FALSE(reader.ReadArray(&array));
  EXPECT_FALSE(reader.ReadSub(4, &sub));
  EXPECT_FALSE(reader.Skip(4));
  EXPECT_FALSE(reader.Skip(SIZE_MAX));
  EXPECT_EQ(u32, 7u);
  EXPECT_THAT(copy, ElementsAre(9));
  EXPECT_THAT(array, ElementsAre(9, 9, 9, 9));
  EXPECT_EQ(reader.remaining(), 3u);
  EXPECT_EQ(reader.position(), 0u);
}

TEST(ByteReaderTest, ASubReaderEndsWhereItShould) {
  const Bytes bytes = {1, 2, 3};
  ByteReader reader(bytes);
  ByteReader sub{ByteSpan()};
  ASSERT_TRUE(reader.ReadSub(2, &sub));
  uint16_t u16 = 0;
  ASSERT_TRUE(sub.ReadU16(&u16));
  EXPECT_EQ(u16, 0x0102u);
  uint8_t u8 = 0;
  EXPECT_FALSE(sub.ReadU8(&u8));
  EXPECT_THAT(reader.rest(), ElementsAre(3));
}

TEST(ByteWriterTest, WritesWhatTheReaderReads) {
  ByteWriter writer;
  writer.WriteU8(1);
  const size_t length = writer.ReserveU16();
  writer.WriteU32(0x04050607);
  writer.WriteU64(0x08090a0b0c0d0e0f);
  writer.WriteZeros(2);
  writer.PatchU16(length, static_cast<uint16_t>(writer.size()));
  EXPECT_EQ(ToHex(writer.span()), "0100110405060708090a0b0c0d0e0f0000");
  EXPECT_EQ(writer.Take().size(), 17u);
  EXPECT_EQ(writer.size(), 0u);
}

TEST(HexTest, GoesBothWaysAndRefusesTheRest) {
  Bytes bytes;
  ASSERT_TRUE(FromHex("00fFa5", &bytes));
  EXPECT_EQ(ToHex(bytes), "00ffa5");
  EXPECT_FALSE(FromHex("0", &bytes));
  EXPECT_FALSE(FromHex("0g", &bytes));
  EXPECT_EQ(ToHex(bytes), "00ffa5") << "a failed call leaves the output alone";
}

}  // namespace
}  // namespace espalier::base
