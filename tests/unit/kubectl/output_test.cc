#include "agent/kubectl/output.h"

#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

#include "agent/kubectl/table.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace espalier::kubectl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::ListTunnelsResponse TwoTunnels() {
  v1::ListTunnelsResponse response;
  v1::Tunnel* up = response.add_tunnels();
  up->set_peer("node-b");
  up->set_state("up");
  up->mutable_state_age()->set_seconds(3700);
  up->set_suite("aes256gcm16-esn");
  up->add_pod_cidrs("10.244.2.0/24");
  up->mutable_inbound()->set_packets(12);
  up->mutable_inbound()->set_bytes(1536);
  v1::Tunnel* down = response.add_tunnels();
  down->set_peer("node-c");
  down->set_state("down");
  down->set_problem("no answer\x1b[2J");
  return response;
}

TEST(Tables, AlignAndShowEmptyCellsAsDashes) {
  Table table({"A", "LONG"});
  table.Add({"wider", ""});
  EXPECT_EQ(table.Render(), "A      LONG\nwider  -\n");
}

TEST(Tables, TunnelsForPeople) {
  const std::string text = TunnelsText(TwoTunnels(), false);
  EXPECT_EQ(
      text,
      "PEER    STATE  AGE   SUITE            IN           OUT     ERRORS  "
      "PROBLEM\n"
      "node-b  up     1h1m  aes256gcm16-esn  12 / 1.5KiB  0 / 0B  0       "
      "-\n"
      "node-c  down   0s    -                0 / 0B       0 / 0B  0       "
      "no answer?[2J\n");
  EXPECT_THAT(text, Not(HasSubstr("10.244.2.0/24")));
  EXPECT_THAT(TunnelsText(TwoTunnels(), true), HasSubstr("10.244.2.0/24"));
  EXPECT_THAT(TunnelsText({}, false), HasSubstr("No peers"));
}

TEST(Tables, ProbesOfATunnel) {
  v1::Tunnel tunnel = TwoTunnels().tunnels(0);
  tunnel.set_probe("off");
  EXPECT_THAT(TunnelText(tunnel), HasSubstr("Probe:            off\n"));
  tunnel.set_probe("passing");
  tunnel.set_probes_sent(9);
  tunnel.set_probes_answered(8);
  tunnel.mutable_probe_answer_age()->set_seconds(3);
  tunnel.mutable_probe_round_trip()->set_nanos(1'250'000);
  EXPECT_THAT(TunnelText(tunnel),
              HasSubstr("passing, 8 of 9 answered, the last 3s ago in 1.2 ms"));
  tunnel.set_probe_answered_by_node(true);
  EXPECT_THAT(TunnelText(tunnel), HasSubstr("the peer's agent is away"));
}

TEST(Tables, AFamilyThatOneEndLacks) {
  v1::Tunnel tunnel = TwoTunnels().tunnels(0);
  EXPECT_THAT(TunnelText(tunnel), Not(HasSubstr("Dropped")));
  tunnel.add_missing_families("IPv6 (the peer)");
  EXPECT_THAT(TunnelText(tunnel),
              HasSubstr("Dropped:          no pod CIDR of IPv6 (the peer)\n"));
}

TEST(Tables, WhatOthersDoOnTheNode) {
  v1::AgentStatus status;
  EXPECT_THAT(StatusText(status), Not(HasSubstr("Problems")));
  status.add_problems("2 pods were attached by another CNI plugin");
  status.add_problems("n2 lacks IPv6");
  EXPECT_THAT(StatusText(status),
              HasSubstr("2 pods were attached by another CNI plugin; n2"));
  v1::VerifyResponse proof;
  proof.add_warnings("10-plain.conflist lies beside");
  EXPECT_THAT(ProofText(proof), HasSubstr("10-plain.conflist lies beside"));
}

TEST(Json, KeepsNamesAndEmptyFields) {
  const auto json = nlohmann::json::parse(ToJson(TwoTunnels()));
  EXPECT_EQ(json["tunnels"][0]["state"], "up");
  EXPECT_EQ(json["tunnels"][0]["pod_cidrs"][0], "10.244.2.0/24");
  EXPECT_EQ(json["tunnels"][1]["suite"], "");
  EXPECT_EQ(nlohmann::json::parse(ToJson(v1::ListTunnelsResponse()))["tunnels"],
            nlohmann::json::array());
}

TEST(Yaml, HoldsWhatJsonHolds) {
  const YAML::Node yaml = YAML::Load(ToYaml(TwoTunnels()));
  EXPECT_EQ(yaml["tunnels"].size(), 2u);
  EXPECT_EQ(yaml["tunnels"][0]["peer"].as<std::string>(), "node-b");
  EXPECT_EQ(yaml["tunnels"][0]["inbound"]["bytes"].as<std::string>(), "1536");
  EXPECT_EQ(yaml["tunnels"][0]["pod_cidrs"][0].as<std::string>(),
            "10.244.2.0/24");
  EXPECT_EQ(yaml["tunnels"][1]["problem"].as<std::string>(),
            "no answer\x1b[2J");
  EXPECT_EQ(YAML::Load(ToYaml(v1::ListPodsResponse()))["pods"].size(), 0u);
}

TEST(Show, HasTheSas) {
  v1::Tunnel tunnel = TwoTunnels().tunnels(0);
  v1::IkeSa* ike = tunnel.add_ike_sas();
  ike->set_initiator_spi("0123456789abcdef");
  ike->set_state("established");
  ike->set_nat_remote(true);
  ike->mutable_rekey_in()->set_seconds(59);
  ike->add_children()->set_inbound_spi("deadbeef");
  v1::EspSa* sa = tunnel.add_esp_sas();
  sa->set_direction("in");
  sa->set_left_over(true);
  sa->mutable_counters()->set_replayed(4);
  const std::string text = TunnelText(tunnel);
  EXPECT_THAT(text, HasSubstr("IKE_SA 0123456789abcdef"));
  EXPECT_THAT(text, HasSubstr("before the peer"));
  EXPECT_THAT(text, HasSubstr("Rekey in:  59s"));
  EXPECT_THAT(text, HasSubstr("CHILD_SA in deadbeef"));
  EXPECT_THAT(text, HasSubstr("until its successor carries traffic"));
}

TEST(Human, Units) {
  EXPECT_EQ(HumanBytes(0), "0B");
  EXPECT_EQ(HumanBytes(1023), "1023B");
  EXPECT_EQ(HumanBytes(uint64_t{5} << 30), "5.0GiB");
  EXPECT_EQ(HumanSeconds(59), "59s");
  EXPECT_EQ(HumanSeconds(200), "3m20s");
  EXPECT_EQ(HumanSeconds(90000), "1d1h");
  EXPECT_EQ(HumanSeconds(-5), "0s");
}

}  // namespace
}  // namespace espalier::kubectl
