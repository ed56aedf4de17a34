#include "agent/base/security_association.h"

#include <gtest/gtest.h>

namespace espalier::base {
namespace {

TrafficSelector Ts(const char* prefix, uint8_t protocol = 0,
                   uint16_t first_port = 0, uint16_t last_port = 65535) {
  TrafficSelector ts = TrafficSelector::FromPrefix(*IpPrefix::Parse(prefix));
  ts.protocol = protocol;
  ts.first_port = first_port;
  ts.last_port = last_port;
  return ts;
}

TEST(TrafficSelectorTest, IntersectsToWhatBothAllow) {
  EXPECT_EQ(Ts("10.0.0.0/8").Intersect(Ts("10.1.0.0/16", 6, 80, 80)),
            Ts("10.1.0.0/16", 6, 80, 80));
  EXPECT_EQ(
      Ts("10.0.0.0/8", 6, 0, 100).Intersect(Ts("10.1.0.0/16", 0, 80, 200)),
      Ts("10.1.0.0/16", 6, 80, 100));
  EXPECT_FALSE(Ts("10.0.0.0/8").Intersect(Ts("11.0.0.0/8")).has_value());
  EXPECT_FALSE(Ts("10.0.0.0/8", 6).Intersect(Ts("10.0.0.0/8", 17)).has_value());
  EXPECT_FALSE(Ts("10.0.0.0/8", 6, 1, 2)
                   .Intersect(Ts("10.0.0.0/8", 6, 3, 4))
                   .has_value());
  EXPECT_FALSE(Ts("0.0.0.0/0").Intersect(Ts("::/0")).has_value());
}

TEST(TrafficSelectorTest, OpaquePortsMeetOpaqueOrAnyOnly) {
  const TrafficSelector opaque = Ts("10.0.0.0/8", 6, 65535, 0);
  EXPECT_EQ(opaque.Intersect(Ts("10.0.0.0/8")), opaque);
  EXPECT_EQ(opaque.Intersect(opaque), opaque);
  EXPECT_FALSE(opaque.Intersect(Ts("10.0.0.0/8", 6, 1, 2)).has_value());
  EXPECT_FALSE(Ts("10.0.0.0/8", 6, 1, 2).Contains(opaque));
  EXPECT_TRUE(Ts("10.0.0.0/8").Contains(opaque));
}

TEST(TrafficSelectorTest, ContainsIsNeverTrueForAWiderOne) {
  EXPECT_TRUE(Ts("10.0.0.0/8").Contains(Ts("10.1.0.0/16", 6, 80, 80)));
  EXPECT_FALSE(Ts("10.1.0.0/16").Contains(Ts("10.0.0.0/8")));
  EXPECT_FALSE(Ts("10.0.0.0/8", 6).Contains(Ts("10.0.0.0/8")));
  EXPECT_FALSE(Ts("10.0.0.0/8", 6, 80, 80).Contains(Ts("10.0.0.0/8", 6)));
  EXPECT_FALSE(Ts("0.0.0.0/0").Contains(*IpAddress::Parse("::")));
}

TEST(EspSuiteTest, SizesAreTheRfcs) {
  const EspSuite gcm{.cipher = EspCipher::kAesGcm16, .key_bits = 256};
  EXPECT_EQ(gcm.encryption_key_size(), 36u);  // RFC 4106 8.1
  EXPECT_EQ(gcm.iv_size(), 8u);
  EXPECT_EQ(gcm.icv_size(), 16u);
  const EspSuite cbc{.cipher = EspCipher::kAesCbc,
                     .key_bits = 128,
                     .integrity = EspIntegrity::kHmacSha2_256_128,
                     .esn = false};
  EXPECT_EQ(cbc.encryption_key_size(), 16u);
  EXPECT_EQ(cbc.integrity_key_size(), 32u);  // RFC 4868 2.1.1
  EXPECT_EQ(cbc.icv_size(), 16u);
  EXPECT_EQ(cbc.ToString(), "aes128cbc-hmacsha256");
  EXPECT_EQ(gcm.ToString(), "aes256gcm16-esn");
}

TEST(EspSuiteTest, AhHasNoCipher) {
  const EspSuite ah{.integrity = EspIntegrity::kHmacSha2_256_128,
                    .protocol = IpsecProtocol::kAh};
  EXPECT_FALSE(ah.aead());
  EXPECT_EQ(ah.encryption_key_size(), 0u);
  EXPECT_EQ(ah.integrity_key_size(), 32u);
  EXPECT_EQ(ah.icv_size(), 16u);
  EXPECT_EQ(ah.ToString(), "ah-hmacsha256-esn");
  // RFC 4302 2: 12 octets and the ICV, in multiples of 4 or, in IPv6, of 8.
  EXPECT_EQ(EspOverhead(ah, Family::kIpv4, false, 100), 20u + 28u);
  EXPECT_EQ(EspOverhead(ah, Family::kIpv6, false, 100), 40u + 32u);
}

// For every suite, family, encapsulation and link MTU: a packet of InnerMtu
// fits, one octet more does not.
TEST(InnerMtuTest, IsExact) {
  const EspSuite suites[] = {{.cipher = EspCipher::kAesGcm16},
                             {.cipher = EspCipher::kChaCha20Poly1305},
                             {.cipher = EspCipher::kAesCbc,
                              .integrity = EspIntegrity::kHmacSha2_256_128},
                             {.cipher = EspCipher::kAesCbc,
                              .integrity = EspIntegrity::kHmacSha2_512_256},
                             {.integrity = EspIntegrity::kHmacSha2_384_192,
                              .protocol = IpsecProtocol::kAh}};
  for (const EspSuite& suite : suites) {
    for (Family family : {Family::kIpv4, Family::kIpv6}) {
      for (bool udp : {false, true}) {
        for (size_t link = 576; link <= 1600; ++link) {
          const size_t mtu = InnerMtu(suite, family, udp, link);
          EXPECT_LE(mtu + EspOverhead(suite, family, udp, mtu), link);
          EXPECT_GT(mtu + 1 + EspOverhead(suite, family, udp, mtu + 1), link);
        }
      }
    }
  }
}

TEST(InnerMtuTest, OfATypicalLink) {
  const EspSuite gcm{.cipher = EspCipher::kAesGcm16};
  // 1500 - 20 (IP) - 8 (UDP) - 8 (ESP) - 8 (IV) - 16 (ICV) = 1440, less 2.
  EXPECT_EQ(InnerMtu(gcm, Family::kIpv4, true, 1500), 1438u);
  EXPECT_EQ(InnerMtu(gcm, Family::kIpv4, true, 40), 0u);
}

TEST(EspSaTest, CloneCopiesAll) {
  EspSa sa;
  sa.spi = Spi(0x1234);
  sa.encapsulation = EspSa::Encapsulation{};
  sa.encryption_key = SecretBytes(Bytes(36, 7));
  sa.remote_selectors = {Ts("10.0.0.0/8")};
  sa.limits.soft_packets = 5;
  sa.mode = SaMode::kTransport;
  sa.cpu = 3;
  const EspSa copy = sa.Clone();
  EXPECT_EQ(copy.spi, sa.spi);
  EXPECT_EQ(copy.encapsulation, sa.encapsulation);
  EXPECT_TRUE(
      ConstantTimeEqual(copy.encryption_key.span(), sa.encryption_key.span()));
  EXPECT_EQ(copy.remote_selectors, sa.remote_selectors);
  EXPECT_EQ(copy.limits.soft_packets, 5u);
  EXPECT_EQ(copy.mode, SaMode::kTransport);
  EXPECT_EQ(copy.cpu, 3u);
}

}  // namespace
}  // namespace espalier::base
