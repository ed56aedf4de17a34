#include <gtest/gtest.h>

#include "agent/base/byte_reader.h"
#include "agent/base/byte_writer.h"
#include "agent/base/ip_address.h"
#include "agent/base/security_association.h"

namespace espalier::base {
namespace {

TEST(ByteReaderTest, ShortReadMovesNothing) {
  const Bytes bytes = {1, 2, 3};
  ByteReader reader(bytes);
  uint32_t value = 7;
  EXPECT_FALSE(reader.ReadU32(&value));
  EXPECT_EQ(value, 7u);
  EXPECT_EQ(reader.remaining(), 3u);
}

}  // namespace
}  // namespace espalier::base
