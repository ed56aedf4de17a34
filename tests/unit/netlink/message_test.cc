#include "agent/netlink/message.h"

#include <cerrno>

#include "gmock/gmock.h"

namespace espalier::netlink {
namespace {

TEST(RequestTest, AttributesReadBackAsTheyWerePut) {
  Request request(77, NLM_F_CREATE, "test");
  request.PutU8(1, 0x12);
  request.PutU16(2, 0x1234);
  request.PutU32(3, 0x12345678);
  request.PutU64(4, 0x123456789abcdef0);
  request.PutString(5, "name");
  request.PutAddress(6, *base::IpAddress::Parse("2001:db8::1"));
  // Larger than the first buffer: it has to grow, also inside a nest.
  const base::Bytes large(5000, 0x5a);
  request.PutNest(7, [&] {
    request.PutU32(1, 42);
    request.PutNest(2, [&] { request.PutBytes(3, large); });
  });
  EXPECT_EQ(request.type(), 77);
  EXPECT_EQ(request.flags(), NLM_F_REQUEST | NLM_F_CREATE);

  base::ByteReader bytes(request.bytes());
  nlmsghdr header;
  base::ByteSpan payload;
  ASSERT_TRUE(ReadMessage(&bytes, &header, &payload));
  EXPECT_TRUE(bytes.empty());
  AttributeReader reader(payload);
  Attribute attribute;
  ASSERT_TRUE(reader.Next(&attribute));
  EXPECT_EQ(attribute.AsU8(), 0x12);
  EXPECT_EQ(attribute.AsU16(), std::nullopt);
  ASSERT_TRUE(reader.Next(&attribute));
  EXPECT_EQ(attribute.AsU16(), 0x1234);
  ASSERT_TRUE(reader.Next(&attribute));
  EXPECT_EQ(attribute.AsU32(), 0x12345678u);
  ASSERT_TRUE(reader.Next(&attribute));
  EXPECT_EQ(attribute.AsU64(), 0x123456789abcdef0u);
  ASSERT_TRUE(reader.Next(&attribute));
  EXPECT_EQ(attribute.AsString(), "name");
  EXPECT_EQ(attribute.AsAddress(), std::nullopt);
  ASSERT_TRUE(reader.Next(&attribute));
  EXPECT_EQ(attribute.AsAddress()->ToString(), "2001:db8::1");
  ASSERT_TRUE(reader.Next(&attribute));
  EXPECT_EQ(attribute.type, 7);
  AttributeReader nest(attribute.value);
  Attribute inner;
  ASSERT_TRUE(nest.Next(&inner));
  EXPECT_EQ(inner.AsU32(), 42u);
  ASSERT_TRUE(nest.Next(&inner));
  AttributeReader deep(inner.value);
  ASSERT_TRUE(deep.Next(&inner));
  EXPECT_TRUE(std::ranges::equal(inner.value, large));
  EXPECT_FALSE(reader.Next(&attribute));
  EXPECT_FALSE(reader.malformed());
}

TEST(RequestTest, ACloneIsEqualAndApart) {
  Request request(1, 0, "test");
  request.PutU32(1, 1);
  Request copy = request.Clone();
  EXPECT_TRUE(std::ranges::equal(copy.bytes(), request.bytes()));
  copy.PutU32(2, 2);
  EXPECT_GT(copy.bytes().size(), request.bytes().size());
  const Request moved = std::move(copy);
  EXPECT_EQ(moved.type(), 1);
}

TEST(AttributeReaderTest, LengthsThatDoNotFitEndTheWalk) {
  struct Case {
    base::Bytes bytes;
    int attributes;
    bool malformed;
  };
  const Case cases[] = {
      {{}, 0, false},
      {{8, 0, 1}, 0, false},                // padding
      {{4, 0, 1, 0}, 1, false},             // empty
      {{3, 0, 1, 0}, 0, true},              // shorter than its header
      {{0, 0, 1, 0}, 0, true},              // would loop for ever
      {{9, 0, 1, 0, 1, 2, 3, 4}, 0, true},  // beyond the end
      {{5, 0, 1, 0, 1}, 1, false},          // last, without padding
      {{5, 0, 1, 0, 1, 0, 0, 0, 4, 0, 2, 0}, 2, false},
      {{0xff, 0xff, 1, 0, 1, 2, 3, 4}, 0, true},
  };
  for (const Case& test : cases) {
    AttributeReader reader(test.bytes);
    Attribute attribute;
    int count = 0;
    while (reader.Next(&attribute)) ++count;
    EXPECT_EQ(count, test.attributes) << base::ToHex(test.bytes);
    EXPECT_EQ(reader.malformed(), test.malformed) << base::ToHex(test.bytes);
  }
}

base::Bytes Octets(std::initializer_list<int32_t> words) {
  base::Bytes bytes;
  for (int32_t word : words) {
    for (int i = 0; i < 4; ++i) {
      bytes.push_back(static_cast<uint8_t>(word >> (8 * i)));
    }
  }
  return bytes;
}

TEST(AcknowledgementTest, ErrorsOutsideErrnoAreNotTheKernels) {
  const nlmsghdr error{.nlmsg_type = NLMSG_ERROR};
  EXPECT_EQ(ParseAcknowledgement(error, Octets({0})).error, 0);
  EXPECT_EQ(ParseAcknowledgement(error, Octets({-EEXIST})).error, EEXIST);
  EXPECT_EQ(ParseAcknowledgement(error, Octets({5})).error, EBADMSG);
  EXPECT_EQ(ParseAcknowledgement(error, Octets({INT32_MIN})).error, EBADMSG);
  EXPECT_EQ(ParseAcknowledgement(error, {}).error, EBADMSG);
  const nlmsghdr done{.nlmsg_type = NLMSG_DONE};
  EXPECT_EQ(ParseAcknowledgement(done, {}).error, 0);
}

TEST(AcknowledgementTest, TheKernelsWordsAreRead) {
  Request quoted(1, 0, "test");
  quoted.PutU32(1, 1);
  for (const bool capped : {true, false}) {
    base::Bytes payload = Octets({-EINVAL});
    const base::ByteSpan request =
        capped ? quoted.bytes().first(sizeof(nlmsghdr)) : quoted.bytes();
    payload.insert(payload.end(), request.begin(), request.end());
    Request attributes(1, 0, "test");
    attributes.PutString(NLMSGERR_ATTR_MSG, "no good");
    attributes.PutU32(NLMSGERR_ATTR_OFFS, 20);
    payload.insert(payload.end(), attributes.payload().begin(),
                   attributes.payload().end());
    const nlmsghdr header{.nlmsg_type = NLMSG_ERROR,
                          .nlmsg_flags = static_cast<uint16_t>(
                              NLM_F_ACK_TLVS | (capped ? NLM_F_CAPPED : 0))};
    const Acknowledgement ack = ParseAcknowledgement(header, payload);
    EXPECT_EQ(ack.error, EINVAL);
    EXPECT_EQ(ack.detail, "; kernel: no good; at octet 20 of the request");
    for (size_t length = 0; length < payload.size(); ++length) {
      ParseAcknowledgement(header, base::ByteSpan(payload).first(length));
    }
  }
}

TEST(ReadMessageTest, LengthsThatDoNotFitEndTheWalk) {
  Request request(16, 0, "test");
  request.PutU8(1, 1);
  base::Bytes bytes(request.bytes().begin(), request.bytes().end());
  for (uint32_t length : {0u, 15u, 25u, 0xffffffffu}) {
    base::Bytes wrong = bytes;
    std::memcpy(wrong.data(), &length, sizeof(length));
    base::ByteReader reader(wrong);
    nlmsghdr header;
    base::ByteSpan payload;
    EXPECT_FALSE(ReadMessage(&reader, &header, &payload)) << length;
  }
  base::ByteReader reader(bytes);
  nlmsghdr header;
  base::ByteSpan payload;
  EXPECT_TRUE(ReadMessage(&reader, &header, &payload));
  EXPECT_FALSE(ReadMessage(&reader, &header, &payload));
}

}  // namespace
}  // namespace espalier::netlink
