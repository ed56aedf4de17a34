#include "agent/service/metrics.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/metric_families.h"

namespace espalier::service {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

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
  s.unprotected_pods["required"] = 4;
  s.foreign_cni_configs_before = 1;
  s.datapath = {{"dropped_unknown_spi", 9}};
  s.guard_packets = {
      {"bpf", "shop/web", "preferred", "plaintext_out", false, 4}};
  s.key_age = absl::Hours(1);
  s.source = {.current = true,
              .watches = {{.resource = "pods",
                           .silent = absl::Seconds(70),
                           .lists = 1,
                           .events = {{"object", 5}, {"bookmark", 2}},
                           .bytes = 1234},
                          {.resource = "namespaces"}}};
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
  EXPECT_THAT(text,
              HasSubstr("espalier_pods_unprotected{mode=\"required\"} 4\n"));
  EXPECT_THAT(text,
              HasSubstr("espalier_pods_unprotected{mode=\"disabled\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("espalier_foreign_cni_configs{order=\"before\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("espalier_kube_proxy_unsupported 0\n"));
  EXPECT_THAT(text, HasSubstr("name=\"dropped_unknown_spi\"} 9\n"));
  EXPECT_THAT(text, HasSubstr("pod=\"shop/web\",mode=\"preferred\",verdict="
                              "\"plaintext_out\",result=\"pass\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("espalier_key_age_seconds 3600\n"));
  EXPECT_THAT(text, HasSubstr("espalier_source_current 1\n"));
  EXPECT_THAT(text, HasSubstr("watch_silent_seconds{resource=\"pods\"} 70\n"));
  EXPECT_THAT(text,
              HasSubstr("watch_silent_seconds{resource=\"namespaces\"} -1\n"));
  EXPECT_THAT(text, HasSubstr("watch_lists_total{resource=\"pods\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("watch_events_total{resource=\"pods\",kind="
                              "\"object\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("watch_events_total{resource=\"pods\",kind="
                              "\"bookmark\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("watch_bytes_total{resource=\"pods\"} 1234\n"));
  EXPECT_THAT(text, HasSubstr("node=\"a\\\"b\\\\c\\n\""));
}

// Zero would say that something is wrong, or was made now.
TEST(Metrics, StandaloneHasNoApiServerAndMaybeNoKey) {
  MetricsSnapshot s = Full();
  s.key_age.reset();
  s.source.reset();
  const std::string text = RenderMetrics(s);
  EXPECT_THAT(text, Not(HasSubstr("\nespalier_key_age_seconds")));
  EXPECT_THAT(text, Not(HasSubstr("\nespalier_source_current")));
  EXPECT_THAT(text, Not(HasSubstr("\nespalier_watch_")));
}

// Prometheus refuses a scrape with a family given twice; and what operators
// read in docs/metrics.md is what there is.
TEST(Metrics, FamiliesAreUniqueAndDocumented) {
  espalier::testing::ExpectFamiliesAreDocumented(RenderMetrics(Full()),
                                                 /*of_controller=*/false);
}

}  // namespace
}  // namespace espalier::service
