#include "agent/wire/sa_payload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/wire/hex.h"

namespace espalier::wire {
namespace {

using ::testing::HasSubstr;

// ENCR_AES_GCM_16 with 256 bits, PRF_HMAC_SHA2_384, Curve25519; then
// ChaCha20-Poly1305 without a key length (RFC 7634 5).
const char kIkeProposals[] =
    "02 00 0024 01 01 00 03"
    "  03 00 000c 01 00 0014 800e 0100"
    "  03 00 0008 02 00 0006"
    "  00 00 0008 04 00 001f"
    "00 00 0020 02 01 00 03"
    "  03 00 0008 01 00 001c"
    "  03 00 0008 02 00 0005"
    "  00 00 0008 04 00 001f";

SaPayload IkeProposals() {
  return {.proposals = {{.number = 1,
                         .protocol = ProtocolId::kIke,
                         .transforms = {{TransformType::kEncryption, 20, 256},
                                        {TransformType::kPrf, 6},
                                        {TransformType::kKeyExchange, 31}}},
                        {.number = 2,
                         .protocol = ProtocolId::kIke,
                         .transforms = {{TransformType::kEncryption, 28},
                                        {TransformType::kPrf, 5},
                                        {TransformType::kKeyExchange, 31}}}}};
}

TEST(SaPayloadTest, ReadsAndWritesIkeProposals) {
  EXPECT_TRUE(DecodesTo(Hex(kIkeProposals), IkeProposals()));
  EXPECT_EQ(Encoded(IkeProposals()), Hex(kIkeProposals));
}

TEST(SaPayloadTest, ReadsAndWritesEspProposalWithItsSpi) {
  const base::Bytes bytes =
      Hex("00 00 0020 01 03 04 02 deadbeef"
          "  03 00 000c 01 00 0014 800e 0080"
          "  00 00 0008 05 00 0001");
  const SaPayload payload = {
      .proposals = {{.number = 1,
                     .protocol = ProtocolId::kEsp,
                     .spi = {0xde, 0xad, 0xbe, 0xef},
                     .transforms = {{TransformType::kEncryption, 20, 128},
                                    {TransformType::kExtendedSequenceNumbers,
                                     kExtendedSequenceNumbers}}}}};
  EXPECT_TRUE(DecodesTo(bytes, payload));
  EXPECT_EQ(Encoded(payload), bytes);
}

TEST(SaPayloadTest, KeepsUnknownTransformTypesAndAttributes) {
  // Type 241; a short attribute 99, a long attribute 100, a second key length.
  const base::Bytes bytes =
      Hex("00 00 0028 01 01 00 01"
          "  00 00 0020 f1 00 1234 800e 0080 8063 0102 0064 0004 a1a2a3a4"
          "  800e 00c0 8065 0000");
  const Transform transform = {static_cast<TransformType>(241),
                               0x1234,
                               128,
                               {{99, true, {1, 2}},
                                {100, false, {0xa1, 0xa2, 0xa3, 0xa4}},
                                {kAttributeKeyLength, true, {0, 192}},
                                {101, true, {0, 0}}}};
  const SaPayload payload = {
      .proposals = {{.protocol = ProtocolId::kIke, .transforms = {transform}}}};
  EXPECT_TRUE(DecodesTo(bytes, payload)) << WhyNot<SaPayload>(bytes);
  EXPECT_EQ(Encoded(payload), bytes);
}

TEST(SaPayloadTest, ToleratesProposalWithoutTransforms) {
  EXPECT_EQ(WhyNot<SaPayload>(Hex("00 00 0008 01 01 00 00")), "accepted");
}

TEST(SaPayloadTest, RefusesEmptyPayload) {
  EXPECT_THAT(WhyNot<SaPayload>({}), HasSubstr("cut short"));
}

TEST(SaPayloadTest, RefusesSpiOfWrongSize) {
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 000b 01 03 03 00 aabbcc")),
              HasSubstr("SPI of 3 octets for ESP"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 000c 01 01 04 00 aabbccdd")),
              HasSubstr("SPI of 4 octets for IKE"));
}

TEST(SaPayloadTest, RefusesNumbersOutOfOrder) {
  EXPECT_THAT(WhyNot<SaPayload>(Hex("02 00 0008 01 01 00 00"
                                    "00 00 0008 01 01 00 00")),
              HasSubstr("out of order"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("02 00 0008 01 01 00 00"
                                    "00 00 0008 03 01 00 00")),
              HasSubstr("out of order"));
}

TEST(SaPayloadTest, RefusesChainThatDisagreesWithItsCounts) {
  // "More" on the last transform; "last" on one of two.
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0010 01 01 00 01"
                                    "  03 00 0008 02 00 0005")),
              HasSubstr("disagree"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0018 01 01 00 02"
                                    "  00 00 0008 02 00 0005"
                                    "  00 00 0008 02 00 0006")),
              HasSubstr("disagree"));
  // A transform behind the last that is counted.
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0018 01 01 00 01"
                                    "  00 00 0008 02 00 0005"
                                    "  00 00 0008 02 00 0006")),
              HasSubstr("behind the last transform"));
  // A proposal behind the last.
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0008 01 01 00 00"
                                    "00 00 0008 02 01 00 00")),
              HasSubstr("behind the last proposal"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("01 00 0008 01 01 00 00")),
              HasSubstr("chain octet"));
}

TEST(SaPayloadTest, RefusesLengthsThatDoNotFit) {
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0007 01 01 00 00")),
              HasSubstr("proposal length 7"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0009 01 01 00 00")),
              HasSubstr("proposal length 9"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0010 01 01 00 01"
                                    "  00 00 0007 02 00 0005")),
              HasSubstr("transform length 7"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0012 01 01 00 01"
                                    "  00 00 000a 02 00 0005 800e")),
              HasSubstr("attribute cut short"));
  EXPECT_THAT(WhyNot<SaPayload>(Hex("00 00 0014 01 01 00 01"
                                    "  00 00 000c 02 00 0005 0063 0001")),
              HasSubstr("attribute value cut short"));
}

TEST(SaPayloadTest, RefusesMoreProposalsThanItReads) {
  SaPayload payload;
  for (size_t i = 0; i < kMaxProposals; ++i) {
    payload.proposals.push_back({.number = static_cast<uint8_t>(i + 1)});
  }
  EXPECT_EQ(WhyNot<SaPayload>(Encoded(payload)), "accepted");
  payload.proposals.push_back({.number = kMaxProposals + 1});
  EXPECT_THAT(WhyNot<SaPayload>(Encoded(payload)), HasSubstr("more proposals"));
}

TEST(SaPayloadTest, RefusesMoreAttributesThanItReads) {
  SaPayload payload = {.proposals = {{.transforms = {{}}}}};
  auto& attributes = payload.proposals[0].transforms[0].unknown_attributes;
  attributes.assign(kMaxAttributes, {99, true, {0, 0}});
  EXPECT_EQ(WhyNot<SaPayload>(Encoded(payload)), "accepted");
  attributes.push_back({99, true, {0, 0}});
  EXPECT_THAT(WhyNot<SaPayload>(Encoded(payload)),
              HasSubstr("more attributes"));
}

}  // namespace
}  // namespace espalier::wire
