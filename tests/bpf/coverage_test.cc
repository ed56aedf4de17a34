// Every verdict that a program can give is given in some test: a reason that
// no test reaches is one that nobody has seen work.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "bpf/shared_types.h"
#include "tests/bpf/scene.h"

namespace espalier::testing {
namespace {

class EveryVerdict : public ::testing::Environment {
 public:
  void TearDown() override {
    if (GTEST_FLAG_GET(filter) != "*" || SeenVerdicts().empty()) return;
#define EXPECT_SEEN(name, drop, hook, key, text) \
  EXPECT_TRUE(SeenVerdicts().contains(key)) << key << " was never seen";
    ESPALIER_VERDICTS(EXPECT_SEEN)
#undef EXPECT_SEEN
  }
};

[[maybe_unused]] const auto* const kRegistered =
    ::testing::AddGlobalTestEnvironment(new EveryVerdict);

TEST(VerdictsTest, KeysAndTextsAreForOneEach) {
  std::set<std::string> keys, texts;
#define INSERT(name, drop, hook, key, text)    \
  EXPECT_TRUE(keys.insert(key).second) << key; \
  EXPECT_TRUE(texts.insert(text).second) << text;
  ESPALIER_VERDICTS(INSERT)
#undef INSERT
  EXPECT_EQ(keys.size(), size_t{ESPALIER_VERDICT_COUNT});
}

}  // namespace
}  // namespace espalier::testing
