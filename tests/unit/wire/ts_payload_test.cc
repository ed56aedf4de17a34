#include "agent/wire/ts_payload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/wire/hex.h"

namespace espalier::wire {
namespace {

using ::testing::HasSubstr;

base::IpAddress Ip(const std::string& text) {
  return *base::IpAddress::Parse(text);
}

TEST(TsPayloadTest, ReadsAndWritesBothFamilies) {
  const base::Bytes bytes = Hex(
      "02 000000"
      "07 06 0010 0050 01bb c0000200 c00002ff"
      "08 00 0028 0000 ffff"
      "  20010db8000000000000000000000000 20010db8ffffffffffffffffffffffff");
  const TsPayload payload = {
      .selectors = {{6, 80, 443, Ip("192.0.2.0"), Ip("192.0.2.255")},
                    {0, 0, 65535, Ip("2001:db8::"),
                     Ip("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")}}};
  EXPECT_TRUE(DecodesTo(bytes, payload)) << WhyNot<TsPayload>(bytes);
  EXPECT_EQ(Encoded(payload), bytes);
}

TEST(TsPayloadTest, ReadsOpaquePorts) {
  TsPayload out;
  std::string why;
  ASSERT_TRUE(DecodeBody(
      Hex("01 000000 07 00 0010 ffff 0000 c0000200 c00002ff"), &out, &why));
  ASSERT_EQ(out.selectors.size(), 1u);
  EXPECT_EQ(out.selectors[0].first_port, 65535);
  EXPECT_EQ(out.selectors[0].last_port, 0);
}

TEST(TsPayloadTest, KeepsUnknownTypesAndEmptyRangesApart) {
  // Type 9 (fibre channel); addresses the wrong way round; ports likewise; one
  // that is good.
  const base::Bytes bytes =
      Hex("04 000000"
          "09 00 0008 01020304"
          "07 00 0010 0000 ffff c00002ff c0000200"
          "07 00 0010 0050 0040 c0000200 c00002ff"
          "07 00 0010 0000 ffff c0000200 c00002ff");
  TsPayload out;
  std::string why;
  ASSERT_TRUE(DecodeBody(bytes, &out, &why)) << why;
  ASSERT_EQ(out.unusable.size(), 3u);
  EXPECT_EQ(out.unusable[0], (UnusableSelector{9, 0, {1, 2, 3, 4}}));
  ASSERT_EQ(out.selectors.size(), 1u);
  EXPECT_EQ(out.selectors[0].first, Ip("192.0.2.0"));
}

TEST(TsPayloadTest, RefusesCountsAndLengthsThatDoNotFit) {
  EXPECT_THAT(WhyNot<TsPayload>(Hex("01 0000")), HasSubstr("cut short"));
  EXPECT_THAT(WhyNot<TsPayload>(Hex("00 000000")), HasSubstr("no selector"));
  EXPECT_THAT(WhyNot<TsPayload>(Hex("01 000000")), HasSubstr("cut short"));
  EXPECT_THAT(
      WhyNot<TsPayload>(Hex("01 000000 07 00 000f 0000 ffff c0000200 c00002")),
      HasSubstr("selector length 15"));
  EXPECT_THAT(WhyNot<TsPayload>(Hex("01 000000 09 00 0003")),
              HasSubstr("selector length 3"));
  EXPECT_THAT(WhyNot<TsPayload>(
                  Hex("01 000000 07 00 0010 0000 ffff c0000200 c00002ff 00")),
              HasSubstr("behind the last"));
  // An IPv6 range that calls itself IPv4.
  EXPECT_THAT(
      WhyNot<TsPayload>(Hex(
          "01 000000 07 00 0028 0000 ffff"
          "20010db8000000000000000000000000 20010db8ffffffffffffffffffffffff")),
      HasSubstr("selector length 40"));
}

}  // namespace
}  // namespace espalier::wire
