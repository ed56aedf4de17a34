#include "agent/controller/weakening.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/objects.h"

namespace espalier::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Annotations = std::map<std::string, std::string>;
using kube::NamespaceMeta;

kube::Object<NamespaceMeta> Namespace(const Annotations& annotations,
                                      const std::string& version = "2") {
  auto object = std::make_shared<NamespaceMeta>();
  object->meta.name = "shop";
  object->meta.uid = "uid";
  object->meta.resource_version = version;
  object->meta.annotations = annotations;
  return object;
}

std::string Weakened(const Annotations& before, const Annotations& after,
                     base::Mode default_mode = base::Mode::kPreferred) {
  return WeakenedBy(Namespace(before)->meta, Namespace(after)->meta,
                    default_mode);
}

TEST(WeakeningTest, OfTheMode) {
  EXPECT_THAT(
      Weakened({{kEncryption, "required"}}, {{kEncryption, "preferred"}}),
      HasSubstr("was required and is preferred"));
  EXPECT_THAT(Weakened({{kEncryption, "required"}}, {}),
              HasSubstr("was removed"));
  EXPECT_THAT(Weakened({}, {{kEncryption, "disabled"}}),
              HasSubstr("was preferred and is disabled"));
  // An unknown word is taken for the strongest.
  EXPECT_THAT(Weakened({{kEncryption, "maximal"}}, {}), HasSubstr("required"));
  EXPECT_THAT(Weakened({}, {{kEncryption, "required"}}), IsEmpty());
  EXPECT_THAT(Weakened({{kEncryption, "disabled"}}, {}), IsEmpty());
  EXPECT_THAT(Weakened({{kEncryption, "required"}}, {}, base::Mode::kRequired),
              IsEmpty());
}

TEST(WeakeningTest, OfTheOutside) {
  EXPECT_THAT(Weakened({{kOutside, "deny"}}, {}), HasSubstr("send to outside"));
  EXPECT_THAT(Weakened({}, {{kOutsideIn, "allow"}}), HasSubstr("let in"));
  EXPECT_THAT(Weakened({}, {{kOutside, "deny"}}), IsEmpty());
  EXPECT_THAT(Weakened({{kOutsideIn, "allow"}}, {}), IsEmpty());
}

TEST(WeakeningWatchTest, TellsOnceAndUnderOneName) {
  const base::Instant now = absl::UnixEpoch();
  WeakeningWatch watch(base::Mode::kPreferred);
  watch.Handle(now, kube::Relist<NamespaceMeta>{
                        .objects = {Namespace({{kEncryption, "required"}})},
                        .first = true});
  EXPECT_FALSE(watch.Take(now, kWall).has_value()) << "the first list is new";
  watch.Handle(now, kube::Put<NamespaceMeta>{Namespace({}, "77")});
  const auto event = watch.Take(now + absl::Seconds(3), kWall);
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->meta.name, "shop.espalier-weakened.77");
  EXPECT_EQ(event->meta.name_space, "shop");
  EXPECT_EQ(event->about.kind, "Namespace");
  EXPECT_EQ(event->type, "Warning");
  EXPECT_EQ(event->last, kWall - absl::Seconds(3));
  EXPECT_FALSE(watch.Take(now, kWall).has_value());
}

TEST(WeakeningWatchTest, ARelistIsComparedAnOlderOneIsNot) {
  const base::Instant now = absl::UnixEpoch();
  for (const bool older : {false, true}) {
    WeakeningWatch watch(base::Mode::kPreferred);
    watch.Handle(now, kube::Relist<NamespaceMeta>{
                          .objects = {Namespace({{kEncryption, "required"}})}});
    watch.Handle(now, kube::Relist<NamespaceMeta>{.objects = {Namespace({})},
                                                  .older_than_seen = older});
    EXPECT_NE(watch.Take(now, kWall).has_value(), older);
  }
}

TEST(WeakeningWatchTest, ANewNamespaceOfThatNameWasNotWeakened) {
  const base::Instant now = absl::UnixEpoch();
  WeakeningWatch watch(base::Mode::kPreferred);
  watch.Handle(now, kube::Relist<NamespaceMeta>{
                        .objects = {Namespace({{kEncryption, "required"}})}});
  auto other = std::make_shared<NamespaceMeta>(*Namespace({}));
  other->meta.uid = "another";
  watch.Handle(now, kube::Put<NamespaceMeta>{other});
  EXPECT_FALSE(watch.Take(now, kWall).has_value());
}

TEST(WeakeningWatchTest, WhatAStandbySawLongAgoIsForgotten) {
  const base::Instant now = absl::UnixEpoch();
  WeakeningWatch watch(base::Mode::kPreferred);
  watch.Handle(now, kube::Relist<NamespaceMeta>{
                        .objects = {Namespace({{kEncryption, "required"}})}});
  watch.Handle(now, kube::Put<NamespaceMeta>{Namespace({})});
  EXPECT_FALSE(watch.Take(now + absl::Minutes(3), kWall).has_value());
}

}  // namespace
}  // namespace espalier::controller
