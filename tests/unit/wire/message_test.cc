#include "agent/wire/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/wire/hex.h"

namespace espalier::wire {
namespace {

using Disposition = Verdict::Disposition;

const char kInitRequest[] =
    "0102030405060708 0000000000000000 21 20 22 08 00000000 0000006f"
    "22 00 0028"  // SA
    "  00 00 0024 01 01 00 03"
    "  03 00 000c 01 00 0014 800e 0100"
    "  03 00 0008 02 00 0006"
    "  00 00 0008 04 00 001f"
    "28 00 000b 001f 0000 aabbcc"                  // KE
    "29 00 0014 000102030405060708090a0b0c0d0e0f"  // Nonce
    "00 00 000c 00 00 402f 0002 0005";

Header InitHeader() {
  return {.initiator_spi = 0x0102030405060708,
          .exchange = ExchangeType::kIkeSaInit,
          .from_initiator = true};
}

Payloads InitPayloads() {
  base::Bytes nonce(16);
  for (size_t i = 0; i < nonce.size(); ++i) nonce[i] = static_cast<uint8_t>(i);
  return {
      Payload::Of(
          SaPayload{{{.number = 1,
                      .protocol = ProtocolId::kIke,
                      .transforms = {{TransformType::kEncryption, 20, 256},
                                     {TransformType::kPrf, 6},
                                     {TransformType::kKeyExchange, 31}}}}}),
      Payload::Of(KePayload{31, {0xaa, 0xbb, 0xcc}}),
      Payload::Of(NoncePayload{nonce}),
      Payload::Of(NotifyPayload::SignatureHashAlgorithms(
          {HashAlgorithm::kSha2_256, HashAlgorithm::kIdentity})),
  };
}

TEST(MessageTest, EncodesIkeSaInitOctetByOctet) {
  EXPECT_EQ(EncodeMessage(InitHeader(), InitPayloads()), Hex(kInitRequest));
}

TEST(MessageTest, DecodesIkeSaInit) {
  const base::Bytes datagram = Hex(kInitRequest);
  const auto message = DecodeMessage(datagram);
  ASSERT_TRUE(message.ok()) << message.verdict().reason;
  EXPECT_EQ(message->header, InitHeader());
  EXPECT_EQ(message->payloads, InitPayloads());
  EXPECT_FALSE(message->encrypted.has_value());
}

TEST(MessageTest, AnswersUnknownCriticalPayloadOfIkeSaInitRequest) {
  base::Bytes datagram =
      Hex("0102030405060708 0000000000000000 c8 20 22 08 00000000 00000020"
          "00 80 0004");
  auto message = DecodeMessage(datagram);
  ASSERT_FALSE(message.ok());
  EXPECT_EQ(message.verdict().disposition, Disposition::kNotify);
  EXPECT_EQ(message.verdict().notify, NotifyType::kUnsupportedCriticalPayload);
  EXPECT_EQ(message.verdict().notify_data, base::Bytes{200});

  datagram[19] = 0x20;  // the same in a response
  message = DecodeMessage(datagram);
  ASSERT_FALSE(message.ok());
  EXPECT_EQ(message.verdict().disposition, Disposition::kDrop);
}

// RFC 7296 3.10.1: INVALID_SYNTAX answers only what was authenticated.
TEST(MessageTest, DropsBadSyntaxInTheClear) {
  base::Bytes datagram = Hex(kInitRequest);
  datagram[31] = 0x03;  // length of the SA payload
  const auto message = DecodeMessage(datagram);
  ASSERT_FALSE(message.ok());
  EXPECT_EQ(message.verdict().disposition, Disposition::kDrop);
}

TEST(MessageTest, DropsEncryptedPayloadInIkeSaInit) {
  const auto message = DecodeMessage(
      Hex("0102030405060708 0000000000000000 2e 20 22 08 00000000 00000020"
          "00 00 0004"));
  ASSERT_FALSE(message.ok());
  EXPECT_EQ(message.verdict().disposition, Disposition::kDrop);
}

// RFC 7296 3.14: SK is always the last payload.
TEST(MessageTest, DropsOctetsBehindEncryptedPayload) {
  const auto message = DecodeMessage(
      Hex("0102030405060708 0000000000000001 2e 20 25 08 00000000 00000025"
          "2b 00 0004 00 00 0005 bb"));
  ASSERT_FALSE(message.ok());
  EXPECT_EQ(message.verdict().disposition, Disposition::kDrop);
}

TEST(MessageTest, KeepsPayloadsBeforeEncryptedPayload) {
  const base::Bytes datagram =
      Hex("0102030405060708 0000000000000001 2b 20 25 08 00000000 00000027"
          "2e 00 0005 bb  29 00 0006 aabb");
  const auto message = DecodeMessage(datagram);
  ASSERT_TRUE(message.ok()) << message.verdict().reason;
  EXPECT_EQ(message->payloads.size(), 1u);
  EXPECT_EQ(message->encrypted->first_inner, PayloadType::kNotify);
  EXPECT_EQ(message->encrypted->body.size(), 2u);
  EXPECT_EQ(message->encrypted->associated_data.size(), 37u);
}

}  // namespace
}  // namespace espalier::wire
