#include "agent/main/node_reporter.h"

#include "agent/crypto/random.h"
#include "agent/main/node_publisher.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const base::Instant kStart = absl::FromUnixSeconds(1000);
const absl::Time kWall = absl::FromUnixSeconds(1'800'000'000);

NodeFacts Facts() {
  NodeFacts facts;
  facts.peers.resize(3);
  facts.peers[0].state = mesh::TunnelState::kUp;
  facts.peers[1].state = mesh::TunnelState::kUp;
  facts.peers[1].fell_back = true;
  pods::PodInfo pod;
  pod.host_interface = "esp1";
  facts.pods.push_back(pod);
  pod.host_interface = "esp2";
  pod.policy.encryption = base::Mode::kDisabled;
  facts.pods.push_back(pod);
  facts.counters = {
      {"bpf", {.interface = "esp1", .drop = true, .packets = 5}},
      {"nftables", {.interface = "esp1", .drop = true, .packets = 2}},
      {"bpf", {.interface = "esp1", .drop = false, .packets = 100}},
      {"bpf", {.interface = "esp9", .drop = true, .packets = 1}}};
  facts.datapath = "user";
  return facts;
}

TEST(MakeReport, Counts) {
  const auto status = MakeReport(Facts(), {}, kWall);
  EXPECT_EQ(status.tunnels.wanted, 3);
  EXPECT_EQ(status.tunnels.up, 2);
  EXPECT_EQ(status.tunnels.fallback, 1);
  EXPECT_EQ(status.pods.required, 1);
  EXPECT_EQ(status.pods.disabled, 1);
  EXPECT_EQ(status.drops.at("required"), 7);
  EXPECT_EQ(status.drops.at("other"), 1);
  EXPECT_EQ(kube::FindCondition(status.conditions, "Ready")->status, "True");
}

TEST(MakeReport, APodThatSettlesIsNotRequiredYet) {
  NodeFacts facts = Facts();
  facts.pods[0].settling = true;
  EXPECT_EQ(MakeReport(facts, {}, kWall).pods.required, 0);
}

TEST(MakeReport, AConditionKeepsItsTimeWhileItSaysTheSame) {
  NodeFacts facts = Facts();
  const auto first = MakeReport(facts, {}, kWall);
  facts.guard_problem = "nftables: gone";
  const auto second = MakeReport(facts, first, kWall + absl::Hours(1));
  EXPECT_EQ(kube::FindCondition(second.conditions, "Ready")->last_transition,
            kWall);
  const kube::Condition* guards =
      kube::FindCondition(second.conditions, "GuardsInPlace");
  EXPECT_EQ(guards->status, "False");
  EXPECT_EQ(guards->message, "nftables: gone");
  EXPECT_EQ(guards->last_transition, kWall + absl::Hours(1));
}

TEST(MakeReport, SurroundingsAreConditionsWithATimeAndABound) {
  NodeFacts facts = Facts();
  facts.unprotected_pods = 2;
  facts.surroundings = {{.type = "PodsProtected",
                         .status = "False",
                         .reason = "ForeignPods",
                         .message = std::string(5000, 'x')},
                        {.type = "KubeProxySupported",
                         .status = "Unknown",
                         .reason = "NoKubeProxy"}};
  const auto first = MakeReport(facts, {}, kWall);
  EXPECT_EQ(first.pods.unprotected, 2);
  const kube::Condition* pods =
      kube::FindCondition(first.conditions, "PodsProtected");
  ASSERT_NE(pods, nullptr);
  EXPECT_EQ(pods->status, "False");
  EXPECT_EQ(pods->message.size(), 1000u);
  EXPECT_EQ(pods->last_transition, kWall);
  EXPECT_EQ(kube::FindCondition(first.conditions, "KubeProxySupported")->status,
            "Unknown");
  const auto second = MakeReport(facts, first, kWall + absl::Hours(1));
  EXPECT_EQ(
      kube::FindCondition(second.conditions, "PodsProtected")->last_transition,
      kWall);
}

TEST(NodeReporter, AtMostOneReportAMinute) {
  crypto::SystemRandom random;
  NodeReporter reporter("n1", &random);
  NodeFacts facts = Facts();  // of a node that is never well
  int written = 0;
  for (int second = 0; second < 3600; ++second) {
    const base::Instant now = kStart + absl::Seconds(second);
    facts.counters[0].second.packets = static_cast<uint64_t>(second);
    if (reporter.Due(now) && reporter.Report(now, kWall, facts)) ++written;
  }
  EXPECT_LE(written, 60);
  EXPECT_GE(written, 40);
}

// How many reports a node writes in its first minute that is well from
// `second` on.
int ReportsOfTheFirstMinute(int second) {
  crypto::SystemRandom random;
  NodeReporter reporter("n1", &random);
  NodeFacts facts = Facts();
  int written = 0;
  for (int now = 0; now < 60; ++now) {
    if (now >= second) facts.peers[2].state = mesh::TunnelState::kUp;
    const base::Instant at = kStart + absl::Seconds(now);
    if (!reporter.Due(at) || !reporter.Report(at, kWall, facts)) continue;
    ++written;
    if (written == 2) EXPECT_LE(now, second + 2);
  }
  return written;
}

TEST(NodeReporter, TheFirstThatAllIsWellDoesNotWaitForItsTurn) {
  EXPECT_EQ(ReportsOfTheFirstMinute(0), 1);
  EXPECT_EQ(ReportsOfTheFirstMinute(7), 2);
  EXPECT_EQ(ReportsOfTheFirstMinute(1000), 1);
}

TEST(NodeReporter, AReportThatSaysNothingNewIsLeftOutForAWhile) {
  crypto::SystemRandom random;
  NodeReporter reporter("n1", &random);
  EXPECT_TRUE(reporter.Report(kStart, kWall, Facts()).has_value());
  const base::Instant later = kStart + absl::Minutes(2);
  EXPECT_FALSE(reporter.Report(later, kWall + absl::Minutes(2), Facts()));
  NodeFacts changed = Facts();
  changed.peers[2].state = mesh::TunnelState::kUp;
  EXPECT_TRUE(reporter.Report(later, kWall, changed).has_value());
  EXPECT_TRUE(reporter.Report(later + NodeReporter::kLatest, kWall, changed)
                  .has_value());
}

guard::DropEvent Drop(const std::string& pod, int at,
                      const std::string& verdict = "leak") {
  guard::DropEvent drop;
  drop.time = kWall + absl::Seconds(at);
  drop.pod = pod;
  drop.verdict = verdict;
  drop.text = "plaintext to another node";
  drop.source = base::IpAddress::V4({10, 1, 1, 2});
  drop.destination = base::IpAddress::V4({10, 1, 2, 3});
  drop.destination_port = 80;
  drop.protocol = 6;
  return drop;
}
std::string KnownUid(const std::string& pod) { return "uid of " + pod; }

TEST(NodeReporter, AnEventSaysWhatWasDroppedAndWhy) {
  crypto::SystemRandom random;
  NodeReporter reporter("n1", &random);
  const auto events = reporter.Events(kStart, {Drop("shop/web", 1)}, KnownUid);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].about.name_space, "shop");
  EXPECT_EQ(events[0].about.name, "web");
  EXPECT_EQ(events[0].about.uid, "uid of shop/web");
  EXPECT_EQ(events[0].meta.name_space, "shop");
  EXPECT_EQ(events[0].type, "Warning");
  EXPECT_EQ(events[0].message,
            "plaintext to another node: 10.1.1.2 to 10.1.2.3:80, protocol 6");
}

