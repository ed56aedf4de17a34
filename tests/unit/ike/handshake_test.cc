// IKE_SA_INIT and IKE_AUTH between two cores (RFC 7296 1.2).
#include "gtest/gtest.h"
#include "tests/unit/ike/lab.h"

namespace espalier::ike::testing {
namespace {

TEST(Handshake, FourMessagesMakeATunnel) {
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2);
  lab.Introduce(a, b);
  a.core.Establish(lab.now(), PeerId(2));
  b.core.Establish(lab.now(), PeerId(1));
  lab.Drain();
  ASSERT_EQ(a.Established().size(), 1u);
  ASSERT_EQ(b.Established().size(), 1u);
  EXPECT_EQ(a.sent.size(), 2u);
  EXPECT_EQ(b.sent.size(), 2u);
  EXPECT_TRUE(lab.PassBoth(a, b));
  EXPECT_EQ(a.Count(Event::Kind::kChildSaUp), 1);
  EXPECT_EQ(b.Count(Event::Kind::kChildSaUp), 1);
  EXPECT_EQ(a.datapath_log,
            (std::vector<std::string>{"install in", "install out"}));
  EXPECT_EQ(b.datapath_log,
            (std::vector<std::string>{"install in", "install out"}));
  EXPECT_EQ(b.core.counters().half_open, 0u);
  EXPECT_EQ(a.Established()[0].children.size(), 1u);
}

TEST(Handshake, SurvivesTheLossOfEachMessage) {
  for (int lost = 0; lost < 4; ++lost) {
    Lab lab;
    Node& a = lab.Add("a", 1);
    Node& b = lab.Add("b", 2);
    lab.Introduce(a, b);
    int count = 0;
    lab.filter = [&](Node&, Node&, Path&, base::Bytes&) {
      return count++ != lost;
    };
    a.core.Establish(lab.now(), PeerId(2));
    lab.Run(absl::Seconds(5));
    EXPECT_TRUE(lab.PassBoth(a, b)) << lost;
    EXPECT_EQ(a.core.counters().retransmissions, 1u);
    EXPECT_EQ(a.core.counters().ike_sas_established, 1u);
    EXPECT_EQ(b.core.counters().ike_sas_established, 1u);
  }
}

TEST(Handshake, WrongSharedKeyIsRefused) {
  Lab lab;
  Node& a = lab.Add("a", 1);
  Node& b = lab.Add("b", 2);
  (void)a.core.UpsertPeer(lab.now(), Lab::PskPeer(a, b, "one"));
  (void)b.core.UpsertPeer(lab.now(), Lab::PskPeer(b, a, "two"));
  a.core.Establish(lab.now(), PeerId(2));
  lab.Drain();
  EXPECT_TRUE(a.Established().empty());
  EXPECT_TRUE(b.Established().empty());
  EXPECT_EQ(a.Count(Event::Kind::kAuthenticationFailed), 1);
  EXPECT_EQ(b.Count(Event::Kind::kAuthenticationFailed), 1);
  EXPECT_TRUE(a.sas.empty());
  EXPECT_TRUE(b.sas.empty());
}

}  // namespace
}  // namespace espalier::ike::testing
