#include "agent/service/metrics.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/metric_families.h"

namespace espalier::service {
namespace {

using ::testing::HasSubstr;

MetricsSnapshot Full() {
  MetricsSnapshot s;
  s.version = "0.1.0";
  s.node = "a\"b\\c\n";
  s.tunnels.push_back({.peer = "b", .up = true});
  s.tunnels.back().inbound.packets = 12;
  s.tunnels.back().outbound.bytes = uint64_t{1} << 40;
  s.tunnels.back().probes_answered = 5;
  s.tunnels.back().probe_round_trip = absl::Milliseconds(250);
  s.tunnels.push_back({.peer = "c"});
  s.tunnels.back().no_packets = true;
  s.ike.retransmissions = 3;
  s.config_reload_failures = 2;
  s.datapath = {{"dropped_unknown_spi", 9}};
  return s;
}

TEST(Metrics, ValuesWithTheirLabels) {
  const std::string text = RenderMetrics(Full());
  EXPECT_THAT(text, HasSubstr("espalier_tunnels_wanted 2\n"));
  EXPECT_THAT(text, HasSubstr("espalier_tunnels_up 1\n"));
  EXPECT_THAT(text, HasSubstr("espalier_tunnel_up{peer=\"c\"} 0\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "espalier_esp_packets_total{peer=\"b\",direction=\"in\"} 12\n"));
  EXPECT_THAT(text, HasSubstr("espalier_esp_bytes_total{peer=\"b\",direction="
                              "\"out\"} 1099511627776\n"));
  EXPECT_THAT(text, HasSubstr("espalier_tunnel_probes_total{peer=\"b\",kind="
                              "\"answered\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("espalier_tunnel_no_packets{peer=\"c\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("round_trip_seconds{peer=\"b\"} 0.25\n"));
  EXPECT_THAT(text, HasSubstr("espalier_ike_retransmissions_total 3\n"));
  EXPECT_THAT(text,
              HasSubstr("espalier_config_reloads_total{result=\"error\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("name=\"dropped_unknown_spi\"} 9\n"));
  EXPECT_THAT(text, HasSubstr("node=\"a\\\"b\\\\c\\n\""));
}

// Prometheus refuses a scrape with a family given twice; and what operators
// read in docs/metrics.md is what there is.
TEST(Metrics, FamiliesAreUniqueAndDocumented) {
  espalier::testing::ExpectFamiliesAreDocumented(RenderMetrics(Full()),
                                                 /*of_controller=*/false);
}

}  // namespace
}  // namespace espalier::service
