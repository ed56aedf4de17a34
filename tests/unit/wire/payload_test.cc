// Payloads with a simple body, and the chain that holds them together.
#include "agent/wire/payload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/wire/hex.h"

namespace espalier::wire {
namespace {

using Disposition = Verdict::Disposition;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(KePayloadTest, ReadsAndWrites) {
  const KePayload payload = {31, {0xaa, 0xbb, 0xcc}};
  EXPECT_EQ(Encoded(payload), Hex("001f 0000 aabbcc"));
  EXPECT_TRUE(DecodesTo(Hex("001f 0000 aabbcc"), payload));
}

TEST(KePayloadTest, IgnoresReservedAndRefusesNoData) {
  EXPECT_TRUE(DecodesTo(Hex("001f 1234 aa"), KePayload{31, {0xaa}}));
  EXPECT_THAT(WhyNot<KePayload>(Hex("001f 0000")), HasSubstr("no key"));
  EXPECT_THAT(WhyNot<KePayload>(Hex("00")), HasSubstr("no key"));
}

TEST(IdPayloadTest, KeepsReservedOctetsForAuth) {
  const IdPayload payload = {IdType::kFqdn, {1, 2, 3}, {'a', '.', 'b'}};
  EXPECT_EQ(Encoded(payload), Hex("02 010203 612e62"));
  EXPECT_TRUE(DecodesTo(Hex("02 010203 612e62"), payload));
}

TEST(IdPayloadTest, RefusesAddressOfWrongSize) {
  EXPECT_EQ(WhyNot<IdPayload>(Hex("01 000000 c0000201")), "accepted");
  EXPECT_THAT(WhyNot<IdPayload>(Hex("01 000000 c00002")),
              HasSubstr("address of 3"));
  EXPECT_THAT(WhyNot<IdPayload>(Hex("05 000000 c0000201")),
              HasSubstr("address of 4"));
  EXPECT_THAT(WhyNot<IdPayload>(Hex("02 0000")), HasSubstr("cut short"));
}

TEST(CertPayloadTest, ReadsAndWritesRawPublicKey) {
  const CertPayload payload = {CertEncoding::kRawPublicKey, {0x30, 0x00}};
  EXPECT_EQ(Encoded(payload), Hex("0f 3000"));
  EXPECT_TRUE(DecodesTo(Hex("0f 3000"), payload));
  EXPECT_THAT(WhyNot<CertPayload>({}), HasSubstr("no encoding"));
}

TEST(CertreqPayloadTest, ReadsAndWritesRawPublicKeyWithoutAuthority) {
  const CertreqPayload payload = {CertEncoding::kRawPublicKey, {}};
  EXPECT_EQ(Encoded(payload), Hex("0f"));
  EXPECT_TRUE(DecodesTo(Hex("0f"), payload));
}

TEST(AuthPayloadTest, ReadsAndWrites) {
  const AuthPayload payload = {AuthMethod::kSharedKey, {1, 2}};
  EXPECT_EQ(Encoded(payload), Hex("02 000000 0102"));
  EXPECT_TRUE(DecodesTo(Hex("02 ffffff 0102"), payload));
  EXPECT_THAT(WhyNot<AuthPayload>(Hex("02 0000")), HasSubstr("cut short"));
}

TEST(AuthPayloadTest, SplitsDigitalSignature) {
  // RFC 8410's identifier of Ed25519: SEQUENCE { OID 1.3.101.112 }.
  const DigitalSignature signature = {Hex("3005 0603 2b6570"), Hex("aabb")};
  const base::Bytes data = Hex("07 3005 0603 2b6570 aabb");
  EXPECT_EQ(EncodeDigitalSignature(signature), data);
  EXPECT_EQ(DecodeDigitalSignature(data), signature);
  EXPECT_EQ(DecodeDigitalSignature({}), std::nullopt);
  EXPECT_EQ(DecodeDigitalSignature(Hex("00 aa")), std::nullopt);
  EXPECT_EQ(DecodeDigitalSignature(Hex("02 aa")), std::nullopt);
  EXPECT_EQ(DecodeDigitalSignature(Hex("02 aabb")), std::nullopt);
}

TEST(NoncePayloadTest, AcceptsOnlyTheRfcsSizes) {
  EXPECT_THAT(WhyNot<NoncePayload>(base::Bytes(15)), HasSubstr("of 15"));
  EXPECT_EQ(WhyNot<NoncePayload>(base::Bytes(16)), "accepted");
  EXPECT_EQ(WhyNot<NoncePayload>(base::Bytes(256)), "accepted");
  EXPECT_THAT(WhyNot<NoncePayload>(base::Bytes(257)), HasSubstr("of 257"));
}

TEST(NotifyTest, ReadsAndWritesWithAndWithoutSpi) {
  const NotifyPayload rekey =
      NotifyPayload::OfEsp(NotifyType::kRekeySa, base::Spi(0xdeadbeef));
  EXPECT_EQ(Encoded(rekey), Hex("03 04 4009 deadbeef"));
  EXPECT_TRUE(DecodesTo(Hex("03 04 4009 deadbeef"), rekey));
  EXPECT_EQ(rekey.EspSpi(), base::Spi(0xdeadbeef));

  const NotifyPayload cookie =
      NotifyPayload::Of(NotifyType::kCookie, {1, 2, 3});
  EXPECT_EQ(Encoded(cookie), Hex("00 00 4006 010203"));
  EXPECT_TRUE(DecodesTo(Hex("00 00 4006 010203"), cookie));
  EXPECT_EQ(cookie.EspSpi(), std::nullopt);
}

TEST(NotifyTest, CarriesGroupOfInvalidKe) {
  const NotifyPayload payload = NotifyPayload::InvalidKe(19);
  EXPECT_EQ(Encoded(payload), Hex("00 00 0011 0013"));
  EXPECT_EQ(payload.DataU16(), 19);
  EXPECT_EQ(NotifyPayload::Of(NotifyType::kInvalidKePayload).DataU16(),
            std::nullopt);
  EXPECT_EQ(
      NotifyPayload::Of(NotifyType::kInvalidKePayload, {0, 19, 0}).DataU16(),
      std::nullopt);
}

TEST(NotifyTest, CarriesSignatureHashAlgorithms) {
  const NotifyPayload payload = NotifyPayload::SignatureHashAlgorithms(
      {HashAlgorithm::kSha2_256, HashAlgorithm::kIdentity});
  EXPECT_EQ(Encoded(payload), Hex("00 00 402f 0002 0005"));
  EXPECT_THAT(payload.HashAlgorithms(),
              ElementsAre(HashAlgorithm::kSha2_256, HashAlgorithm::kIdentity));
}

TEST(NotifyTest, RefusesSpiThatIsCutShort) {
  EXPECT_THAT(WhyNot<NotifyPayload>(Hex("03 04 4009 deadbe")),
              HasSubstr("cut short"));
  EXPECT_THAT(WhyNot<NotifyPayload>(Hex("03 04")), HasSubstr("cut short"));
}

TEST(NotifyTest, TellsErrorsFromStatuses) {
  EXPECT_TRUE(IsError(NotifyType::kChildSaNotFound));
  EXPECT_TRUE(IsError(static_cast<NotifyType>(16383)));
  EXPECT_FALSE(IsError(NotifyType::kInitialContact));
  EXPECT_EQ(ToString(NotifyType::kNoProposalChosen), "NO_PROPOSAL_CHOSEN");
  EXPECT_EQ(ToString(static_cast<NotifyType>(8192)), "notify 8192");
}

TEST(DeletePayloadTest, ReadsAndWrites) {
  const DeletePayload ike = {ProtocolId::kIke, {}};
  EXPECT_EQ(Encoded(ike), Hex("01 00 0000"));
  EXPECT_TRUE(DecodesTo(Hex("01 00 0000"), ike));
  const DeletePayload esp = {ProtocolId::kEsp, {base::Spi(1), base::Spi(2)}};
  EXPECT_EQ(Encoded(esp), Hex("03 04 0002 00000001 00000002"));
  EXPECT_TRUE(DecodesTo(Hex("03 04 0002 00000001 00000002"), esp));
}

TEST(DeletePayloadTest, RefusesSpisThatDoNotFit) {
  EXPECT_THAT(WhyNot<DeletePayload>(Hex("01 08 0001 0102030405060708")),
              HasSubstr("SPIs of 8 octets for IKE"));
  EXPECT_THAT(WhyNot<DeletePayload>(Hex("01 00 0001")), HasSubstr("for IKE"));
  EXPECT_THAT(WhyNot<DeletePayload>(Hex("03 00 0001")), HasSubstr("for ESP"));
  EXPECT_THAT(WhyNot<DeletePayload>(Hex("03 04 0002 00000001")),
              HasSubstr("2 SPIs in 4"));
  EXPECT_THAT(WhyNot<DeletePayload>(Hex("03 04 0001 00000001 00")),
              HasSubstr("1 SPIs in 5"));
}

// --- the chain ---

TEST(PayloadChainTest, LinksPayloadsByType) {
  const Payloads payloads = {Payload::Of(KePayload{31, {0xaa}}),
                             Payload::Of(VendorIdPayload{{0xbb, 0xcc}}),
                             {PayloadType::kEap, OpaquePayload{{0x01}}}};
  const base::Bytes bytes =
      Hex("2b 00 0009 001f 0000 aa"
          "30 00 0006 bbcc"
          "00 00 0005 01");
  base::ByteWriter writer;
  EXPECT_EQ(EncodeChain(payloads, &writer), PayloadType::kKe);
  EXPECT_EQ(writer.Take(), bytes);
  const auto decoded = DecodeInner(PayloadType::kKe, bytes, false);
  ASSERT_TRUE(decoded.ok()) << decoded.verdict().reason;
  EXPECT_EQ(*decoded, payloads);
}

TEST(PayloadChainTest, EmptyChainHasNoPayloads) {
  base::ByteWriter writer;
  EXPECT_EQ(EncodeChain({}, &writer), PayloadType::kNone);
  const auto decoded = DecodeInner(PayloadType::kNone, {}, false);
  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(decoded->empty());
}

// RFC 7296 2.5.
TEST(PayloadChainTest, SkipsUnknownPayloadWithoutCriticalBit) {
  const auto decoded = DecodeInner(static_cast<PayloadType>(200),
                                   Hex("2b 00 0006 0102 00 00 0005 bb"), false);
  ASSERT_TRUE(decoded.ok()) << decoded.verdict().reason;
  EXPECT_THAT(*decoded, ElementsAre(Payload::Of(VendorIdPayload{{0xbb}})));
}

TEST(PayloadChainTest, IgnoresReservedBitsAndCriticalBitOfKnownTypes) {
  const auto decoded =
      DecodeInner(PayloadType::kVendorId, Hex("00 ff 0005 bb"), false);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->size(), 1u);
}

TEST(PayloadChainTest, AnswersUnknownCriticalPayloadWithItsType) {
  const auto decoded =
      DecodeInner(static_cast<PayloadType>(200), Hex("00 80 0004"), false);
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.verdict().disposition, Disposition::kNotify);
  EXPECT_EQ(decoded.verdict().notify, NotifyType::kUnsupportedCriticalPayload);
  EXPECT_EQ(decoded.verdict().notify_data, base::Bytes{200});
}

