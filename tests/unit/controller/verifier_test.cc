#include "agent/controller/verifier.h"

#include "absl/strings/str_cat.h"
#include "agent/controller/holdings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/objects.h"

namespace espalier::controller {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class VerifierTest : public ::testing::Test {
 protected:
  void AddNode(std::shared_ptr<kube::Node> node) {
    nodes_[node->meta.name] = std::move(node);
  }
  void AddAgent(const std::string& name) {
    published_[name] = MakeEspalierNode(name);
  }
  void Add(std::shared_ptr<kube::Node> node) {
    AddAgent(node->meta.name);
    AddNode(std::move(node));
  }
  // As if the controller had written what it found.
  void WriteAll() {
    for (const auto& [name, status] :
         Verify(plan_, nodes_, published_, kWall)) {
      auto object = std::make_shared<kube::EspalierNode>(*published_[name]);
      object->status = status;
      published_[name] = object;
    }
  }
  kube::EspalierNode::Status Of(const std::string& name,
                                absl::Time now = kWall) {
    return Verify(plan_, nodes_, published_, now).at(name);
  }
  const kube::Condition& Condition(const kube::EspalierNode::Status& status,
                                   const char* type) {
    const kube::Condition* found = kube::FindCondition(status.conditions, type);
    static const kube::Condition kNone;
    EXPECT_NE(found, nullptr);
    return found == nullptr ? kNone : *found;
  }

  AddressPlan plan_ = Plan();
  Nodes nodes_;
  EspalierNodes published_;
};

TEST_F(VerifierTest, TakesBothFamiliesFromTheNode) {
  Add(MakeNode("a", {"192.0.2.1", "2001:db8::1"},
               {"10.244.1.0/24", "fd00:10:244:1::/64"}));
  const auto status = Of("a");
  EXPECT_EQ(status.node_uid, "uid-of-a");
  EXPECT_THAT(Texts(status),
              ElementsAre("192.0.2.1", "2001:db8::1", "10.244.1.0/24",
                          "fd00:10:244:1::/64"));
  EXPECT_EQ(Condition(status, kVerified).status, "True");
  EXPECT_EQ(Condition(status, kConflict).status, "False");
}

TEST_F(VerifierTest, ANodeWithoutAnAgentGetsNoStatus) {
  AddNode(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  EXPECT_THAT(Verify(plan_, nodes_, published_, kWall), IsEmpty());
}

TEST_F(VerifierTest, TheHolderKeepsItsCidrAndTheClaimantGetsNone) {
  Add(MakeNode("holder", {"192.0.2.1"}, {"10.244.1.0/24"}, /*age=*/10));
  WriteAll();
  // Older, and first by name: neither helps against who has it.
  Add(MakeNode("claimant", {"192.0.2.2"}, {"10.244.1.0/24"}, /*age=*/100));
  EXPECT_THAT(Texts(Of("holder")), ElementsAre("192.0.2.1", "10.244.1.0/24"));
  EXPECT_EQ(Condition(Of("holder"), kVerified).status, "True");
  const auto claimant = Of("claimant");
  EXPECT_THAT(Texts(claimant), ElementsAre("192.0.2.2"));
  EXPECT_EQ(Condition(claimant, kVerified).status, "False");
  EXPECT_EQ(Condition(claimant, kVerified).reason, "Conflict");
  EXPECT_EQ(Condition(claimant, kConflict).status, "True");
  EXPECT_THAT(Condition(claimant, kConflict).message,
              HasSubstr("pod CIDR 10.244.1.0/24 is held by node holder"));
  // Control: without the written status the older one would have it.
  published_["holder"] = MakeEspalierNode("holder");
  EXPECT_THAT(Texts(Of("claimant")), ElementsAre("192.0.2.2", "10.244.1.0/24"));
}

TEST_F(VerifierTest, AWiderOrNarrowerBlockIsTheSameClaim) {
  Add(MakeNode("holder", {"192.0.2.1"}, {"10.244.4.0/24"}));
  WriteAll();
  Add(MakeNode("wider", {"192.0.2.2"}, {"10.244.0.0/16"}));
  Add(MakeNode("narrower", {"192.0.2.3"}, {"10.244.4.7/32"}));
  EXPECT_THAT(Of("wider").pod_cidrs, IsEmpty());
  EXPECT_THAT(Of("narrower").pod_cidrs, IsEmpty());
  EXPECT_THAT(Texts(Of("holder")), ElementsAre("192.0.2.1", "10.244.4.0/24"));
}

TEST_F(VerifierTest, TheHolderKeepsItsAddress) {
  Add(MakeNode("holder", {"192.0.2.1"}, {"10.244.1.0/24"}, 10));
  WriteAll();
  Add(MakeNode("claimant", {"192.0.2.1", "192.0.2.9"}, {"10.244.2.0/24"}, 99));
  const auto claimant = Of("claimant");
  EXPECT_THAT(Texts(claimant), ElementsAre("192.0.2.9", "10.244.2.0/24"));
  EXPECT_THAT(Condition(claimant, kConflict).message,
              HasSubstr("address 192.0.2.1 is held by node holder"));
  EXPECT_THAT(Texts(Of("holder")), ElementsAre("192.0.2.1", "10.244.1.0/24"));
}

TEST_F(VerifierTest, WhatNobodyHoldsGoesToTheOlderNode) {
  Add(MakeNode("b", {"192.0.2.1"}, {"10.244.1.0/24"}, /*age=*/20));
  Add(MakeNode("a", {"192.0.2.2"}, {"10.244.1.0/24"}, /*age=*/10));
  EXPECT_THAT(Texts(Of("b")), ElementsAre("192.0.2.1", "10.244.1.0/24"));
  EXPECT_THAT(Texts(Of("a")), ElementsAre("192.0.2.2"));
}

TEST_F(VerifierTest, ANodeWithoutAnAgentHoldsWhatItClaims) {
  AddNode(MakeNode("bare", {"192.0.2.1"}, {"10.244.1.0/24"}, 20));
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}, 10));
  EXPECT_THAT(Texts(Of("a")), IsEmpty());
}

