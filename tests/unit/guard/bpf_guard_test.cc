#include "agent/guard/bpf_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/guard/bpf_guard_fixture.h"

namespace espalier::testing {
namespace {

using base::IpAddress;
using base::IpPrefix;
using guard::BpfGuard;
using guard::BpfMap;
using guard::DesiredGuard;
using guard::GuardedPod;
using guard::GuardProblem;
using guard::InsideBlock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(BpfGuardTest, StandsOnEveryDeviceByItsPart) {
  guard_->SetDesired(desired_);
  EXPECT_THAT(guard_->Problems(), IsEmpty());
  EXPECT_THAT(kernel_.Hook(pod_, "from_pod"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(pod_, "to_pod"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(pod_, "uplink_out"), IsEmpty());
  EXPECT_THAT(kernel_.Hook(uplink_, "uplink_in"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(uplink_, "uplink_out"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(tunnel_, "uplink_out"), IsEmpty());
  EXPECT_THAT(kernel_.Hook(loopback_, "uplink_out"), IsEmpty());
  EXPECT_EQ(Config().tunnel_ifindex, tunnel_);
  EXPECT_EQ(Config().flags, ESPALIER_CONFIG_IN_SYNC);
  EXPECT_EQ(kernel_.maps[BpfMap::kBlocks4].size(), 3u);
}

TEST_F(BpfGuardTest, NewDevicesAreGuarded) {
  guard_->SetDesired(desired_);
  const uint32_t second = kernel_.AddLink("eth1", "");
  const uint32_t vxlan = kernel_.AddLink("vxlan0", "vxlan");
  loop_.Advance(absl::Seconds(2));
  for (const uint32_t device : {second, vxlan}) {
    EXPECT_THAT(kernel_.Hook(device, "uplink_out"), ElementsAre(life()));
    EXPECT_THAT(kernel_.Hook(device, "uplink_in"), ElementsAre(life()));
  }
  EXPECT_THAT(repairs_, IsEmpty()) << "nobody took anything away";
}

TEST_F(BpfGuardTest, ConfigurationSaysInSyncLast) {
  guard_->SetDesired(desired_);
  ASSERT_FALSE(kernel_.journal.empty());
  size_t config = 0;
  for (size_t i = 0; i < kernel_.journal.size(); ++i) {
    if (kernel_.journal[i] == "write esp_config") config = i;
  }
  for (size_t i = config; i < kernel_.journal.size(); ++i) {
    EXPECT_THAT(kernel_.journal[i], ::testing::Not(HasSubstr("blocks")));
  }
}

TEST_F(BpfGuardTest, ALossIsMadeGoodAndTold) {
  guard_->SetDesired(desired_);
  kernel_.Hook(pod_, "from_pod").clear();
  kernel_.Hook(uplink_, "uplink_out")
      .insert(kernel_.Hook(uplink_, "uplink_out").begin(), 0);
  loop_.Advance(absl::Seconds(2));
  EXPECT_THAT(kernel_.Hook(pod_, "from_pod"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(uplink_, "uplink_out"), ElementsAre(life(), 0));
  EXPECT_THAT(repairs_,
              ::testing::UnorderedElementsAre(
                  "from_pod on " + std::string(kPod), "uplink_out on eth0"));
  repairs_.clear();
  loop_.Advance(absl::Seconds(5));
  EXPECT_THAT(repairs_, IsEmpty()) << "told once";
}

TEST_F(BpfGuardTest, AnEntryChangedByHandIsMadeGoodAndTold) {
  guard_->SetDesired(desired_);
  const guard::MapContents before = kernel_.maps[BpfMap::kPods];
  kernel_.maps[BpfMap::kPods].begin()->second[54] = ESPALIER_MODE_DISABLED;
  ASSERT_NE(kernel_.maps[BpfMap::kPods], before);
  kernel_.maps[BpfMap::kBlocks4].clear();
  loop_.Advance(absl::Seconds(32));
  EXPECT_EQ(kernel_.maps[BpfMap::kPods], before);
  EXPECT_EQ(kernel_.maps[BpfMap::kBlocks4].size(), 3u);
  EXPECT_FALSE(repairs_.empty());
}

TEST_F(BpfGuardTest, ARestartedAgentReplacesProgramsAndKeepsTheRest) {
  guard_->SetDesired(desired_);
  const auto maps = kernel_.maps;
  Start();
  EXPECT_EQ(kernel_.Hook(pod_, "from_pod"), std::vector<int>{life() - 1})
      << "with the agent gone its programs stand";
  DesiredGuard nothing;  // what a fresh agent knows
  guard_->SetDesired(nothing);
  EXPECT_EQ(kernel_.maps, maps) << "nothing that stands is removed";
  guard_->SetDesired(desired_);
  EXPECT_EQ(kernel_.maps, maps);
  EXPECT_THAT(kernel_.Hook(pod_, "from_pod"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(tunnel_, "uplink_out"), IsEmpty());
  EXPECT_THAT(repairs_, IsEmpty());
}

TEST_F(BpfGuardTest, NothingIsWeakenedBeforeTheAgentIsInSync) {
  guard_->SetDesired(desired_);
  Start();
  DesiredGuard weaker = desired_;
  weaker.in_sync = false;
  weaker.pods[0].mode = base::Mode::kDisabled;
  weaker.inside.push_back(
      InsideBlock::PlaintextPods(IpPrefix::Parse("10.244.3.240/28").value()));
  weaker.inside[0] =
      InsideBlock::PodsWithoutAgent(IpPrefix::Parse("10.244.0.0/16").value());
  const auto maps = kernel_.maps;
  guard_->SetDesired(weaker);
  EXPECT_EQ(kernel_.maps, maps);
  weaker.in_sync = true;
  guard_->SetDesired(weaker);
  EXPECT_EQ(PodEntry(pod_).mode, ESPALIER_MODE_DISABLED);
  EXPECT_EQ(kernel_.maps[BpfMap::kBlocks4].size(), 4u);
}

TEST_F(BpfGuardTest, StrengtheningNeedsNoSync) {
  desired_.pods[0].mode = base::Mode::kPreferred;
  guard_->SetDesired(desired_);
  Start();
  desired_.in_sync = false;
  desired_.pods[0].mode = base::Mode::kRequired;
  guard_->SetDesired(desired_);
  EXPECT_EQ(PodEntry(pod_).mode, ESPALIER_MODE_REQUIRED);
}

TEST_F(BpfGuardTest, AFreshNodeIsNotInSync) {
  desired_.in_sync = false;
  guard_->SetDesired(desired_);
  EXPECT_EQ(Config().flags & ESPALIER_CONFIG_IN_SYNC, 0u);
  EXPECT_EQ(PodEntry(pod_).mode, ESPALIER_MODE_REQUIRED);
}

TEST_F(BpfGuardTest, ProtectsAPodBeforeAnybodyWantsIt) {
  guard_->SetDesired(desired_);
  const uint32_t fresh = kernel_.AddLink("esp00000000001");
  ASSERT_TRUE(guard_->Protect(Pod("esp00000000001", "10.244.1.6")).ok());
  EXPECT_THAT(kernel_.Hook(fresh, "from_pod"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(fresh, "to_pod"), ElementsAre(life()));
  EXPECT_NE(PodEntry(fresh).slot, PodEntry(pod_).slot);
  EXPECT_EQ(kernel_.maps[BpfMap::kAddresses].size(), 2u);
  // A SetDesired that was made before knows nothing of it.
  guard_->SetDesired(desired_);
  EXPECT_TRUE(kernel_.maps[BpfMap::kPods].contains(guard::ToBytes(fresh)));
  EXPECT_THAT(kernel_.Hook(fresh, "uplink_in"), IsEmpty());
  kernel_.RemoveLink(fresh);
  guard_->SetDesired(desired_);
  EXPECT_FALSE(kernel_.maps[BpfMap::kPods].contains(guard::ToBytes(fresh)));
  EXPECT_EQ(kernel_.maps[BpfMap::kAddresses].size(), 1u);
}

TEST_F(BpfGuardTest, WhatStandsInForAPodIsMadeFirmWhenNobodyWaits) {
  guard_->SetDesired(desired_);
  const uint32_t fresh = kernel_.AddLink("esp00000000001");
  const guard::GuardedPod pod = Pod("esp00000000001", "10.244.1.6");
  ASSERT_TRUE(guard_->Protect(pod).ok());
  EXPECT_EQ(kernel_.stand_ins.size(), 2u);
  desired_.pods.push_back(pod);
  guard_->SetDesired(desired_);
  EXPECT_EQ(kernel_.stand_ins.size(), 2u) << "the pod is being started";
  EXPECT_THAT(kernel_.Hook(fresh, "from_pod"), ElementsAre(life()));
  loop_.Advance(absl::Seconds(3));
  EXPECT_THAT(kernel_.stand_ins, IsEmpty());
  EXPECT_THAT(kernel_.Hook(fresh, "from_pod"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(fresh, "to_pod"), ElementsAre(life()));
  EXPECT_THAT(repairs_, IsEmpty());
}

TEST_F(BpfGuardTest, StandInsWaitWhilePodsComeButNotForEver) {
  guard_->SetDesired(desired_);
  size_t most = 0;
  for (int i = 0; i < 120; ++i) {  // one a second
    const std::string name = absl::StrCat("esp", 10'000'000'000 + i);
    kernel_.AddLink(name);
    const auto pod = Pod(name, absl::StrCat("10.244.1.", 6 + i));
    ASSERT_TRUE(guard_->Protect(pod).ok());
    desired_.pods.push_back(pod);
    guard_->SetDesired(desired_);
    loop_.Advance(absl::Seconds(1));
    if (i == 50) EXPECT_EQ(kernel_.stand_ins.size(), 2u * 51);
    most = std::max(most, kernel_.stand_ins.size());
  }
  EXPECT_LE(most, 2u * 62);
  // Now they may be made firm; one after the other.
  loop_.Advance(absl::Seconds(3));
  const size_t left = kernel_.stand_ins.size();
  EXPECT_GT(left, 0u);
  loop_.Advance(absl::Milliseconds(200));
  EXPECT_EQ(kernel_.stand_ins.size(), left - 2);
  loop_.Advance(absl::Seconds(15));
  EXPECT_THAT(kernel_.stand_ins, IsEmpty());
}

TEST_F(BpfGuardTest, AStandInThatIsTakenAwayIsReplacedByWhatIsFirm) {
  guard_->SetDesired(desired_);
  const uint32_t fresh = kernel_.AddLink("esp00000000001");
  ASSERT_TRUE(guard_->Protect(Pod("esp00000000001", "10.244.1.6")).ok());
  kernel_.Hook(fresh, "to_pod").clear();
  kernel_.stand_ins.erase({fresh, guard::BpfProgram::kToPod});
  guard_->SetDesired(desired_);
  EXPECT_THAT(kernel_.Hook(fresh, "to_pod"), ElementsAre(life()));
  EXPECT_FALSE(kernel_.stand_ins.contains({fresh, guard::BpfProgram::kToPod}));
  EXPECT_THAT(repairs_, ElementsAre("to_pod on esp00000000001"));
}

TEST_F(BpfGuardTest, ProtectOfNothingFails) {
  EXPECT_TRUE(absl::IsNotFound(guard_->Protect(Pod("esp00000000009", "::1"))));
}

// The device outlives the pod for a moment; it never becomes an uplink, where
// whatever comes in would count as the wire.
TEST_F(BpfGuardTest, ADeviceThatWasAPodsStaysOne) {
  kernel_.links[pod_].name = "some-veth";
  desired_.pods[0].host_interface = "some-veth";
  guard_->SetDesired(desired_);
  desired_.pods.clear();
  guard_->SetDesired(desired_);
  EXPECT_TRUE(kernel_.maps[BpfMap::kPods].empty());
  EXPECT_THAT(kernel_.Hook(pod_, "from_pod"), ElementsAre(life()));
  EXPECT_THAT(kernel_.Hook(pod_, "uplink_in"), IsEmpty());
}

TEST_F(BpfGuardTest, APodsInterfaceThatNobodyNamedIsGuardedAndDrops) {
  desired_.pods.clear();
  guard_->SetDesired(desired_);
  EXPECT_THAT(kernel_.Hook(pod_, "from_pod"), ElementsAre(life()));
  EXPECT_TRUE(kernel_.maps[BpfMap::kPods].empty());
}

TEST_F(BpfGuardTest, TheTunnelMayComeLaterAndComeAnew) {
  kernel_.RemoveLink(tunnel_);
  guard_->SetDesired(desired_);
  EXPECT_EQ(Config().tunnel_ifindex, 0u);
  const uint32_t anew = kernel_.AddLink("espalier0", "tun", ARPHRD_NONE);
  loop_.Advance(absl::Seconds(2));
  EXPECT_EQ(Config().tunnel_ifindex, anew);
  EXPECT_THAT(kernel_.Hook(anew, "uplink_out"), IsEmpty());
}

TEST_F(BpfGuardTest, SlotsStayWithTheirPods) {
  guard_->SetDesired(desired_);
  const uint32_t slot = PodEntry(pod_).slot;
  kernel_.counters[slot].packets[ESPALIER_V_SENT] = 7;
  Start();
  kernel_.AddLink("esp00000000000");
  desired_.pods.insert(desired_.pods.begin(),
                       Pod("esp00000000000", "10.244.1.4"));
  guard_->SetDesired(desired_);
  EXPECT_EQ(PodEntry(pod_).slot, slot);
  const auto counts = guard_->Counters();
  ASSERT_EQ(counts.size(), 1u);
  EXPECT_EQ(counts[0].interface, kPod);
  EXPECT_EQ(counts[0].pod, "shop/" + std::string(kPod));
  EXPECT_EQ(counts[0].verdict, "sent");
  EXPECT_EQ(counts[0].packets, 7u);
}

TEST_F(BpfGuardTest, MorePodsThanThereIsRoomAreTold) {
  desired_.pods.clear();
  for (int i = 0; i < ESPALIER_MAX_PODS; ++i) {
    const std::string name = absl::StrCat("veth", i);
    kernel_.AddLink(name);
    desired_.pods.push_back(
        Pod(name, absl::StrCat("10.244.", i / 250, ".", i % 250 + 1)));
  }
  guard_->SetDesired(desired_);
  EXPECT_EQ(kernel_.maps[BpfMap::kPods].size(), size_t{ESPALIER_MAX_PODS - 1});
  ASSERT_EQ(guard_->Problems().size(), 1u);
  EXPECT_THAT(guard_->Problems()[0].status.message(), HasSubstr("no room"));
}

TEST_F(BpfGuardTest, TwoAddressesOfAFamilyAreTold) {
  desired_.pods[0].addresses.push_back(IpAddress::Parse("10.244.1.9").value());
  guard_->SetDesired(desired_);
  ASSERT_EQ(guard_->Problems().size(), 1u);
  EXPECT_TRUE(kernel_.maps[BpfMap::kPods].empty()) << "its packets are dropped";
}

// An upgrade that changes the maps: the old guard holds until the new one
// knows everything.
TEST_F(BpfGuardTest, AnotherVersionStandsUntilThisOneIsInSync) {
  kernel_.predecessor = true;
  desired_.in_sync = false;
  guard_->SetDesired(desired_);
  EXPECT_THAT(kernel_.Hook(pod_, "from_pod"), IsEmpty());
  EXPECT_TRUE(kernel_.predecessor);
  desired_.in_sync = true;
  guard_->SetDesired(desired_);
  EXPECT_THAT(kernel_.Hook(pod_, "from_pod"), ElementsAre(life()));
  EXPECT_FALSE(kernel_.predecessor);
  EXPECT_EQ(kernel_.journal.back(), "remove predecessor")
      << "not before the last program stands";
}

TEST_F(BpfGuardTest, TellsOfDrops) {
  guard_->SetDesired(desired_);
  espalier_event event{};
  event.verdict = ESPALIER_V_LEAK_FROM_POD;
  event.hook = ESPALIER_HOOK_UPLINK_OUT;
  event.family = 4;
  event.source = guard::ToBpfAddress(IpAddress::Parse("10.244.1.5").value());
  event.destination =
      guard::ToBpfAddress(IpAddress::Parse("10.244.2.5").value());
  event.ifindex = uplink_;
  event.input_ifindex = pod_;
  event.slot = PodEntry(pod_).slot;
  event.source_port = 1;
  event.suppressed = 3;
  system_->AddEvent(event);
  loop_.PollAll();
  ASSERT_EQ(drops_.size(), 1u);
  EXPECT_EQ(drops_[0].guard, "bpf");
  EXPECT_EQ(drops_[0].hook, "uplink_out");
  EXPECT_EQ(drops_[0].verdict, "leak_from_pod");
  EXPECT_EQ(drops_[0].interface, "eth0");
  EXPECT_EQ(drops_[0].input_interface, kPod);
  EXPECT_EQ(drops_[0].pod, "shop/" + std::string(kPod));
  EXPECT_EQ(drops_[0].source->ToString(), "10.244.1.5");
  EXPECT_EQ(drops_[0].destination->ToString(), "10.244.2.5");
  EXPECT_EQ(drops_[0].suppressed, 3u);
}

TEST(LooksLikePodInterfaceTest, ByItsName) {
  EXPECT_TRUE(guard::LooksLikePodInterface(kPod));
  EXPECT_FALSE(guard::LooksLikePodInterface("espalier0"));
  EXPECT_FALSE(guard::LooksLikePodInterface("esp0123456789"));
  EXPECT_FALSE(guard::LooksLikePodInterface("esp0123456789x"));
}

}  // namespace
}  // namespace espalier::testing
