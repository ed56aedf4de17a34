#include "agent/base/reconciliation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace espalier::base {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ReconciliationTest : public ::testing::Test {
 protected:
  // One round in which every change succeeds.
  void Settle() {
    for (const auto& change : items_.Begin(now_, true)) {
      items_.End(change.key, absl::OkStatus(), now_);
    }
  }

  Instant now_;
  Reconciliation<std::string, int> items_{absl::Seconds(1), absl::Seconds(8)};
};

TEST_F(ReconciliationTest, NamesWhatSomebodyElseTookAwayOrChanged) {
  items_.SetDesired({{"a", 1}, {"b", 2}, {"c", 3}});
  Settle();
  EXPECT_THAT(items_.SetActual({{"a", 1}, {"b", 2}, {"c", 3}}), IsEmpty());
  EXPECT_THAT(items_.SetActual({{"a", 1}, {"b", 7}}), ElementsAre("b", "c"));
  // Told once, and made good.
  EXPECT_THAT(items_.SetActual({{"a", 1}, {"b", 7}}), IsEmpty());
  Settle();
  EXPECT_THAT(items_.SetActual({{"a", 1}, {"b", 2}, {"c", 3}}), IsEmpty());
}

TEST_F(ReconciliationTest, DoesNotCallOursWhatNeverStood) {
  items_.SetDesired({{"a", 1}, {"b", 2}, {"c", 3}});
  for (const auto& change : items_.Begin(now_, true)) {
    if (change.key == "c") continue;  // under way
    items_.End(change.key,
               change.key == "a" ? absl::InternalError("") : absl::OkStatus(),
               now_);
  }
  items_.SetDesired({{"a", 1}, {"b", 3}, {"c", 3}});
  EXPECT_THAT(items_.SetActual({}), IsEmpty());
}

}  // namespace
}  // namespace espalier::base
