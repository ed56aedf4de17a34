#include "agent/main/source_state.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

const base::Instant kNow = absl::FromUnixSeconds(100'000);

SourceState Watched(absl::Duration silent, int failures) {
  SourceState state;
  state.watches = {{.resource = "namespaces", .stats = {}},
                   {.resource = "pods", .stats = {}}};
  for (SourceState::Watch& watch : state.watches) {
    watch.stats.last_contact = kNow;
  }
  state.watches[1].stats.last_contact = kNow - silent;
  state.watches[1].stats.failures = failures;
  state.watches[1].stats.last_failure = absl::UnavailableError("no route");
  return state;
}

TEST(SourceState, AWatchThatFailsForLongIsAProblem) {
  EXPECT_EQ(SourceProblem(kNow, Watched(absl::Minutes(4), 5)),
            "pods are not watched: no route");
  EXPECT_FALSE(SourceMetrics(kNow, Watched(absl::Minutes(4), 5)).current);
  // Not yet; and a watch that is silent without failing has nothing to tell.
  EXPECT_EQ(SourceProblem(kNow, Watched(absl::Minutes(2), 5)), "");
  EXPECT_EQ(SourceProblem(kNow, Watched(absl::Minutes(4), 0)), "");
  EXPECT_TRUE(SourceMetrics(kNow, Watched(absl::Minutes(2), 5)).current);
}

TEST(SourceState, AServerThatIsNotBelievedIsAProblem) {
  SourceState state = Watched(absl::ZeroDuration(), 0);
  state.alarm = "it is older than what was seen";
  EXPECT_EQ(SourceProblem(kNow, state), state.alarm);
  EXPECT_FALSE(SourceMetrics(kNow, state).current);
}

TEST(SourceState, AServerThatWasSetBackIsAProblem) {
  SourceState state = Watched(absl::ZeroDuration(), 0);
  state.set_back = true;
  EXPECT_THAT(SourceProblem(kNow, state),
              HasSubstr("older than what was seen"));
  EXPECT_FALSE(SourceMetrics(kNow, state).current);
}

TEST(SourceState, AKeyThatIsNotPublishedIsAProblem) {
  SourceState state = Watched(absl::ZeroDuration(), 0);
  state.published = absl::PermissionDeniedError("RBAC");
  EXPECT_THAT(SourceProblem(kNow, state), HasSubstr("RBAC"));
}

TEST(SourceState, SilenceIsMeasuredOncePerResource) {
  SourceState state = Watched(absl::Seconds(70), 0);
  state.watches[0].stats.last_contact = absl::InfinitePast();
  const auto source = SourceMetrics(kNow, state);
  ASSERT_THAT(source.watches, SizeIs(2));
  EXPECT_EQ(source.watches[0].resource, "namespaces");
  EXPECT_EQ(source.watches[0].silent, std::nullopt);
  EXPECT_EQ(source.watches[1].silent, absl::Seconds(70));
}

TEST(SourceState, WhatWasHeardIsCounted) {
  SourceState state = Watched(absl::ZeroDuration(), 0);
  state.watches[1].stats.lists = 2;
  state.watches[1].stats.events = 7;
  state.watches[1].stats.bookmarks = 3;
  state.watches[1].stats.ignored = 1;
  state.watches[1].stats.octets = 900;
  const auto pods = SourceMetrics(kNow, state).watches[1];
  EXPECT_EQ(pods.lists, 2u);
  EXPECT_EQ(pods.bytes, 900u);
  EXPECT_THAT(pods.events,
              UnorderedElementsAre(Pair("object", 7), Pair("bookmark", 3),
                                   Pair("ignored", 1)));
}

}  // namespace
}  // namespace espalier::agent
