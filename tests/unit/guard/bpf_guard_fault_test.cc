// Each call of BpfGuard to the kernel fails once in turn.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/guard/bpf_guard_fixture.h"

namespace espalier::testing {
namespace {

using guard::BpfMap;
using guard::GuardedPod;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using BpfGuardFaultTest = BpfGuardTest;

// What follows a failure converges all the same.
TEST_F(BpfGuardFaultTest, AnyCallMayFail) {
  guard_->SetDesired(desired_);
  const auto maps = kernel_.maps;
  const auto hooks = kernel_.hooks;
  bool ran_out = false;
  for (uint64_t n = 1; !ran_out; ++n) {
    ASSERT_LT(n, 500u);
    kernel_.maps.clear();
    kernel_.hooks.clear();
    kernel_.predecessor = n % 2 == 0;
    kernel_.lives = 0;
    Start();
    system_->FailCall(n);
    guard_->SetDesired(desired_);
    ran_out = !system_->has_failed();
    if (!ran_out) {
      EXPECT_FALSE(guard_->Problems().empty()) << "call " << n;
      // In sync only when all stands.
      if (kernel_.maps[BpfMap::kBlocks4] != maps.at(BpfMap::kBlocks4)) {
        EXPECT_EQ(Config().flags & ESPALIER_CONFIG_IN_SYNC, 0u) << "call " << n;
      }
    }
    loop_.Advance(absl::Seconds(2));
    EXPECT_THAT(guard_->Problems(), IsEmpty()) << "call " << n;
    EXPECT_EQ(kernel_.maps, maps) << "call " << n;
    EXPECT_FALSE(kernel_.predecessor) << "call " << n;
    for (const auto& [hook, programs] : hooks) {
      EXPECT_EQ(kernel_.hooks[hook], programs) << "call " << n;
    }
  }
}

TEST_F(BpfGuardFaultTest, AnyCallOfProtectMayFail) {
  bool ran_out = false;
  for (uint64_t n = 1; !ran_out; ++n) {
    ASSERT_LT(n, 100u);
    kernel_.maps.clear();
    kernel_.hooks.clear();
    Start();
    guard_->SetDesired(desired_);
    const uint32_t fresh = kernel_.AddLink("esp00000000001");
    system_->FailCall(n);
    const GuardedPod pod = Pod("esp00000000001", "10.244.1.6");
    const absl::Status first = guard_->Protect(pod);
    ran_out = !system_->has_failed();
    EXPECT_EQ(first.ok(), ran_out) << "call " << n;
    if (!first.ok()) {
      EXPECT_TRUE(guard_->Protect(pod).ok()) << "call " << n;
    }
    EXPECT_TRUE(kernel_.maps[BpfMap::kPods].contains(guard::ToBytes(fresh)));
    EXPECT_THAT(kernel_.Hook(fresh, "from_pod"), ElementsAre(life()));
    kernel_.RemoveLink(fresh);
  }
}

}  // namespace
}  // namespace espalier::testing
