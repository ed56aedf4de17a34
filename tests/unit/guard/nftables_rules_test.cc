#include "agent/guard/nftables_rules.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::guard {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

base::IpPrefix Net(const std::string& text) {
  return *base::IpPrefix::Parse(text);
}

GuardedPod Pod(const std::string& interface, const std::string& address,
               base::Mode mode) {
  return {.host_interface = interface,
          .addresses = {*base::IpAddress::Parse(address)},
          .mode = mode};
}

DesiredGuard Desired() {
  return {.tunnel_interface = "esp0",
          .pods = {Pod("espa", "10.0.1.2", base::Mode::kRequired),
                   Pod("espb", "10.0.1.3", base::Mode::kPreferred),
                   Pod("espc", "10.0.1.4", base::Mode::kDisabled)},
          .inside = {InsideBlock::Pods(Net("10.0.0.0/16"))},
          .in_sync = true};
}

TEST(NftablesRules, SetsFollowTheModes) {
  const GuardSets sets = TableOf(Desired()).sets;
  EXPECT_THAT(sets.at("inner"),
              UnorderedElementsAre("\"lo\"", "\"esp0\"", "\"espa\"", "\"espb\"",
                                   "\"espc\""));
  EXPECT_THAT(sets.at("relaxed4"),
              UnorderedElementsAre("10.0.1.3", "10.0.1.4"));
  EXPECT_THAT(sets.at("disabled4"), UnorderedElementsAre("10.0.1.4"));
  EXPECT_THAT(sets.at("inside4"),
              UnorderedElementsAre("10.0.0.0-10.0.255.255"));
}

// An uplink that carries policies is a wire like any other.
TEST(NftablesRules, PolicyBasedHasNoInnerTunnel) {
  DesiredGuard desired = Desired();
  desired.policy_based = true;
  const GuardTable table = TableOf(desired);
  EXPECT_THAT(table.sets.at("inner"), Not(::testing::Contains("\"esp0\"")));
  EXPECT_THAT(table.rules, HasSubstr("rt ipsec exists return"));
  EXPECT_THAT(table.rules,
              HasSubstr("meta ipsec exists meta mark & 0x0f000000 == "
                        "0x05000000 return"));
}

TEST(NftablesRules, SealedNodesAndOpenPorts) {
  DesiredGuard desired = Desired();
  EXPECT_THAT(TableOf(desired).sets.at("sealed4"), IsEmpty());
  desired.sealed_nodes = {*base::IpAddress::Parse("192.0.2.2"),
                          *base::IpAddress::Parse("2001:db8::2")};
  desired.open_ports = {{6, 6443}, {17, 53}};
  const GuardTable table = TableOf(desired);
  EXPECT_THAT(table.sets.at("sealed4"), UnorderedElementsAre("192.0.2.2"));
  EXPECT_THAT(table.sets.at("sealed6"), UnorderedElementsAre("2001:db8::2"));
  EXPECT_THAT(table.sets.at("open_ports"),
              UnorderedElementsAre("tcp . 6443", "udp . 53"));
  EXPECT_EQ(table.rules, TableOf(Desired()).rules) << "sets alone differ";
}

TEST(NftablesRules, BeforeSyncEverythingIsInside) {
  DesiredGuard desired = Desired();
  desired.in_sync = false;
  desired.inside.clear();
  const GuardSets sets = TableOf(desired).sets;
  EXPECT_THAT(sets.at("inside4"),
              UnorderedElementsAre("0.0.0.0-255.255.255.255"));
  // The node itself has to reach its peers, and the API server.
  EXPECT_THAT(sets.at("plain_node4"),
              UnorderedElementsAre("0.0.0.0-255.255.255.255"));
  EXPECT_THAT(sets.at("plain_preferred4"), IsEmpty());
}

TEST(NftablesRules, AChangeOfAModeChangesMembersOnly) {
  const GuardTable before = TableOf(Desired());
  DesiredGuard desired = Desired();
  const auto change = [&] {
    GuardTable wanted = TableOf(desired);
    return ChangeTable(before, &wanted);
  };
  EXPECT_THAT(change(), IsEmpty());
  desired.pods[1].mode = base::Mode::kRequired;
  desired.pods[2].mode = base::Mode::kPreferred;
  EXPECT_THAT(
      change(),
      ElementsAre("delete element inet espalier_guard disabled4 { 10.0.1.4 }\n"
                  "delete element inet espalier_guard relaxed4 { 10.0.1.3 "
                  "}\n"));
  desired = Desired();
  desired.inside.push_back(InsideBlock::Pods(Net("10.9.0.0/16")));
  // The side in use, a, is left alone until the rules use the other.
  EXPECT_THAT(
      change(),
      ElementsAre(AllOf(HasSubstr("flush set inet espalier_guard inside4_b\n"),
                        HasSubstr("add element inet espalier_guard inside4_b"),
                        Not(HasSubstr("flush set inet espalier_guard "
                                      "inside4_a")),
                        Not(HasSubstr("flush table"))),
                  AllOf(HasSubstr("flush table inet espalier_guard\n"),
                        HasSubstr("@inside4_b"), Not(HasSubstr("@inside4_a")),
                        Not(HasSubstr("flush set inet espalier_guard inside"))),
                  HasSubstr("flush set inet espalier_guard inside4_a\n")));
  desired = Desired();
  desired.tunnel_interface = "esp1";
  // Never by deleting: a packet under way would meet neither table.
  EXPECT_THAT(change(), Each(Not(HasSubstr("delete table"))));
  EXPECT_THAT(change(), Contains(HasSubstr("flush table inet espalier_guard")));
}

TEST(NftablesRules, TheFreeSideIsTheOneThatNoRuleUses) {
  EXPECT_EQ(FreeSide(""), 'a');
  EXPECT_EQ(FreeSide("set inside4_a { }\nip daddr != @inside4_b return"), 'a');
  EXPECT_EQ(FreeSide("set inside4_b { }\nip daddr != @inside4_a return"), 'b');
}

TEST(NftablesRules, RangesAreTold) {
  for (const char* set : {"inside4", "pod_net6", "plain_node4"}) {
    EXPECT_TRUE(HoldsRanges(set)) << set;
  }
  for (const char* set : {"relaxed4", "inner", "source6", "disabled4"}) {
    EXPECT_FALSE(HoldsRanges(set)) << set;
  }
}

}  // namespace
}  // namespace espalier::guard
