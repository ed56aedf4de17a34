// Exchanges that overtake each other: what the simulator found, by hand
// (RFC 7296 2.8, 2.25).
#include "gtest/gtest.h"
#include "tests/unit/ike/insider.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

class Collision : public ::testing::Test {
 protected:
  void SetUp() override {
    lab_.Introduce(a_, b_);
    a_.core.Establish(lab_.now(), PeerId(2));
    lab_.Drain();
    ASSERT_TRUE(lab_.PassBoth(a_, b_));
    lab_.hold_wire = true;
  }
  void DeliverOne() {
    lab_.Drain();
    ASSERT_FALSE(lab_.wire.empty());
    lab_.DeliverNext();
    lab_.Drain();
  }
  // Of the CHILD_SA that was made last.
  base::Spi NewestInbound(const Node& node) {
    const Node::InstalledSa* newest = nullptr;
    for (const auto& [key, sa] : node.sas) {
      if (key.first == base::Direction::kInbound &&
          (newest == nullptr || sa.order > newest->order)) {
        newest = &sa;
      }
    }
    return newest->sa.spi;
  }
  void ExpectSettledWithoutLoss() {
    lab_.hold_wire = false;
    for (int i = 0; i < 60; ++i) {
      EXPECT_TRUE(lab_.PassBoth(a_, b_)) << "second " << i;
      lab_.Run(absl::Seconds(1));
    }
    for (Node* node : {&a_, &b_}) {
      ASSERT_EQ(node->core.IkeSas().size(), 1u) << node->name;
      EXPECT_EQ(node->core.IkeSas()[0].children.size(), 1u) << node->name;
      EXPECT_EQ(node->sas.size(), 2u) << node->name;
    }
  }

  Lab lab_;
  Node& a_ = lab_.Add("a", 1, WithKeyLog());
  Node& b_ = lab_.Add("b", 2);
};

TEST_F(Collision, ADeleteOvertakesTheMakingOfItsChild) {
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  DeliverOne();  // the request; b has its half now
  a_.hold_jobs = true;
  DeliverOne();  // the response; a still computes
  ASSERT_EQ(a_.held_jobs.size(), 1u);
  b_.core.HandleSaExpired(lab_.now(), base::Direction::kInbound, b_.address,
                          NewestInbound(b_), /*hard=*/true);
  DeliverOne();  // b's Delete of it
  a_.hold_jobs = false;
  const RunCrypto job = std::move(a_.held_jobs.front());
  a_.held_jobs.clear();
  a_.core.HandleCryptoDone(lab_.now(), job.id, crypto::Run(job.job));
  lab_.Drain();
  ExpectSettledWithoutLoss();
}

TEST_F(Collision, AChildThatThePeerMayNotHaveIsNotRekeyed) {
  a_.core.RekeyChildSa(lab_.now(), PeerId(2));
  DeliverOne();  // the request
  lab_.Drain();
  ASSERT_EQ(lab_.wire.size(), 1u);
  lab_.wire.clear();  // the response is lost
  b_.core.RekeyChildSa(lab_.now(), PeerId(1));
  ExpectSettledWithoutLoss();
}

// RFC 7296 1.4.1: each end names what it receives on; of two Deletes that cross
// neither answer names the CHILD_SA again.
TEST_F(Collision, TheAnswerToADeleteNamesTheOtherHalf) {
  Insider insider(a_);
  const auto deleted_in = [&](const base::Bytes& datagram) {
    std::vector<base::Spi> spis;
    const std::optional<wire::Payloads> payloads = insider.Read(datagram);
    for (const auto* del : wire::FindAll<wire::DeletePayload>(*payloads)) {
      spis.insert(spis.end(), del->spis.begin(), del->spis.end());
    }
    return spis;
  };
  const auto expire = [&](Node& node) {
    node.core.HandleSaExpired(lab_.now(), base::Direction::kInbound,
                              node.address, NewestInbound(node), /*hard=*/true);
    lab_.Drain();
  };
  using Spis = std::vector<base::Spi>;
  const base::Spi at_a = NewestInbound(a_), at_b = NewestInbound(b_);
  expire(a_);
  ASSERT_EQ(lab_.wire.size(), 1u);
  EXPECT_EQ(deleted_in(lab_.wire[0].bytes), Spis{at_a});
  lab_.DeliverNext();
  lab_.Drain();
  ASSERT_EQ(lab_.wire.size(), 1u);
  EXPECT_EQ(deleted_in(lab_.wire[0].bytes), Spis{at_b});
  lab_.hold_wire = false;
  lab_.Run(absl::Seconds(30));
  ASSERT_TRUE(lab_.PassBoth(a_, b_));
  // Both at once.
  lab_.hold_wire = true;
  expire(a_);
  expire(b_);
  ASSERT_EQ(lab_.wire.size(), 2u);
  for (int i = 0; i < 2; ++i) DeliverOne();
  ASSERT_EQ(lab_.wire.size(), 2u);
  for (const auto& answer : lab_.wire) {
    EXPECT_TRUE(IsResponse(answer.bytes));
    EXPECT_EQ(deleted_in(answer.bytes), Spis{});
  }
  lab_.hold_wire = false;
  lab_.Run(absl::Seconds(30));
  ExpectSettledWithoutLoss();
}

}  // namespace
}  // namespace espalier::ike::testing
