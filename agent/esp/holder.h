// espd in kernel mode: holds the sockets of UDP 4500 and nothing else (no TUN,
// no SA, no key), hands agents duplicates, and keeps NATs awake while no agent
// is there.
#ifndef ESPALIER_AGENT_ESP_HOLDER_H_
#define ESPALIER_AGENT_ESP_HOLDER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace espalier::esp {

struct HolderOptions {
  std::string socket_path;
  uint16_t port = 4500;
  uint32_t mark = 0;  // SO_MARK of what the sockets send; 0: none
  // How long a port that is taken may be offered by the agent that has
  // duplicates of an earlier holder's sockets.
  absl::Duration offer_time = absl::Seconds(10);
  absl::Duration keepalive_interval = absl::Seconds(20);  // RFC 3948 4
};

// Opens everything, drops privileges, and runs until SIGTERM or SIGINT (OK).
absl::Status RunHolder(const HolderOptions& options);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_HOLDER_H_
