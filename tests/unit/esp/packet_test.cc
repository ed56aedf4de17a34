#include "agent/esp/packet.h"

#include "agent/esp/ecn.h"
#include "agent/esp/inner_packet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"

namespace espalier::esp {
namespace {

using testing::MakePacket;

TEST(Packet, HeaderNeedsEightOctets) {
  base::Bytes packet(kEspHeader);
  WriteHeader({base::Spi(0xdeadbeef), 42}, packet.data());
  const auto header = ReadHeader(packet);
  ASSERT_TRUE(header.has_value());
  EXPECT_EQ(header->spi, base::Spi(0xdeadbeef));
  EXPECT_EQ(header->sequence, 42u);
  packet.pop_back();
  EXPECT_FALSE(ReadHeader(packet).has_value());
}

TEST(Packet, TrailerPadsAsRfc4303Says) {
  for (const uint32_t block : {4u, 16u}) {
    for (size_t size = 0; size < 40; ++size) {
      base::Bytes payload(size + kMaxTrailer, 0xaa);
      const size_t padded = WriteTrailer(payload.data(), size, block, 41);
      EXPECT_EQ(padded % block, 0u);
      EXPECT_LT(padded - size - 2, block);
      for (size_t i = size; i < padded - 2; ++i) {
        EXPECT_EQ(payload[i], i - size + 1);
      }
      payload.resize(padded);
      const auto trailer = ReadTrailer(payload);
      ASSERT_TRUE(trailer.has_value());
      EXPECT_EQ(trailer->payload, size);
      EXPECT_EQ(trailer->next_header, 41);
    }
  }
}

TEST(Packet, TrailerThatReachesBeforeThePayloadIsRefused) {
  EXPECT_FALSE(ReadTrailer(base::Bytes{4}).has_value());
  EXPECT_TRUE(ReadTrailer(base::Bytes{1, 1, 4}).has_value());
  EXPECT_FALSE(ReadTrailer(base::Bytes{1, 2, 4}).has_value());
}

TEST(InnerPacket, ReadsBothFamilies) {
  const base::Bytes v4 = MakePacket({.traffic_class = 0xb8});
  const auto inner = ParseInnerPacket(v4);
  ASSERT_TRUE(inner.has_value());
  EXPECT_EQ(inner->source().ToString(), "10.1.0.5");
  EXPECT_EQ(inner->destination().ToString(), "10.2.0.6");
  EXPECT_EQ(inner->transport, 20);
  EXPECT_EQ(inner->traffic_class, 0xb8);
  EXPECT_TRUE(inner->dont_fragment);

  const auto v6 =
      ParseInnerPacket(MakePacket({.v6 = true, .traffic_class = 3}));
  ASSERT_TRUE(v6.has_value());
  EXPECT_EQ(v6->source().ToString(), "fd00:1::5");
  EXPECT_EQ(v6->protocol, kProtocolTcp);
  EXPECT_EQ(v6->traffic_class, 3);
}

TEST(InnerPacket, WhatFollowsTheIpLengthIsPadding) {
  base::Bytes packet = MakePacket({});
  const size_t size = packet.size();
  packet.resize(size + 100);
  const auto inner = ParseInnerPacket(packet);
  ASSERT_TRUE(inner.has_value());
  EXPECT_EQ(inner->size, size);
}

TEST(InnerPacket, RefusesTruncationsAndOtherVersions) {
  for (const bool v6 : {false, true}) {
    const base::Bytes packet = MakePacket({.v6 = v6});
    for (size_t size = 0; size < packet.size(); ++size) {
      EXPECT_FALSE(ParseInnerPacket({packet.data(), size}).has_value()) << size;
    }
  }
  base::Bytes packet = MakePacket({});
  packet[0] = 0x55;
  EXPECT_FALSE(ParseInnerPacket(packet).has_value());
  packet[0] = 0x44;  // header of 16 octets
  EXPECT_FALSE(ParseInnerPacket(packet).has_value());
}

TEST(InnerPacket, WalksIpv6ExtensionHeaders) {
  base::Bytes packet = MakePacket({.v6 = true, .tcp = false, .payload = 24});
  packet[6] = 0;  // hop-by-hop first, its length field is octet 41
  packet[40] = 44;
  packet[41] = 0;
  packet[48] = 17;  // then a fragment header, offset 8
  Store16(8 | 1, packet.data() + 50);
  const auto inner = ParseInnerPacket(packet);
  ASSERT_TRUE(inner.has_value());
  EXPECT_EQ(inner->protocol, kProtocolUdp);
  EXPECT_EQ(inner->transport, 56);
  EXPECT_TRUE(inner->fragment);
  EXPECT_FALSE(inner->first_fragment);
  packet[41] = 200;  // past the end
  EXPECT_FALSE(ParseInnerPacket(packet).has_value());
}

// RFC 6040 figure 4, row by row.
TEST(Ecn, DecapsulationTable) {
  const std::optional<uint8_t> drop;
  const std::optional<uint8_t> kTable[4][4] = {
      // outer: Not-ECT, ECT(1), ECT(0), CE; RFC order of codepoints 0..3
      {kNotEct, kNotEct, kNotEct, drop},  // inner Not-ECT
      {kEct1, kEct1, kEct1, kCe},         // inner ECT(1)
      {kEct0, kEct1, kEct0, kCe},         // inner ECT(0)
      {kCe, kCe, kCe, kCe},               // inner CE
  };
  for (uint8_t inner = 0; inner < 4; ++inner) {
    for (uint8_t outer = 0; outer < 4; ++outer) {
      EXPECT_EQ(DecapsulatedEcn(inner, outer), kTable[inner][outer])
          << int{inner} << " in " << int{outer};
    }
  }
}

}  // namespace
}  // namespace espalier::esp
