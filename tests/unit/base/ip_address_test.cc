#include "agent/base/ip_address.h"

#include <gtest/gtest.h>

namespace espalier::base {
namespace {

IpAddress A(const char* text) { return *IpAddress::Parse(text); }
IpPrefix P(const char* text) { return *IpPrefix::Parse(text); }

TEST(IpAddressTest, ParsesAndPrintsBothFamilies) {
  for (const char* text : {"0.0.0.0", "192.0.2.1", "255.255.255.255",
                           "::", "2001:db8::1", "fe80::1"}) {
    ASSERT_TRUE(IpAddress::Parse(text).ok()) << text;
    EXPECT_EQ(A(text).ToString(), text);
  }
  for (const char* text : {"", "1.2.3", "1.2.3.4.5", "256.0.0.1", "::g",
                           "1.2.3.4/8", "fe80::1%eth0"}) {
    const auto result = IpAddress::Parse(text);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(IpAddressTest, FromBytesTakesFourOrSixteenOctets) {
  for (size_t size = 0; size < 20; ++size) {
    EXPECT_EQ(IpAddress::FromBytes(Bytes(size)).ok(), size == 4 || size == 16)
        << size;
  }
}

TEST(IpAddressTest, FamiliesNeverCompareEqual) {
  EXPECT_NE(IpAddress::Any(Family::kIpv4), IpAddress::Any(Family::kIpv6));
}

TEST(IpAddressTest, PlusCarriesAndWrapsInsideTheFamily) {
  EXPECT_EQ(A("10.0.0.255").Plus(1), A("10.0.1.0"));
  EXPECT_EQ(A("10.0.0.0").Plus(65536), A("10.1.0.0"));
  EXPECT_EQ(A("255.255.255.255").Plus(1), A("0.0.0.0"));
  EXPECT_EQ(A("2001:db8::ffff").Plus(1), A("2001:db8::1:0"));
}

TEST(IpAddressTest, KnowsSpecialAddresses) {
  EXPECT_TRUE(A("fe80::1").IsLinkLocal());
  EXPECT_TRUE(A("febf::1").IsLinkLocal());
  EXPECT_FALSE(A("fec0::1").IsLinkLocal());
  EXPECT_TRUE(A("169.254.1.1").IsLinkLocal());
  EXPECT_TRUE(A("239.1.1.1").IsMulticast());
  EXPECT_FALSE(A("240.0.0.0").IsMulticast());
  EXPECT_TRUE(A("ff02::1").IsMulticast());
  EXPECT_TRUE(A("::").IsUnspecified());
}

TEST(IpPrefixTest, RefusesHostBitsAndSaysWhatWasMeant) {
  const auto result = IpPrefix::Parse("10.1.2.3/16");
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("10.1.0.0/16"),
            absl::string_view::npos)
      << result.status();
  for (const char* text : {"10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129",
                           "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/ 8", "/8"}) {
    EXPECT_FALSE(IpPrefix::Parse(text).ok()) << text;
  }
}

TEST(IpPrefixTest, ContainsAndOverlaps) {
  EXPECT_TRUE(P("10.1.0.0/16").Contains(A("10.1.255.255")));
  EXPECT_FALSE(P("10.1.0.0/16").Contains(A("10.2.0.0")));
  EXPECT_FALSE(P("0.0.0.0/0").Contains(A("::")));
  EXPECT_TRUE(P("10.0.0.0/8").Contains(P("10.1.0.0/16")));
  EXPECT_FALSE(P("10.1.0.0/16").Contains(P("10.0.0.0/8")));
  EXPECT_TRUE(P("10.1.0.0/16").Overlaps(P("10.0.0.0/8")));
  EXPECT_FALSE(P("10.1.0.0/16").Overlaps(P("10.2.0.0/16")));
  EXPECT_EQ(P("10.1.0.0/23").Last(), A("10.1.1.255"));
  EXPECT_EQ(P("2001:db8::/126").Last(), A("2001:db8::3"));
  EXPECT_EQ(IpPrefix::Host(A("10.0.0.1")).ToString(), "10.0.0.1/32");
}

TEST(EndpointTest, BracketsIpv6) {
  EXPECT_EQ((Endpoint{A("192.0.2.1"), 500}).ToString(), "192.0.2.1:500");
  EXPECT_EQ((Endpoint{A("2001:db8::1"), 4500}).ToString(),
            "[2001:db8::1]:4500");
}

}  // namespace
}  // namespace espalier::base
