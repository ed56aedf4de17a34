#include "agent/esp/selectors.h"

#include "agent/esp/policy_table.h"
#include "gtest/gtest.h"
#include "tests/support/esp_end.h"

namespace espalier::esp {
namespace {

using base::TrafficSelector;
using testing::Address;
using testing::MakePacket;
using testing::PacketOptions;
using testing::Prefix;

TrafficSelector Any(const std::string& prefix) {
  return TrafficSelector::FromPrefix(Prefix(prefix));
}

bool Match(Selectors& selectors, const base::Bytes& packet) {
  return selectors.Match(ParseInnerPacket(packet).value(), packet);
}

TEST(Selectors, BothAddressesMustMatch) {
  Selectors selectors({Any("10.1.0.0/16")}, {Any("10.2.0.0/16")});
  EXPECT_TRUE(Match(selectors, MakePacket({})));
  EXPECT_FALSE(Match(selectors, MakePacket({.source = "10.3.0.5"})));
  EXPECT_FALSE(Match(selectors, MakePacket({.destination = "10.3.0.5"})));
  EXPECT_FALSE(Match(selectors, MakePacket({.v6 = true})));
  // What was let through does not let others through.
  EXPECT_TRUE(Match(selectors, MakePacket({})));
  EXPECT_FALSE(Match(selectors, MakePacket({.source = "10.0.255.255"})));
  EXPECT_FALSE(Match(selectors, MakePacket({.source = "10.2.0.0"})));
}

TEST(Selectors, ProtocolAndPorts) {
  TrafficSelector https = Any("10.2.0.0/16");
  https.protocol = kProtocolTcp;
  https.first_port = https.last_port = 443;
  Selectors selectors({Any("10.1.0.0/16")}, {https});
  EXPECT_TRUE(Match(selectors, MakePacket({})));
  EXPECT_FALSE(Match(selectors, MakePacket({.tcp = false})));
  https.first_port = https.last_port = 80;
  Selectors http({Any("10.1.0.0/16")}, {https});
  EXPECT_FALSE(Match(http, MakePacket({})));
}

TEST(Selectors, LaterFragmentsMeetOnlyAnyPort) {
  TrafficSelector https = Any("10.2.0.0/16");
  https.first_port = https.last_port = 443;
  Selectors ports({Any("10.1.0.0/16")}, {https});
  Selectors any({Any("10.1.0.0/16")}, {Any("10.2.0.0/16")});
  base::Bytes fragment = MakePacket({.dont_fragment = false});
  EXPECT_TRUE(Match(ports, fragment));
  fragment[7] = 100;
  EXPECT_FALSE(Match(ports, fragment));
  EXPECT_TRUE(Match(any, fragment));
}

base::TunnelPolicy MakePolicy(uint32_t reqid, std::vector<std::string> local,
                              std::vector<std::string> remote) {
  base::TunnelPolicy policy;
  policy.reqid = base::Reqid(reqid);
  for (const auto& text : local) policy.local.push_back(Prefix(text));
  for (const auto& text : remote) policy.remote.push_back(Prefix(text));
  return policy;
}

std::optional<base::Reqid> Find(const PolicyTable& table,
                                const PacketOptions& options) {
  return table.Find(ParseInnerPacket(MakePacket(options)).value());
}

TEST(PolicyTable, TheLongestRemotePrefixWins) {
  PolicyTable table;
  ASSERT_TRUE(table.Set(MakePolicy(1, {"10.1.0.0/16"}, {"0.0.0.0/0"})).ok());
  ASSERT_TRUE(table.Set(MakePolicy(2, {"10.1.0.0/16"}, {"10.2.0.0/16"})).ok());
  ASSERT_TRUE(table.Set(MakePolicy(3, {"10.1.0.0/16"}, {"10.2.0.6/32"})).ok());
  EXPECT_EQ(Find(table, {}), base::Reqid(3));
  EXPECT_EQ(Find(table, {.destination = "10.2.0.7"}), base::Reqid(2));
  EXPECT_EQ(Find(table, {.destination = "8.8.8.8"}), base::Reqid(1));
  EXPECT_EQ(Find(table, {.v6 = true}), std::nullopt);
  EXPECT_TRUE(table.Remove(base::Reqid(3)));
  EXPECT_FALSE(table.Remove(base::Reqid(3)));
  EXPECT_EQ(Find(table, {}), base::Reqid(2));
}

TEST(PolicyTable, TheSourceMustBeLocal) {
  PolicyTable table;
  ASSERT_TRUE(table.Set(MakePolicy(1, {"10.1.0.0/16"}, {"10.2.0.0/16"})).ok());
  ASSERT_TRUE(table.Set(MakePolicy(2, {"10.9.0.0/16"}, {"10.2.0.6/32"})).ok());
  EXPECT_EQ(Find(table, {}), base::Reqid(1));
  EXPECT_EQ(Find(table, {.source = "10.9.0.1"}), base::Reqid(2));
  EXPECT_EQ(Find(table, {.source = "10.8.0.1"}), std::nullopt);
}

TEST(PolicyTable, SetReplaces) {
  PolicyTable table;
  ASSERT_TRUE(table.Set(MakePolicy(1, {"10.1.0.0/16"}, {"10.2.0.0/16"})).ok());
  const uint64_t generation = table.generation();
  ASSERT_TRUE(table.Set(MakePolicy(1, {"10.1.0.0/16"}, {"10.4.0.0/16"})).ok());
  EXPECT_NE(table.generation(), generation);
  EXPECT_EQ(Find(table, {}), std::nullopt);
  EXPECT_EQ(Find(table, {.destination = "10.4.0.1"}), base::Reqid(1));
  EXPECT_EQ(table.policies().size(), 1u);
}

}  // namespace
}  // namespace espalier::esp
