#include "agent/esp/statistics.h"

namespace espalier::esp {

std::vector<std::pair<std::string, uint64_t>> Statistics::List() const {
  return {
      {"tun_reads", tun_reads},
      {"tun_super_packets", tun_super_packets},
      {"esp_sent", esp_sent},
      {"sends", sends},
      {"drop_tun_malformed", drop_tun_malformed},
      {"drop_no_policy", drop_no_policy},
      {"drop_no_sa", drop_no_sa},
      {"drop_too_big", drop_too_big},
      {"drop_send", drop_send},
      {"too_big_answered", too_big_answered},
      {"fragmented", fragmented},
      {"receives", receives},
      {"esp_received", esp_received},
      {"keepalives_received", keepalives_received},
      {"ike_received", ike_received},
      {"ike_sent", ike_sent},
      {"keepalives_sent", keepalives_sent},
      {"dummies_received", dummies_received},
      {"drop_ike_no_agent", drop_ike_no_agent},
      {"drop_unknown_spi", drop_unknown_spi},
      {"drop_expired_sa", drop_expired_sa},
      {"drop_esp_malformed", drop_esp_malformed},
      {"drop_bad_icv", drop_bad_icv},
      {"drop_replay", drop_replay},
      {"drop_inner_malformed", drop_inner_malformed},
      {"drop_selector_mismatch", drop_selector_mismatch},
      {"drop_ecn", drop_ecn},
      {"tun_writes", tun_writes},
      {"drop_tun_write", drop_tun_write},
      {"path_mtu_lowered", path_mtu_lowered},
      {"path_mtu_ignored", path_mtu_ignored},
  };
}

}  // namespace espalier::esp
