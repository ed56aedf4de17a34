#include "agent/mesh/kubernetes/last_known.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/mesh/kubernetes/objects.h"

namespace espalier::mesh {
namespace {

LastKnown Sample() {
  LastKnown known;
  known.nodes["n1"] = Share(MakeNode(1, 7));
  kube::NamespaceMeta space;
  space.meta.name = "shop";
  space.meta.annotations[kEncryptionAnnotation] = "required\nline";
  known.namespaces["shop"] = Share(space);
  kube::Pod pod;
  pod.meta.name = "web";
  pod.meta.name_space = "shop";
  pod.meta.uid = "u";
  known.pods["shop/web"] = Share(pod);
  return known;
}

TEST(LastKnown, ComesBackAsItWas) {
  const LastKnown known = Sample();
  const absl::StatusOr<LastKnown> read = ParseLastKnown(FormatLastKnown(known));
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->nodes.contains("n1"));
  EXPECT_EQ(*read->nodes.at("n1"), *known.nodes.at("n1"));
  ASSERT_TRUE(read->namespaces.contains("shop"));
  EXPECT_EQ(*read->namespaces.at("shop"), *known.namespaces.at("shop"));
  ASSERT_TRUE(read->pods.contains("shop/web"));
  EXPECT_EQ(*read->pods.at("shop/web"), *known.pods.at("shop/web"));
}

TEST(LastKnown, CutShortAnywhereIsRefused) {
  const std::string text = FormatLastKnown(Sample());
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(ParseLastKnown(text.substr(0, size)).ok()) << size;
  }
}

TEST(LastKnown, ALineOfAnotherKindIsRefused) {
  std::string text = FormatLastKnown(Sample());
  text.replace(text.find("namespace "), 9, "namespice");
  EXPECT_EQ(ParseLastKnown(text).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace espalier::mesh