TEST(PayloadChainTest, ClosesOnUnknownCriticalPayloadInResponse) {
  const auto decoded =
      DecodeInner(static_cast<PayloadType>(200), Hex("00 80 0004"), true);
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.verdict().disposition, Disposition::kClose);
  EXPECT_EQ(decoded.verdict().notify, std::nullopt);
}

// RFC 7296 2.21.3.
TEST(PayloadChainTest, ClosesOnBadSyntax) {
  const struct {
    const char* name;
    PayloadType first;
    const char* bytes;
  } kCases[] = {
      {"no generic header", PayloadType::kVendorId, "00 00 00"},
      {"length below the header's", PayloadType::kVendorId, "00 00 0003"},
      {"length past the end", PayloadType::kVendorId, "00 00 0006 bb"},
      {"octets behind the last", PayloadType::kVendorId, "00 00 0005 bb cc"},
      {"next payload missing", PayloadType::kVendorId, "2b 00 0005 bb"},
      {"bad body", PayloadType::kNonce, "00 00 0005 bb"},
      {"octets without a first payload", PayloadType::kNone, "00"},
      {"SK inside SK", PayloadType::kEncrypted, "00 00 0004"},
      {"SKF inside SK", PayloadType::kEncryptedFragment, "00 00 0004"},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.name);
    const auto request = DecodeInner(c.first, Hex(c.bytes), false);
    ASSERT_FALSE(request.ok());
    EXPECT_EQ(request.verdict().disposition, Disposition::kClose);
    EXPECT_EQ(request.verdict().notify, NotifyType::kInvalidSyntax);
    const auto response = DecodeInner(c.first, Hex(c.bytes), true);
    ASSERT_FALSE(response.ok());
    EXPECT_EQ(response.verdict().disposition, Disposition::kClose);
    EXPECT_EQ(response.verdict().notify, std::nullopt);
  }
}

