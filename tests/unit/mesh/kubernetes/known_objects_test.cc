#include "agent/mesh/kubernetes/known_objects.h"

#include "agent/mesh/kubernetes/compose.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/mesh/kubernetes/objects.h"

namespace espalier::mesh {
namespace {

using Annotations = std::map<std::string, std::string>;
using Known = KnownObjects<kube::NamespaceMeta>;
using ::testing::IsEmpty;

kube::Object<kube::NamespaceMeta> Space(const std::string& name,
                                        const std::string& version,
                                        const std::string& mode = "") {
  kube::NamespaceMeta space;
  space.meta.name = name;
  space.meta.uid = "uid-of-" + name;
  space.meta.resource_version = version;
  if (!mode.empty()) space.meta.annotations[kEncryptionAnnotation] = mode;
  return Share(std::move(space));
}

bool Put(Known& known, kube::Object<kube::NamespaceMeta> object) {
  return known.Handle(kube::Put<kube::NamespaceMeta>{std::move(object)});
}

std::string ModeIn(const Known& known, const std::string& name) {
  const auto found = known.objects().find(name);
  if (found == known.objects().end()) return "gone";
  const Annotations& all = found->second->meta.annotations;
  const auto word = all.find(kEncryptionAnnotation);
  return word == all.end() ? "" : word->second;
}

TEST(KnownObjects, TheLatestWordHoldsWhateverItSays) {
  Known known;
  EXPECT_TRUE(Put(known, Space("shop", "10", "required")));
  EXPECT_FALSE(Put(known, Space("shop", "11", "required")));
  EXPECT_TRUE(Put(known, Space("shop", "12", "disabled")));
  EXPECT_EQ(ModeIn(known, "shop"), "disabled");
  EXPECT_TRUE(Put(known, Space("shop", "13")));
  EXPECT_EQ(ModeIn(known, "shop"), "");
  EXPECT_FALSE(known.set_back());
}

TEST(KnownObjects, AServerThatWasSetBackStrengthensAndNeverWeakens) {
  Known known;
  Put(known, Space("shop", "100", "preferred"));
  Put(known, Space("vault", "90", "required"));
  kube::Relist<kube::NamespaceMeta> back;
  back.objects = {Space("shop", "50"), Space("vault", "40", "disabled")};
  back.resource_version = "60";
  back.older_than_seen = true;
  EXPECT_FALSE(known.Handle(back));
  EXPECT_TRUE(known.set_back());
  EXPECT_EQ(ModeIn(known, "shop"), "preferred");
  EXPECT_EQ(ModeIn(known, "vault"), "required");

  // Said after the restore, by a number that was seen before it.
  EXPECT_TRUE(Put(known, Space("shop", "61", "required")));
  EXPECT_EQ(ModeIn(known, "shop"), "required");
  EXPECT_FALSE(Put(known, Space("vault", "62", "preferred")));
  EXPECT_EQ(ModeIn(known, "vault"), "required");
  EXPECT_TRUE(known.set_back());

  // Once it has passed what was seen its word holds again.
  EXPECT_TRUE(Put(known, Space("vault", "101", "preferred")));
  EXPECT_EQ(ModeIn(known, "vault"), "preferred");
  EXPECT_FALSE(known.set_back());
}

TEST(KnownObjects, NothingIsForgottenByAnOlderOrShrunkenList) {
  Known known;
  Put(known, Space("shop", "100", "required"));
  kube::Relist<kube::NamespaceMeta> list;
  list.resource_version = "60";
  list.older_than_seen = true;
  EXPECT_FALSE(known.Handle(list));
  EXPECT_EQ(ModeIn(known, "shop"), "required");
  list.older_than_seen = false;
  list.resource_version = "101";
  list.lost_more_than_quarter = true;
  EXPECT_FALSE(known.Handle(list));
  EXPECT_EQ(ModeIn(known, "shop"), "required");
  // The control: a list that is believed.
  list.lost_more_than_quarter = false;
  EXPECT_TRUE(known.Handle(list));
  EXPECT_EQ(ModeIn(known, "shop"), "gone");
}

// The process before this one saw more than the server now knows of, and the
// informer, which is new, cannot tell.
TEST(KnownObjects, ARestoredMemoryNoticesASetBackByItself) {
  Known known;
  known.Restore({{"shop", Space("shop", "100", "required")}});
  kube::Relist<kube::NamespaceMeta> first;
  first.objects = {Space("shop", "50")};
  first.resource_version = "60";
  first.first = true;
  EXPECT_FALSE(known.Handle(first));
  EXPECT_TRUE(known.set_back());
  EXPECT_EQ(ModeIn(known, "shop"), "required");
}

TEST(KnownObjects, AnotherOfTheSameNameIsAnother) {
  Known known;
  Put(known, Space("shop", "100", "required"));
  kube::NamespaceMeta again = *Space("shop", "50");
  again.meta.uid = "another";
  EXPECT_TRUE(Put(known, Share(again)));
  EXPECT_EQ(ModeIn(known, "shop"), "");
  EXPECT_FALSE(known.Handle(
      kube::Deleted<kube::NamespaceMeta>{Space("shop", "100", "required")}));
  EXPECT_TRUE(known.Handle(kube::Deleted<kube::NamespaceMeta>{Share(again)}));
  EXPECT_THAT(known.objects(), IsEmpty());
}

TEST(Strengthened, TakesWhatIsSureToLetLessPass) {
  const auto mode = [](const std::string& known, const std::string& older) {
    Annotations a, b;
    if (!known.empty()) a[kEncryptionAnnotation] = known;
    if (!older.empty()) b[kEncryptionAnnotation] = older;
    const Annotations all = Strengthened(a, b);
    const auto found = all.find(kEncryptionAnnotation);
    return found == all.end() ? std::string() : found->second;
  };
  EXPECT_EQ(mode("", "required"), "required");
  EXPECT_EQ(mode("", "reqired"), "reqired") << "taken as required";
  EXPECT_EQ(mode("disabled", "preferred"), "preferred");
  EXPECT_EQ(mode("preferred", "required"), "required");
  EXPECT_EQ(mode("", "preferred"), "") << "the default may be stronger";
  EXPECT_EQ(mode("required", "preferred"), "required");
  EXPECT_EQ(mode("preferred", "disabled"), "preferred");
  EXPECT_EQ(mode("required", ""), "required");

  EXPECT_EQ(Strengthened({}, {{kOutsideAnnotation, "deny"}}),
            (Annotations{{kOutsideAnnotation, "deny"}}));
  EXPECT_EQ(Strengthened({{kOutsideAnnotation, "deny"}}, {}),
            (Annotations{{kOutsideAnnotation, "deny"}}));
  EXPECT_THAT(Strengthened({}, {{kOutsideInAnnotation, "allow"}}), IsEmpty());
}

}  // namespace
}  // namespace espalier::mesh
