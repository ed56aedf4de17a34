#include "agent/wire/encrypted_payload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "agent/wire/message.h"
#include "tests/unit/wire/hex.h"

namespace espalier::wire {
namespace {

constexpr CipherSizes kGcm = {.iv = 8, .icv = 16, .block = 1};
constexpr CipherSizes kCbc = {.iv = 16, .icv = 16, .block = 16};

Header AuthRequest() {
  return {.initiator_spi = 1,
          .responder_spi = 2,
          .exchange = ExchangeType::kIkeAuth,
          .from_initiator = true,
          .message_id = 1};
}

TEST(EncryptedPayloadTest, LaysOutCombinedModeWithoutPadding) {
  SealedMessage message = LayOut(AuthRequest(), PayloadType::kIdi,
                                 Hex("aabbccddee"), std::nullopt, kGcm);
  EXPECT_EQ(base::Bytes(message.span().begin(), message.span().end()),
            Hex("0000000000000001 0000000000000002 2e 20 23 08 00000001"
                "0000003e"          // 62 octets in all
                "23 00 0022"        // IDi inside, 34 octets
                "0000000000000000"  // IV
                "aabbccddee 00"     // chain, pad length 0
                "00000000000000000000000000000000"));
  EXPECT_EQ(message.associated_data().size(), 32u);
  EXPECT_EQ(message.iv().size(), 8u);
  EXPECT_EQ(message.plaintext().size(), 6u);
  EXPECT_EQ(message.icv().size(), 16u);
  EXPECT_EQ(message.integrity_input().size(), 62u - 16u);
}

TEST(EncryptedPayloadTest, PadsToTheBlockOfCbc) {
  for (size_t size = 0; size < 40; ++size) {
    SealedMessage message = LayOut(AuthRequest(), PayloadType::kIdi,
                                   base::Bytes(size, 0xee), std::nullopt, kCbc);
    const base::MutableByteSpan plaintext = message.plaintext();
    EXPECT_EQ(plaintext.size() % 16, 0u);
    EXPECT_LT(plaintext.size(), size + 17);
    EXPECT_EQ(message.span().size(), SealedSize(size, false, kCbc));
    const auto chain = RemovePadding(plaintext);
    ASSERT_TRUE(chain.has_value());
    EXPECT_EQ(chain->size(), size);
  }
}

TEST(EncryptedPayloadTest, DecodesWhatItLaidOut) {
  SealedMessage sealed = LayOut(AuthRequest(), PayloadType::kIdi,
                                base::Bytes(5, 0xee), std::nullopt, kGcm);
  const base::Bytes datagram = sealed.Take();
  const auto message = DecodeMessage(datagram);
  ASSERT_TRUE(message.ok()) << message.verdict().reason;
  ASSERT_TRUE(message->encrypted.has_value());
  EXPECT_EQ(message->encrypted->first_inner, PayloadType::kIdi);
  EXPECT_EQ(message->encrypted->fragment, std::nullopt);
  EXPECT_EQ(message->encrypted->associated_data.size(), 32u);
  EXPECT_EQ(message->encrypted->body.size(), 8u + 6u + 16u);
  EXPECT_EQ(message->encrypted->message.size(), datagram.size());
}

// RFC 7383 2.5.
TEST(EncryptedPayloadTest, LaysOutAndDecodesFragments) {
  for (uint16_t number : {1, 2}) {
    SealedMessage sealed =
        LayOut(AuthRequest(), PayloadType::kIdi, base::Bytes(5, 0xee),
               FragmentPlace{number, 2}, kGcm);
    EXPECT_EQ(sealed.associated_data().size(), 36u);
    const base::Bytes datagram = sealed.Take();
    EXPECT_EQ(datagram.size(), SealedSize(5, true, kGcm));
    EXPECT_EQ(datagram[16], 53);
    const auto message = DecodeMessage(datagram);
    ASSERT_TRUE(message.ok()) << message.verdict().reason;
    EXPECT_EQ(message->encrypted->fragment, (FragmentPlace{number, 2}));
    EXPECT_EQ(message->encrypted->first_inner,
              number == 1 ? PayloadType::kIdi : PayloadType::kNone);
    EXPECT_EQ(message->encrypted->associated_data.size(), 36u);
    EXPECT_EQ(message->encrypted->body.size(), 8u + 6u + 16u);
  }
}

TEST(EncryptedPayloadTest, DropsFragmentNumbersOutOfRange) {
  for (const FragmentPlace& place :
       {FragmentPlace{0, 2}, FragmentPlace{3, 2}, FragmentPlace{1, 0}}) {
    const base::Bytes datagram =
        LayOut(AuthRequest(), PayloadType::kIdi, {}, place, kGcm).Take();
    const auto message = DecodeMessage(datagram);
    ASSERT_FALSE(message.ok());
    EXPECT_EQ(message.verdict().disposition, Verdict::Disposition::kDrop);
  }
}

TEST(EncryptedPayloadTest, SplitsSoThatEveryFragmentFits) {
  base::Bytes chain(5000);
  for (size_t i = 0; i < chain.size(); ++i) chain[i] = static_cast<uint8_t>(i);
  for (const CipherSizes& sizes : {kGcm, kCbc}) {
    for (size_t limit : {200, 576, 1200, 1201, 1215, 1216}) {
      const auto pieces = SplitIntoFragments(chain, limit, sizes);
      ASSERT_FALSE(pieces.empty());
      base::Bytes joined;
      for (const base::ByteSpan& piece : pieces) {
        EXPECT_LE(SealedSize(piece.size(), true, sizes), limit);
        joined.insert(joined.end(), piece.begin(), piece.end());
      }
      EXPECT_EQ(joined, chain);
      // No piece but the last could have been longer by a block.
      EXPECT_GT(SealedSize(pieces[0].size() + sizes.block, true, sizes), limit);
    }
  }
}

TEST(EncryptedPayloadTest, SplitsNothingWhereNothingFits) {
  EXPECT_TRUE(SplitIntoFragments(base::Bytes(10), 40, kGcm).empty());
  EXPECT_TRUE(SplitIntoFragments(base::Bytes(10), 61, kGcm).empty());
  EXPECT_EQ(SplitIntoFragments(base::Bytes(10), 62, kGcm).size(), 10u);
  EXPECT_TRUE(SplitIntoFragments(base::Bytes(65536), 62, kGcm).empty());
}

TEST(EncryptedPayloadTest, RemovesPaddingOfAnyContent) {
  const base::Bytes padded = Hex("aabb 010203 03");
  const auto chain = RemovePadding(padded);
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(base::Bytes(chain->begin(), chain->end()), Hex("aabb"));
  EXPECT_EQ(RemovePadding(Hex("00"))->size(), 0u);
  EXPECT_EQ(RemovePadding({}), std::nullopt);
  EXPECT_EQ(RemovePadding(Hex("0102 03")), std::nullopt);
}

}  // namespace
}  // namespace espalier::wire