TEST(PayloadChainTest, RefusesMorePayloadsThanItReads) {
  const Payload vendor = Payload::Of(VendorIdPayload{});
  for (size_t count : {kMaxPayloads, kMaxPayloads + 1}) {
    base::ByteWriter writer;
    EncodeChain(Payloads(count, vendor), &writer);
    EXPECT_EQ(DecodeInner(PayloadType::kVendorId, writer.Take(), false).ok(),
              count == kMaxPayloads);
  }
}

TEST(PayloadChainTest, CountsSkippedPayloads) {
  base::Bytes bytes;
  for (size_t i = 0; i < kMaxPayloads + 1; ++i) {
    for (uint8_t octet : Hex(i == kMaxPayloads ? "00 00 0004" : "c8 00 0004")) {
      bytes.push_back(octet);
    }
  }
  EXPECT_FALSE(DecodeInner(static_cast<PayloadType>(200), bytes, false).ok());
}

TEST(PayloadChainTest, FindsByTypeAndByNotification) {
  const Payloads payloads = {
      {PayloadType::kIdi, IdPayload{.data = {'i'}}},
      {PayloadType::kIdr, IdPayload{.data = {'r'}}},
      Payload::Of(NotifyPayload::Of(NotifyType::kInitialContact)),
      Payload::Of(NotifyPayload::Of(NotifyType::kTsUnacceptable))};
  EXPECT_EQ(Find<IdPayload>(payloads, PayloadType::kIdr)->data,
            base::Bytes{'r'});
  EXPECT_EQ(Find<KePayload>(payloads), nullptr);
  EXPECT_EQ(FindAll<NotifyPayload>(payloads).size(), 2u);
  EXPECT_NE(FindNotify(payloads, NotifyType::kInitialContact), nullptr);
  EXPECT_EQ(FindNotify(payloads, NotifyType::kCookie), nullptr);
  EXPECT_EQ(FindError(payloads)->type, NotifyType::kTsUnacceptable);
}

}  // namespace
}  // namespace espalier::wire
