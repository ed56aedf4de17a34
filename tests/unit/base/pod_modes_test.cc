#include "agent/base/pod_modes.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::base {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Mode kModes[] = {Mode::kRequired, Mode::kPreferred, Mode::kDisabled};

TEST(Mode, NamesAndWordsAreTheSame) {
  for (const Mode mode : kModes) EXPECT_EQ(ParseMode(ModeName(mode)), mode);
  EXPECT_EQ(ParseMode("Required"), std::nullopt);
  EXPECT_EQ(ParseMode(""), std::nullopt);
  // What a value that nobody set, or that a later version wrote, comes to.
  EXPECT_EQ(Mode{}, Mode::kRequired);
  EXPECT_STREQ(ModeName(static_cast<Mode>(17)), "required");
}

TEST(PodModes, DefaultOfTheCluster) {
  const PodPolicy policy = PodModes{}.Resolve("shop", "web");
  EXPECT_EQ(policy.encryption, Mode::kPreferred);
  EXPECT_FALSE(policy.outside_denied);
  EXPECT_FALSE(policy.outside_in_allowed);
}

TEST(PodModes, ANamespaceMayWeakenTheDefault) {
  PodModes modes{.default_mode = Mode::kRequired};
  modes.namespaces["old"].encryption = Mode::kDisabled;
  EXPECT_EQ(modes.Resolve("old", "x").encryption, Mode::kDisabled);
  EXPECT_EQ(modes.Resolve("new", "x").encryption, Mode::kRequired);
}

// Every pair of a namespace's and a pod's mode.
TEST(PodModes, APodOnlyStrengthens) {
  for (const Mode of_namespace : kModes) {
    for (const Mode of_pod : kModes) {
      PodModes modes;
      modes.namespaces["n"].encryption = of_namespace;
      modes.pods["n/p"].encryption = of_pod;
      const PodPolicy policy = modes.Resolve("n", "p");
      EXPECT_EQ(policy.encryption, Stronger(of_namespace, of_pod));
      EXPECT_EQ(policy.problem.empty(),
                Stronger(of_namespace, of_pod) == of_pod);
      EXPECT_EQ(modes.Resolve("n", "other").encryption, of_namespace);
    }
  }
}

TEST(PodModes, OutsideOnlyStrengthens) {
  PodModes modes;
  modes.namespaces["n"].outside_denied = true;
  modes.pods["n/p"].outside_denied = false;
  modes.pods["n/p"].outside_in_allowed = true;
  const PodPolicy policy = modes.Resolve("n", "p");
  EXPECT_TRUE(policy.outside_denied);
  EXPECT_FALSE(policy.outside_in_allowed);
  EXPECT_THAT(policy.problem, HasSubstr("outside: allow"));
  EXPECT_THAT(policy.problem, HasSubstr("outsideIn: allow"));

  modes.namespaces["m"].outside_in_allowed = true;
  modes.pods["m/p"].outside_in_allowed = false;
  modes.pods["m/p"].outside_denied = true;
  EXPECT_TRUE(modes.Resolve("m", "x").outside_in_allowed);
  EXPECT_FALSE(modes.Resolve("m", "p").outside_in_allowed);
  EXPECT_TRUE(modes.Resolve("m", "p").outside_denied);
  EXPECT_THAT(modes.Resolve("m", "p").problem, IsEmpty());
}

TEST(PodModes, ProblemsReachThePod) {
  PodModes modes;
  modes.namespaces["n"] = {.encryption = Mode::kRequired,
                           .problem = "'requird' is no mode"};
  EXPECT_EQ(modes.Resolve("n", "p").encryption, Mode::kRequired);
  EXPECT_THAT(modes.Resolve("n", "p").problem, HasSubstr("requird"));
}

TEST(PodModes, WhatIsNotListedIsRequired) {
  PodModes modes{.default_mode = Mode::kDisabled, .listed = true};
  modes.namespaces["shop"];
  modes.pods["shop/web/u1"];
  EXPECT_EQ(modes.Resolve("shop", "web", "u1").encryption, Mode::kDisabled);
  EXPECT_EQ(modes.Resolve("shop", "web", "u2").encryption, Mode::kRequired);
  EXPECT_EQ(modes.Resolve("shop", "other", "u1").encryption, Mode::kRequired);
  EXPECT_EQ(modes.Resolve("", "", "").encryption, Mode::kRequired);
  modes.pods["unknown/web/u1"];
  const PodPolicy policy = modes.Resolve("unknown", "web", "u1");
  EXPECT_EQ(policy, PodPolicy{.problem = policy.problem});
  EXPECT_NE(policy.problem, "");
  // The negative: where a list is not claimed to be whole, the default holds.
  modes.listed = false;
  EXPECT_EQ(modes.Resolve("unknown", "web").encryption, Mode::kDisabled);
}

}  // namespace
}  // namespace espalier::base
