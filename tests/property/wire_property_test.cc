// agent/wire: decode after encode is the identity; every bit flip and every
// truncation of every kind of message gives a value or a verdict.
#include <gtest/gtest.h>

#include "agent/wire/message.h"
#include "tests/property/wire_decode_check.h"
#include "tests/property/wire_samples.h"

namespace espalier::wire {
namespace {

constexpr int kSeeds = 3000;

TEST(WirePropertyTest, DecodeAfterEncodeIsTheIdentity) {
  size_t payloads_seen = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    Generator generator(seed);
    const Header header = generator.RandomHeader();
    const Payloads payloads = generator.RandomPayloads(8);
    payloads_seen += payloads.size();
    const base::Bytes datagram = EncodeMessage(header, payloads);
    const auto message = DecodeMessage(datagram);
    ASSERT_TRUE(message.ok()) << message.verdict().reason;
    ASSERT_EQ(message->header, header);
    ASSERT_EQ(message->payloads, payloads);
    ASSERT_EQ(CheckMessageDecoding(datagram), "");
  }
  EXPECT_GT(payloads_seen, 3u * kSeeds);
}

TEST(WirePropertyTest, EncryptedPartComesBackAsItWasLaidOut) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    Generator generator(seed);
    Header header = generator.RandomHeader();
    header.exchange = ExchangeType::kInformational;
    const Payloads payloads = generator.RandomPayloads(6);
    base::ByteWriter writer;
    const PayloadType first = EncodeChain(payloads, &writer);
    const base::Bytes chain = writer.Take();
    const CipherSizes sizes = {.iv = generator.Below(0, 16),
                               .icv = generator.Below(8, 32),
                               .block = generator.Below(1, 16)};
    const size_t limit = generator.Below(300, 1400);
    const auto pieces = SplitIntoFragments(chain, limit, sizes);
    ASSERT_FALSE(pieces.empty());
    base::Bytes joined;
    PayloadType joined_first = PayloadType::kNone;
    for (size_t i = 0; i < pieces.size(); ++i) {
      std::optional<FragmentPlace> place;
      if (pieces.size() > 1) {
        place = FragmentPlace{static_cast<uint16_t>(i + 1),
                              static_cast<uint16_t>(pieces.size())};
      }
      SealedMessage sealed = LayOut(header, first, pieces[i], place, sizes);
      ASSERT_LE(sealed.span().size(), limit);
      const base::Bytes datagram = sealed.Take();
      const auto message = DecodeMessage(datagram);
      ASSERT_TRUE(message.ok()) << message.verdict().reason;
      ASSERT_EQ(message->header, header);
      const EncryptedPart& part = message->encrypted.value();
      ASSERT_EQ(part.fragment, place);
      if (i == 0) joined_first = part.first_inner;
      const auto piece = RemovePadding(
          part.body.subspan(sizes.iv, part.body.size() - sizes.iv - sizes.icv));
      ASSERT_TRUE(piece.has_value());
      joined.insert(joined.end(), piece->begin(), piece->end());
    }
    ASSERT_EQ(joined, chain);
    const auto inner = DecodeInner(joined_first, joined, header.response);
    ASSERT_TRUE(inner.ok()) << inner.verdict().reason;
    ASSERT_EQ(*inner, payloads);
  }
}

TEST(WirePropertyTest, EveryTruncationIsRefused) {
  for (const Sample& sample : MessageKinds()) {
    SCOPED_TRACE(sample.name);
    const base::Bytes datagram = Datagram(sample);
    for (size_t size = 0; size < datagram.size(); ++size) {
      bool accepted = true;
      ASSERT_EQ(
          CheckMessageDecoding(base::ByteSpan(datagram).first(size), &accepted),
          "");
      ASSERT_FALSE(accepted) << size;
    }
    const base::Bytes chain = Chain(sample);
    for (size_t size = 0; size < chain.size(); ++size) {
      bool accepted = true;
      ASSERT_EQ(CheckChainDecoding(sample.payloads.front().type,
                                   base::ByteSpan(chain).first(size),
                                   sample.header.response, &accepted),
                "");
      ASSERT_FALSE(accepted) << size;
    }
  }
}

// The same with the header's length made to fit, so that the payloads are what
// is cut.
TEST(WirePropertyTest, EveryTruncationWithItsLengthGivesAVerdict) {
  for (const Sample& sample : MessageKinds()) {
    SCOPED_TRACE(sample.name);
    const base::Bytes whole = Datagram(sample);
    for (size_t size = kHeaderSize; size < whole.size(); ++size) {
      base::Bytes datagram(whole.begin(),
                           whole.begin() + static_cast<long>(size));
      datagram[kLengthOffset + 2] = static_cast<uint8_t>(size >> 8);
      datagram[kLengthOffset + 3] = static_cast<uint8_t>(size);
      bool accepted = true;
      ASSERT_EQ(CheckMessageDecoding(datagram, &accepted), "");
      ASSERT_FALSE(accepted) << size;
    }
  }
}

TEST(WirePropertyTest, EveryBitFlipGivesAValueOrAVerdict) {
  for (const Sample& sample : MessageKinds()) {
    SCOPED_TRACE(sample.name);
    base::Bytes datagram = Datagram(sample);
    for (size_t bit = 0; bit < datagram.size() * 8; ++bit) {
      datagram[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      ASSERT_EQ(CheckMessageDecoding(datagram), "") << "bit " << bit;
      datagram[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
    base::Bytes chain = Chain(sample);
    const PayloadType first = sample.payloads.empty()
                                  ? PayloadType::kNone
                                  : sample.payloads.front().type;
    for (size_t bit = 0; bit < chain.size() * 8; ++bit) {
      chain[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      ASSERT_EQ(CheckChainDecoding(first, chain, sample.header.response), "")
          << "bit " << bit;
      chain[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
  }
}

TEST(WirePropertyTest, RandomDamageGivesAValueOrAVerdict) {
  size_t accepted_count = 0;
  constexpr int kRounds = 20000;
  for (uint64_t seed = 1; seed <= kRounds; ++seed) {
    Generator generator(seed);
    base::ByteWriter writer;
    const PayloadType first = EncodeChain(generator.RandomPayloads(5), &writer);
    base::Bytes chain = writer.Take();
    for (size_t i = generator.Below(0, 4); i > 0 && !chain.empty(); --i) {
      chain[generator.Below(0, chain.size() - 1)] =
          static_cast<uint8_t>(generator.Below(0, 255));
    }
    bool accepted = false;
    ASSERT_EQ(CheckChainDecoding(first, chain, seed % 2 == 0, &accepted), "")
        << seed;
    accepted_count += accepted ? 1 : 0;
  }
  // Both ways out were taken, or the test proves little.
  EXPECT_GT(accepted_count, kRounds / 10);
  EXPECT_LT(accepted_count, kRounds * 9 / 10);
}

// Negative control of the identity: it would see one octet.
TEST(WirePropertyTest, ComparisonSeesOneOctet) {
  Generator generator(7);
  Payloads payloads = {Payload::Of(NoncePayload{base::Bytes(16, 1)})};
  Payloads changed = payloads;
  std::get<NoncePayload>(changed[0].body).nonce[3] ^= 1;
  EXPECT_FALSE(payloads == changed);
  const base::Bytes datagram =
      EncodeMessage(generator.RandomHeader(), payloads);
  EXPECT_FALSE(DecodeMessage(datagram)->payloads == changed);
}

}  // namespace
}  // namespace espalier::wire