TEST(NodeReporter, OneEventOfAPodAndReasonInTenMinutes) {
  crypto::SystemRandom random;
  NodeReporter reporter("n1", &random);
  std::deque<guard::DropEvent> drops = {Drop("a/b", 1), Drop("a/b", 2),
                                        Drop("a/b", 3, "spoofed")};
  EXPECT_THAT(reporter.Events(kStart, drops, KnownUid), SizeIs(2));
  // The same ones, looked at again, are old.
  EXPECT_THAT(reporter.Events(kStart + absl::Hours(1), drops, KnownUid),
              IsEmpty());
  drops.push_back(Drop("a/b", 4000));
  EXPECT_THAT(reporter.Events(kStart + absl::Hours(1), drops, KnownUid),
              SizeIs(1));
  drops.push_back(Drop("a/b", 4001));
  EXPECT_THAT(reporter.Events(kStart + absl::Hours(1), drops, KnownUid),
              IsEmpty());
}

TEST(NodeReporter, AFloodOfPodsIsBounded) {
  crypto::SystemRandom random;
  NodeReporter reporter("n1", &random);
  std::deque<guard::DropEvent> drops;
  for (int i = 1; i <= 500; ++i) {
    drops.push_back(Drop("a/p" + std::to_string(i), i));
  }
  EXPECT_THAT(reporter.Events(kStart, drops, KnownUid),
              SizeIs(NodeReporter::kEventsAMinute));
}