TEST_F(VerifierTest, ARecreatedNodeIsNotTheHolder) {
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}, 10));
  WriteAll();
  Add(MakeNode("b", {"192.0.2.2"}, {"10.244.1.0/24"}, 9));
  auto again = MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}, 1);
  again->meta.uid = "another";
  AddNode(again);
  EXPECT_THAT(Of("a").pod_cidrs, IsEmpty());
  EXPECT_EQ(Of("a").node_uid, "another");
  EXPECT_THAT(Texts(Of("b")), ElementsAre("192.0.2.2", "10.244.1.0/24"));
}

TEST_F(VerifierTest, AReleasedCidrIsFree) {
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  WriteAll();
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.2.0/24"}));
  Add(MakeNode("b", {"192.0.2.2"}, {"10.244.1.0/24"}, 1));
  EXPECT_THAT(Texts(Of("b")), ElementsAre("192.0.2.2", "10.244.1.0/24"));
}

TEST_F(VerifierTest, OnlyInsideThePlan) {
  Add(MakeNode("a", {"203.0.113.1", "192.0.2.1"},
               {"10.99.1.0/24", "10.0.0.0/8", "10.244.1.0/24"}));
  const auto status = Of("a");
  EXPECT_THAT(Texts(status), ElementsAre("192.0.2.1", "10.244.1.0/24"));
  EXPECT_EQ(Condition(status, kVerified).reason, "PodCIDRRefused");
  EXPECT_THAT(Condition(status, kVerified).message,
              HasSubstr("10.99.1.0/24 is not inside clusterPodCIDRs"));
  EXPECT_THAT(Condition(status, kVerified).message,
              HasSubstr("203.0.113.1 is refused"));
  plan_.node_cidrs.clear();
  EXPECT_THAT(Of("a").addresses,
              ElementsAre(Ip("203.0.113.1"), Ip("192.0.2.1")));
}

// A node that calls a pod's address its own would draw that pod's traffic.
TEST_F(VerifierTest, NoAddressInsideThePodCidrs) {
  plan_.node_cidrs.clear();
  Add(MakeNode("a", {"10.244.7.7"}, {"10.244.1.0/24"}));
  EXPECT_THAT(Of("a").addresses, IsEmpty());
  EXPECT_THAT(Condition(Of("a"), kVerified).message, HasSubstr("a pod's"));
}

