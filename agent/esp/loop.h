// espd's one thread: waits for the TUN, the sockets and the agents, and gives
// each its turn.
#ifndef ESPALIER_AGENT_ESP_LOOP_H_
#define ESPALIER_AGENT_ESP_LOOP_H_

#include "absl/status/status.h"
#include "agent/esp/cipher.h"
#include "agent/esp/outer_sockets.h"
#include "agent/esp/tun.h"

namespace espalier::esp {

struct EspdOptions {
  std::string socket_path;
  TunOptions tun;
  OuterOptions outer;
  CipherChoice cipher = CipherChoice::kFastest;
  // Where another espd serves `socket_path`, go on with what it holds
  // (hand_over.h) instead of failing.
  bool take_over = false;
  // Having handed over, hold nothing and wait for the signal: a supervisor that
  // starts again what ended would have this one take everything back.
  bool wait_after_hand_over = false;
};

// Opens or takes over everything, drops privileges, and runs until SIGTERM or
// SIGINT, or (unless it then waits) until the next espd has taken over (OK).
absl::Status RunEspd(const EspdOptions& options);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_LOOP_H_
