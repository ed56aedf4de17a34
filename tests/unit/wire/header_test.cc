#include "agent/wire/header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/wire/hex.h"

namespace espalier::wire {
namespace {

using Disposition = Verdict::Disposition;

// An empty INFORMATIONAL request: SPIs, next payload, version, exchange,
// flags, message id, length (RFC 7296 3.1).
const char kInformational[] =
    "0102030405060708 1112131415161718 00 20 25 08 00000007 0000001c";

TEST(HeaderTest, ReadsEveryField) {
  const auto decoded = DecodeHeader(Hex(kInformational));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->header, (Header{.initiator_spi = 0x0102030405060708,
                                     .responder_spi = 0x1112131415161718,
                                     .exchange = ExchangeType::kInformational,
                                     .from_initiator = true,
                                     .message_id = 7}));
  EXPECT_EQ(decoded->first_payload, PayloadType::kNone);
  EXPECT_EQ(decoded->length, 28u);
}

TEST(HeaderTest, WritesEveryField) {
  Header header = {.initiator_spi = 0x0102030405060708,
                   .responder_spi = 0x1112131415161718,
                   .exchange = ExchangeType::kIkeAuth,
                   .response = true,
                   .message_id = 1};
  base::ByteWriter writer;
  EncodeHeader(header, PayloadType::kEncrypted, &writer);
  EXPECT_EQ(writer.Take(), Hex("0102030405060708 1112131415161718"
                               "2e 20 23 20 00000001 00000000"));
}

TEST(HeaderTest, IgnoresMinorVersionAndVersionFlagButKeepsThem) {
  base::Bytes bytes = Hex(kInformational);
  bytes[17] = 0x2f;
  bytes[19] = 0x18;
  const auto decoded = DecodeHeader(bytes);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->header.minor_version, 15);
  EXPECT_TRUE(decoded->header.higher_version);
}

TEST(HeaderTest, AnswersHigherMajorVersionWithTheOneItSpeaks) {
  base::Bytes bytes = Hex(kInformational);
  bytes[17] = 0x30;
  const auto decoded = DecodeHeader(bytes);
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.verdict().disposition, Disposition::kNotify);
  EXPECT_EQ(decoded.verdict().notify, NotifyType::kInvalidMajorVersion);
  EXPECT_EQ(decoded.verdict().notify_data, base::Bytes{0x20});
}

TEST(HeaderTest, DropsResponseOfHigherMajorVersion) {
  base::Bytes bytes = Hex(kInformational);
  bytes[17] = 0x30;
  bytes[19] = 0x20;
  const auto decoded = DecodeHeader(bytes);
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.verdict().disposition, Disposition::kDrop);
}

TEST(HeaderTest, DropsIkeVersion1) {
  base::Bytes bytes = Hex(kInformational);
  bytes[17] = 0x10;
  const auto decoded = DecodeHeader(bytes);
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.verdict().disposition, Disposition::kDrop);
}

TEST(HeaderTest, DropsLengthThatIsNotTheDatagrams) {
  for (uint8_t length : {0, 27, 29, 255}) {
    base::Bytes bytes = Hex(kInformational);
    bytes[27] = length;
    const auto decoded = DecodeHeader(bytes);
    ASSERT_FALSE(decoded.ok()) << int{length};
    EXPECT_EQ(decoded.verdict().disposition, Disposition::kDrop);
  }
}

TEST(HeaderTest, DropsInitiatorSpiZero) {
  base::Bytes bytes = Hex(kInformational);
  std::fill(bytes.begin(), bytes.begin() + 8, 0);
  EXPECT_FALSE(DecodeHeader(bytes).ok());
}

TEST(HeaderTest, DropsEveryTruncation) {
  const base::Bytes bytes = Hex(kInformational);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto decoded = DecodeHeader(base::ByteSpan(bytes).first(size));
    ASSERT_FALSE(decoded.ok()) << size;
    EXPECT_EQ(decoded.verdict().disposition, Disposition::kDrop);
  }
}

}  // namespace
}  // namespace espalier::wire