TEST_F(VerifierTest, NoAddressThatIsNoNodes) {
  plan_.node_cidrs.clear();
  Add(MakeNode(
      "a",
      {"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1",
       "::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.1"},
      {"10.244.1.0/24"}));
  EXPECT_THAT(Of("a").addresses, IsEmpty());
}

TEST_F(VerifierTest, NoPodCidrsNamesTheFlag) {
  Add(MakeNode("a", {"192.0.2.1"}, {}));
  const auto status = Of("a");
  EXPECT_EQ(Condition(status, kVerified).reason, "NoPodCIDRs");
  EXPECT_THAT(Condition(status, kVerified).message,
              HasSubstr("--allocate-node-cidrs"));
  EXPECT_THAT(Texts(status), ElementsAre("192.0.2.1"));
}

TEST_F(VerifierTest, WithoutItsNodeAnObjectKeepsWhatNobodyClaims) {
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24", "fd00:10:244:1::/64"}));
  WriteAll();
  nodes_.clear();
  EXPECT_THAT(Texts(Of("a")),
              ElementsAre("192.0.2.1", "10.244.1.0/24", "fd00:10:244:1::/64"));
  EXPECT_EQ(Condition(Of("a"), kVerified).reason, "NodeMissing");
  Add(MakeNode("b", {"192.0.2.2"}, {"10.244.1.0/24"}, 0));
  EXPECT_THAT(Texts(Of("a")), ElementsAre("192.0.2.1", "fd00:10:244:1::/64"));
  EXPECT_THAT(Texts(Of("b")), ElementsAre("192.0.2.2", "10.244.1.0/24"));
}

TEST_F(VerifierTest, AConditionKeepsItsTimeUntilItChanges) {
  Add(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  WriteAll();
  const absl::Time later = kWall + absl::Hours(1);
  EXPECT_EQ(Of("a", later), *published_["a"]->status);
  Add(MakeNode("a", {"192.0.2.1"}, {}));
  WriteAll();  // fills in the object that Add made anew
  AddNode(MakeNode("a", {"192.0.2.1"}, {"10.244.1.0/24"}));
  EXPECT_EQ(Condition(Of("a", later), kVerified).last_transition, later);
  EXPECT_EQ(Condition(Of("a", later), kConflict).last_transition, kWall);
}

// Nothing is two nodes', whatever they claim and whatever was written.
TEST_F(VerifierTest, NeverTwoHolders) {
  uint32_t state = 1;
  const auto random = [&state](uint32_t n) {
    state = state * 1664525 + 1013904223;
    return (state >> 8) % n;
  };
  plan_.node_cidrs.clear();
  for (int round = 0; round < 300; ++round) {
    nodes_.clear();
    for (int i = 0; i < 6; ++i) {
      const std::string name = absl::StrCat("n", i);
      auto node = MakeNode(
          name, {absl::StrCat("192.0.2.", random(5))},
          {absl::StrCat("10.244.", random(8) * 4, ".0/", random(2) ? 24 : 22)},
          static_cast<int>(random(5)));
      if (random(3) == 0) node->meta.uid = "other";
      if (random(8) != 0) AddNode(node);
      if (!published_.contains(name) || random(9) == 0) AddAgent(name);
    }
    WriteAll();
    for (const auto& [a, first] : published_) {
      for (const auto& [b, second] : published_) {
        if (a == b) continue;
        EXPECT_FALSE(Overlap(*first->status, *second->status))
            << "round " << round << ": " << a << ", " << b;
      }
    }
  }
}

TEST(HoldingsTest, FindsEveryOverlap) {
  Holdings holdings;
  EXPECT_TRUE(holdings.Take(Net("10.0.4.0/24"), "a"));
  EXPECT_EQ(*holdings.HolderOf(Net("10.0.0.0/16")), "a");
  EXPECT_EQ(*holdings.HolderOf(Net("10.0.4.9/32")), "a");
  EXPECT_EQ(holdings.HolderOf(Net("10.0.5.0/24")), nullptr);
  EXPECT_EQ(holdings.HolderOf(Net("10.0.3.0/24")), nullptr);
  EXPECT_EQ(holdings.HolderOf(Net("::/0")), nullptr);
  EXPECT_FALSE(holdings.Take(Net("10.0.0.0/8"), "b"));
}

}  // namespace
}  // namespace espalier::controller
