// What espd counts beside its SAs. One thread writes and reads.
#ifndef ESPALIER_AGENT_ESP_STATISTICS_H_
#define ESPALIER_AGENT_ESP_STATISTICS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace espalier::esp {

struct Statistics {
  // Towards the peers. A "super" packet is one that the TUN gave uncut.
  uint64_t tun_reads = 0;
  uint64_t tun_super_packets = 0;
  uint64_t esp_sent = 0;
  uint64_t sends = 0;  // system calls
  uint64_t drop_tun_malformed = 0;
  uint64_t drop_no_policy = 0;
  uint64_t drop_no_sa = 0;
  uint64_t drop_too_big = 0;
  uint64_t drop_send = 0;
  uint64_t too_big_answered = 0;
  uint64_t fragmented = 0;

  // From the peers.
  uint64_t receives = 0;  // datagrams or GRO trains
  uint64_t esp_received = 0;
  uint64_t keepalives_received = 0;
  uint64_t ike_received = 0;
  uint64_t ike_sent = 0;
  uint64_t keepalives_sent = 0;
  uint64_t dummies_received = 0;  // next header 59, RFC 4303 2.6
  uint64_t drop_ike_no_agent = 0;
  uint64_t drop_unknown_spi = 0;
  uint64_t drop_expired_sa = 0;
  uint64_t drop_esp_malformed = 0;
  uint64_t drop_bad_icv = 0;
  uint64_t drop_replay = 0;
  uint64_t drop_inner_malformed = 0;
  uint64_t drop_selector_mismatch = 0;
  uint64_t drop_ecn = 0;  // RFC 6040 4.2: CE on a packet that is not ECT
  uint64_t tun_writes = 0;
  uint64_t drop_tun_write = 0;

  uint64_t path_mtu_lowered = 0;
  uint64_t path_mtu_ignored = 0;

  // Names as above.
  std::vector<std::pair<std::string, uint64_t>> List() const;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_STATISTICS_H_
