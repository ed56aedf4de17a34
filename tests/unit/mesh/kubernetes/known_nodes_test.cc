#include "agent/mesh/kubernetes/known_nodes.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/mesh/kubernetes/objects.h"

namespace espalier::mesh {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

class KnownNodesTest : public ::testing::Test {
 protected:
  // Nodes 1 to `count`, as of `version`.
  void Relist(int count, int version, int object_version = 1) {
    std::vector<KnownNodes::Node> list;
    for (int i = 1; i <= count; ++i) {
      list.push_back(Share(MakeNode(i, object_version)));
    }
    known_.HandleRelist(now_, list, absl::StrCat(version));
  }
  void Pass(absl::Duration time) {
    now_ += time;
    known_.HandleTimeout(now_);
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& [name, node] : known_.nodes()) names.push_back(name);
    return names;
  }

  base::Instant now_ = absl::FromUnixSeconds(1000);
  KnownNodes known_;
};

TEST_F(KnownNodesTest, DeleteRemovesAfterThirtySeconds) {
  Relist(2, 10);
  known_.HandleDeleted(now_, "n2", "11");
  EXPECT_EQ(known_.NextTimeout(), now_ + absl::Seconds(30));
  Pass(absl::Milliseconds(29'999));
  EXPECT_THAT(Names(), ElementsAre("n1", "n2"));
  Pass(absl::Milliseconds(1));
  EXPECT_THAT(Names(), ElementsAre("n1"));
  EXPECT_EQ(known_.NextTimeout(), std::nullopt);
}

TEST_F(KnownNodesTest, ANodeThatComesBackInTimeStays) {
  Relist(2, 10);
  known_.HandleDeleted(now_, "n2", "11");
  Pass(absl::Seconds(20));
  known_.HandlePut(now_, Share(MakeNode(2, 12)));
  Pass(absl::Hours(1));
  EXPECT_THAT(Names(), ElementsAre("n1", "n2"));
}

TEST_F(KnownNodesTest, ANodeMadeAnewKeepsItsPlaceUntilItIsVerifiedAgain) {
  Relist(2, 10);
  kube::EspalierNode anew = MakeNode(2, 12);
  anew.meta.uid = "another";
  anew.status.reset();
  known_.HandleDeleted(now_, "n2", "11");
  Pass(absl::Seconds(10));
  known_.HandlePut(now_, Share(anew));
  ASSERT_TRUE(known_.nodes().at("n2")->status.has_value());
  EXPECT_EQ(known_.nodes().at("n2")->meta.uid, "another");
  Pass(absl::Seconds(10));
  anew = MakeNode(2, 13);
  anew.meta.uid = "another";
  known_.HandlePut(now_, Share(anew));
  EXPECT_EQ(known_.NextTimeout(), std::nullopt);
  // The negative: nobody verifies it.
  anew = MakeNode(2, 14);
  anew.meta.uid = "a third";
  anew.status.reset();
  known_.HandlePut(now_, Share(anew));
  Pass(absl::Seconds(30));
  EXPECT_THAT(Names(), ElementsAre("n1"));
}

TEST_F(KnownNodesTest, AbsenceFromARelistRemovesAfterThirtySeconds) {
  Relist(4, 10);
  Relist(3, 20);
  EXPECT_THAT(known_.alarm(), IsEmpty());
  Pass(absl::Seconds(29));
  EXPECT_EQ(Names().size(), 4u);
  Pass(absl::Seconds(1));
  EXPECT_THAT(Names(), ElementsAre("n1", "n2", "n3"));
}

TEST_F(KnownNodesTest, AClaimToItsCidrRemovesWhoIsLeavingAtOnce) {
  Relist(4, 10);
  known_.HandleDeleted(now_, "n4", "11");
  kube::EspalierNode heir = MakeNode(9, 12);
  heir.status->pod_cidrs = MakeNode(4).status->pod_cidrs;
  known_.HandlePut(now_, Share(heir));
  EXPECT_THAT(Names(), ElementsAre("n1", "n2", "n3", "n9"));
}

TEST_F(KnownNodesTest, AClaimInARelistRemovesWhomItLacksAtOnce) {
  Relist(4, 10);
  std::vector<KnownNodes::Node> list = {Share(MakeNode(1)), Share(MakeNode(2)),
                                        Share(MakeNode(3))};
  kube::EspalierNode heir = MakeNode(9, 12);
  heir.status->pod_cidrs = MakeNode(4).status->pod_cidrs;
  list.push_back(Share(heir));
  known_.HandleRelist(now_, list, "20");
  EXPECT_THAT(Names(), ElementsAre("n1", "n2", "n3", "n9"));
}

// An agent that was away while a node of three was replaced.
TEST_F(KnownNodesTest, WhoIsReplacedInItsCidrIsNotLost) {
  std::vector<KnownNodes::Node> kept;
  for (int i = 1; i <= 3; ++i) kept.push_back(Share(MakeNode(i)));
  known_.Restore(kept);
  kube::EspalierNode heir = MakeNode(9, 12);
  heir.status->pod_cidrs = MakeNode(3).status->pod_cidrs;
  known_.HandleRelist(
      now_, {Share(MakeNode(1)), Share(MakeNode(2)), Share(heir)}, "20");
  EXPECT_THAT(known_.alarm(), IsEmpty());
  EXPECT_THAT(Names(), ElementsAre("n1", "n2", "n9"));
}

TEST_F(KnownNodesTest, WhoIsMissingBesideIsStillCounted) {
  Relist(4, 10);
  kube::EspalierNode heir = MakeNode(9, 12);
  heir.status->pod_cidrs = MakeNode(4).status->pod_cidrs;
  known_.HandleRelist(now_, {Share(MakeNode(1)), Share(heir)}, "20");
  EXPECT_THAT(known_.alarm(), Not(IsEmpty()));
  EXPECT_THAT(Names(), ElementsAre("n1", "n2", "n3", "n4"));
  known_.HandlePut(now_, Share(heir));
  EXPECT_THAT(known_.alarm(), Not(IsEmpty()));
  // One of the two that it lacks comes back: the other is a quarter.
  known_.HandlePut(now_, Share(MakeNode(2, 21)));
  EXPECT_THAT(known_.alarm(), IsEmpty());
  EXPECT_THAT(Names(), ElementsAre("n1", "n2", "n3", "n9"));
}

TEST_F(KnownNodesTest, AClaimRemovesNobodyWhoStays) {
  Relist(4, 10);
  kube::EspalierNode thief = MakeNode(9, 12);
  thief.status->pod_cidrs = MakeNode(4).status->pod_cidrs;
  known_.HandlePut(now_, Share(thief));
  Pass(absl::Hours(1));
  EXPECT_THAT(Names(), ElementsAre("n1", "n2", "n3", "n4", "n9"));
}

TEST_F(KnownNodesTest, AWithdrawnKeyIsGoneAtOnce) {
  Relist(2, 10);
  kube::EspalierNode without = MakeNode(2, 11);
  without.spec.public_keys.clear();
  const uint64_t revision = known_.revision();
  known_.HandlePut(now_, Share(without));
  EXPECT_THAT(known_.nodes().at("n2")->spec.public_keys, IsEmpty());
  EXPECT_GT(known_.revision(), revision);
}

TEST_F(KnownNodesTest, ARelistThatLosesMoreThanAQuarterChangesNothing) {
  Relist(8, 10);
  Relist(5, 20, 15);  // 3 of 8 missing
  EXPECT_THAT(known_.alarm(), Not(IsEmpty()));
  EXPECT_EQ(known_.nodes().at("n1")->meta.resource_version, "1");
  Pass(absl::Hours(10));
  EXPECT_EQ(Names().size(), 8u);
  known_.HandleRelist(now_, {}, "30");
  Pass(absl::Hours(10));
  EXPECT_EQ(Names().size(), 8u);
  // The negative: exactly a quarter is believed.
  Relist(6, 40, 35);
  EXPECT_THAT(known_.alarm(), IsEmpty());
  Pass(absl::Seconds(30));
  EXPECT_EQ(Names().size(), 6u);
}

TEST_F(KnownNodesTest, TheAlarmEndsWhenTheLostComeBack) {
  Relist(8, 10);
  Relist(5, 20);
  known_.HandlePut(now_, Share(MakeNode(6, 21)));
  EXPECT_THAT(known_.alarm(), IsEmpty());
  Pass(absl::Seconds(30));
  EXPECT_EQ(Names().size(), 6u);
}

TEST_F(KnownNodesTest, AnOlderStateChangesNothing) {
  Relist(8, 100, 90);
  Relist(8, 50, 40);
  EXPECT_THAT(known_.alarm(), Not(IsEmpty()));
  kube::EspalierNode withdrawn_key_is_back = MakeNode(1, 41);
  withdrawn_key_is_back.spec.datapath = "user";
  known_.HandlePut(now_, Share(withdrawn_key_is_back));
  known_.HandleDeleted(now_, "n2", "42");
  Pass(absl::Hours(1));
  EXPECT_EQ(Names().size(), 8u);
  EXPECT_EQ(known_.nodes().at("n1")->meta.resource_version, "90");
  // Again an older one: compared with what was seen, not with the last.
  Relist(8, 60, 55);
  EXPECT_THAT(known_.alarm(), Not(IsEmpty()));
  // Once the server has passed what was seen, it is believed.
  Relist(8, 101, 101);
  EXPECT_THAT(known_.alarm(), IsEmpty());
  EXPECT_EQ(known_.nodes().at("n1")->meta.resource_version, "101");
}

TEST_F(KnownNodesTest, AStaleWordAboutANodeIsIgnored) {
  Relist(2, 10, 9);
  kube::EspalierNode stale = MakeNode(1, 8);
  stale.spec.datapath = "user";
  known_.HandlePut(now_, Share(stale));
  EXPECT_EQ(known_.nodes().at("n1")->spec.datapath, "kernel");
  stale.meta.resource_version = "11";
  known_.HandlePut(now_, Share(stale));
  EXPECT_EQ(known_.nodes().at("n1")->spec.datapath, "user");
}

TEST_F(KnownNodesTest, ARestartedAgentComparesWithWhatItKept) {
  std::vector<KnownNodes::Node> kept;
  for (int i = 1; i <= 4; ++i) kept.push_back(Share(MakeNode(i, 50)));
  known_.Restore(kept);
  EXPECT_EQ(Names().size(), 4u);
  known_.HandleRelist(now_, {}, "60");
  EXPECT_THAT(known_.alarm(), Not(IsEmpty()));
  Relist(4, 40, 39);
  EXPECT_THAT(known_.alarm(), Not(IsEmpty()));
  EXPECT_EQ(known_.nodes().at("n1")->meta.resource_version, "50");
  Relist(4, 61, 50);
  EXPECT_THAT(known_.alarm(), IsEmpty());
}

TEST_F(KnownNodesTest, UnchangedObjectsAreNoRevision) {
  Relist(3, 10);
  const uint64_t revision = known_.revision();
  Relist(3, 20);
  EXPECT_EQ(known_.revision(), revision);
}

// Such a server lacks what this node wrote since, and nobody else writes it.
TEST_F(KnownNodesTest, WhatIsHeldIsToldApartFromWhatTheServerHas) {
  Relist(4, 10);
  EXPECT_NE(known_.Told("n1"), nullptr);
  known_.HandleRelist(now_, {Share(MakeNode(2)), Share(MakeNode(3))}, "5");
  EXPECT_FALSE(known_.alarm().empty());
  EXPECT_NE(known_.Find("n1"), nullptr);
  EXPECT_EQ(known_.Told("n1"), nullptr);
  EXPECT_NE(known_.Told("n2"), nullptr);
}

TEST(LostKeys, OfNodesThatLackOneOrAreGone) {
  const auto with = [](int node, std::vector<base::Bytes> keys) {
    kube::EspalierNode object = MakeNode(node);
    object.spec.public_keys = std::move(keys);
    return Share(std::move(object));
  };
  const KnownNodes::Nodes before = {{"n1", with(1, {{1}})},
                                    {"n2", with(2, {{2}, {3}})},
                                    {"n3", with(3, {{4}})},
                                    {"n4", with(4, {{5}})}};
  const KnownNodes::Nodes now = {{"n1", with(1, {{1}, {9}})},
                                 {"n2", with(2, {{3}})},
                                 {"n4", with(4, {{6}})},
                                 {"n5", with(5, {{7}})}};
  EXPECT_THAT(LostKeys(before, now), ElementsAre("n2", "n3", "n4"));
  EXPECT_THAT(LostKeys(before, before), IsEmpty());
  EXPECT_THAT(LostKeys({}, now), IsEmpty());
}

}  // namespace
}  // namespace espalier::mesh
