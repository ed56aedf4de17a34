#include "agent/main/key_rotation.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

class KeyRotationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        std::filesystem::temp_directory_path() / "espalier-rotate-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    Restart();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  // As an agent that was killed and started again.
  void Restart() {
    auto opened = KeyRotation::Open(folder_ + "/node.key");
    ASSERT_TRUE(opened.ok()) << opened.status();
    rotation_ = *std::move(opened);
  }
  base::Bytes InUse() { return rotation_->key()->public_key()->der(); }
  bool Advance(bool published = true, bool replaced = true) {
    const absl::StatusOr<bool> switched =
        rotation_->Advance(now_, published, replaced);
    EXPECT_TRUE(switched.ok()) << switched.status();
    return switched.ok() && *switched;
  }
  bool AdvanceFor(absl::Duration time, bool published = true,
                  bool replaced = true) {
    bool switched = Advance(published, replaced);
    now_ += time;
    return Advance(published, replaced) || switched;
  }

  std::string folder_;
  std::unique_ptr<KeyRotation> rotation_;
  base::Instant now_ = absl::FromUnixSeconds(1000);
};

TEST_F(KeyRotationTest, TheOldKeyIsInUseUntilPeersHadTimeToReadTheNew) {
  const base::Bytes first = InUse();
  ASSERT_TRUE(rotation_->Request("").ok());
  EXPECT_FALSE(rotation_->under_way());
  ASSERT_TRUE(rotation_->Request("a").ok());
  ASSERT_THAT(rotation_->public_keys(), SizeIs(2));
  EXPECT_EQ(rotation_->public_keys()[0], first);
  const base::Bytes second = rotation_->public_keys()[1];

  // Not published: never, however long it takes.
  EXPECT_FALSE(AdvanceFor(absl::Hours(10), /*published=*/false));
  EXPECT_FALSE(AdvanceFor(KeyRotation::kLearn - absl::Seconds(1)));
  EXPECT_EQ(InUse(), first);
  EXPECT_TRUE(AdvanceFor(absl::Seconds(1)));
  EXPECT_EQ(InUse(), second);
  EXPECT_THAT(rotation_->public_keys(), ElementsAre(second, first));

  // An IKE_SA rests on the old one: it is not withdrawn.
  AdvanceFor(absl::Hours(10), true, /*replaced=*/false);
  EXPECT_THAT(rotation_->public_keys(), SizeIs(2));
  AdvanceFor(KeyRotation::kDrain - absl::Seconds(1));
  EXPECT_THAT(rotation_->public_keys(), SizeIs(2));
  AdvanceFor(absl::Seconds(1));
  EXPECT_THAT(rotation_->public_keys(), ElementsAre(second));

  // The same request, after a restart too, is carried out once.
  Restart();
  EXPECT_EQ(InUse(), second);
  ASSERT_TRUE(rotation_->Request("a").ok());
  EXPECT_FALSE(rotation_->under_way());
  ASSERT_TRUE(rotation_->Request("b").ok());
  EXPECT_TRUE(rotation_->under_way());
}

TEST_F(KeyRotationTest, AnAgentThatIsKilledGoesOnWhereItWas) {
  const base::Bytes first = InUse();
  ASSERT_TRUE(rotation_->Request("").ok());
  ASSERT_TRUE(rotation_->Request("a").ok());
  const base::Bytes second = rotation_->public_keys()[1];
  Restart();
  ASSERT_TRUE(rotation_->Request("a").ok());
  EXPECT_THAT(rotation_->public_keys(), ElementsAre(first, second));
  EXPECT_TRUE(AdvanceFor(KeyRotation::kLearn));
  Restart();
  EXPECT_THAT(rotation_->public_keys(), ElementsAre(second, first));
  // Between the two renames of the switch.
  std::filesystem::rename(folder_ + "/node.key", folder_ + "/node.key.next");
  Restart();
  EXPECT_THAT(rotation_->public_keys(), ElementsAre(second, first));
  AdvanceFor(KeyRotation::kDrain);
  EXPECT_THAT(rotation_->public_keys(), ElementsAre(second));
  Restart();
  ASSERT_TRUE(rotation_->Request("a").ok());
  EXPECT_THAT(rotation_->public_keys(), ElementsAre(second));
}

TEST_F(KeyRotationTest, ARequestFoundWithTheFirstKeyIsOld) {
  ASSERT_TRUE(rotation_->Request("of a node before").ok());
  EXPECT_FALSE(rotation_->under_way());
}

TEST_F(KeyRotationTest, ASecondRequestWaitsForTheFirst) {
  ASSERT_TRUE(rotation_->Request("").ok());
  ASSERT_TRUE(rotation_->Request("a").ok());
  ASSERT_TRUE(rotation_->Request("b").ok());
  EXPECT_THAT(rotation_->public_keys(), SizeIs(2));
  AdvanceFor(KeyRotation::kLearn);
  ASSERT_TRUE(rotation_->Request("b").ok());
  EXPECT_THAT(rotation_->public_keys(), SizeIs(2));
  AdvanceFor(KeyRotation::kDrain);
  EXPECT_FALSE(rotation_->under_way());
  ASSERT_TRUE(rotation_->Request("b").ok());
  EXPECT_TRUE(rotation_->under_way());
}

}  // namespace
}  // namespace espalier::agent