TEST(NodeReporter, NoEventOnAPodThatIsNotKnown) {
  crypto::SystemRandom random;
  NodeReporter reporter("n1", &random);
  EXPECT_THAT(reporter.Events(kStart, {Drop("a/b", 1), Drop("id", 2)},
                              [](const std::string&) { return ""; }),
              IsEmpty());
}

TEST(NodePublisher, WritesWhatChangedAndTriesAgain) {
  std::vector<kube::EspalierNode::Spec> written;
  kube::EspalierNode::Spec first;
  first.datapath = "user";
  NodePublisher publisher("n1", first, kStart,
                          [&](const kube::EspalierNode& node) {
                            EXPECT_EQ(node.meta.name, "n1");
                            written.push_back(node.spec);
                          });
  kube::EspalierNode seen;
  seen.spec = first;
  publisher.Look(kStart, first, &seen);
  EXPECT_THAT(written, IsEmpty());
  EXPECT_TRUE(publisher.published());

  kube::EspalierNode::Spec second = first;
  second.datapath = "kernel";
  publisher.Look(kStart, second, &seen);
  EXPECT_FALSE(publisher.published());
  publisher.Look(kStart + absl::Seconds(1), second, &seen);
  EXPECT_THAT(written, SizeIs(1));  // one at a time
  publisher.HandleWritten(kStart + absl::Seconds(1),
                          absl::UnavailableError("away"));
  EXPECT_FALSE(publisher.problem().ok());
  publisher.Look(kStart + absl::Milliseconds(1500), second, &seen);
  EXPECT_THAT(written, SizeIs(1));
  publisher.Look(kStart + absl::Seconds(3), second, &seen);
  EXPECT_THAT(written, ElementsAre(second, second));
  publisher.HandleWritten(kStart + absl::Seconds(3), absl::OkStatus());
  EXPECT_TRUE(publisher.published());
  // Peers may not have read it yet.
  EXPECT_FALSE(publisher.settled(kStart + absl::Seconds(32)));
  EXPECT_TRUE(publisher.settled(kStart + absl::Seconds(33)));
}

TEST(NodePublisher, PutsRightWhatSomebodyElseChanged) {
  int writes = 0;
  kube::EspalierNode::Spec spec;
  spec.datapath = "user";
  NodePublisher publisher("n1", spec, kStart,
                          [&](const kube::EspalierNode&) { ++writes; });
  publisher.Look(kStart + absl::Seconds(5), spec, nullptr);
  EXPECT_EQ(writes, 0);  // the watch may be behind
  publisher.Look(kStart + absl::Minutes(1), spec, nullptr);
  EXPECT_EQ(writes, 1);
}

}  // namespace
}  // namespace espalier::agent
