#include "agent/kube/access_review.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_kube_server.h"

namespace espalier::kube {
namespace {

using Verdict = AccessReview::Verdict;
using ::testing::SizeIs;

class ManualClock : public base::Clock {
 public:
  base::Instant Now() override { return now; }
  base::Instant now = absl::FromUnixSeconds(1000);
};

class AccessReviewTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server_.SetToken("reads", "prometheus", /*reads=*/true);
    server_.SetToken("other", "eve", /*reads=*/false);
  }
  Verdict Check(absl::string_view token) {
    const absl::StatusOr<Verdict> verdict = review_.Check(token);
    EXPECT_TRUE(verdict.ok()) << verdict.status();
    return verdict.value_or(Verdict::kForbidden);
  }

  FakeKubeServer server_;
  ManualClock clock_;
  AccessReview review_{&server_, &clock_, "/metrics"};
};

TEST_F(AccessReviewTest, WhoIsKnownAndMay) {
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  EXPECT_EQ(Check("other"), Verdict::kForbidden);
  EXPECT_EQ(Check("guessed"), Verdict::kUnknownToken);
  // Two calls, two, and one: who is not known is not asked about further.
  EXPECT_THAT(server_.Requests(), SizeIs(5));
}

TEST_F(AccessReviewTest, WhatIsNoTokenAsksNobody) {
  EXPECT_EQ(Check(""), Verdict::kUnknownToken);
  EXPECT_EQ(Check("two words"), Verdict::kUnknownToken);
  EXPECT_EQ(Check("reads\n"), Verdict::kUnknownToken);
  EXPECT_EQ(Check(std::string(AccessReview::kLongestToken + 1, 'a')),
            Verdict::kUnknownToken);
  EXPECT_THAT(server_.Requests(), SizeIs(0));
}

TEST_F(AccessReviewTest, AnAnswerHoldsForItsTimeAndNoLonger) {
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  EXPECT_EQ(Check("other"), Verdict::kForbidden);
  const size_t asked = server_.Requests().size();
  server_.RevokeToken("reads");
  server_.SetToken("other", "eve", /*reads=*/true);
  clock_.now += AccessReview::kRefusedFor - absl::Seconds(1);
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  EXPECT_EQ(Check("other"), Verdict::kForbidden);
  EXPECT_THAT(server_.Requests(), SizeIs(asked));
  clock_.now += absl::Seconds(1);
  EXPECT_EQ(Check("other"), Verdict::kAllowed);
  clock_.now += AccessReview::kAllowedFor;
  EXPECT_EQ(Check("reads"), Verdict::kUnknownToken);
}

TEST_F(AccessReviewTest, AnErrorLetsNobodyIn) {
  server_.Answer(500);
  EXPECT_FALSE(review_.Check("reads").ok());
  server_.Answer(403);
  EXPECT_FALSE(review_.Check("reads").ok());
  server_.Answer(0);
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  // What was allowed is, for its time; then there is no answer again.
  server_.Answer(-1);
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  clock_.now += AccessReview::kAllowedFor;
  EXPECT_FALSE(review_.Check("reads").ok());
}

TEST_F(AccessReviewTest, GuessingAsksABoundedNumberOfTimes) {
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto verdict = review_.Check(absl::StrCat("guess-", i));
    refused += absl::IsResourceExhausted(verdict.status());
  }
  EXPECT_EQ(refused, 1000 - 19);
  EXPECT_THAT(server_.Requests(), SizeIs(2 + 19));
  // Who was let in before still is, also after its time.
  clock_.now += absl::Milliseconds(1);
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  clock_.now += AccessReview::kAllowedFor - absl::Milliseconds(1);
  for (int i = 0; i < 30; ++i) {
    (void)review_.Check(absl::StrCat("again-", i));
  }
  EXPECT_EQ(Check("reads"), Verdict::kAllowed);
  // And the others when the flood is over.
  clock_.now += absl::Seconds(1);
  EXPECT_EQ(Check("other"), Verdict::kForbidden);
}

}  // namespace
}  // namespace espalier::kube
