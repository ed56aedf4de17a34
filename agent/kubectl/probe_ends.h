// The two ends of `verify --probe`: programs of pods that are made from the
// agent's image, which has no other to send and answer with.
#ifndef ESPALIER_AGENT_KUBECTL_PROBE_ENDS_H_
#define ESPALIER_AGENT_KUBECTL_PROBE_ENDS_H_

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace espalier::kubectl {

// Beside the tunnels' own probes (UDP 9470).
inline constexpr uint16_t kProbePort = 9471;

// One address that was asked. Every datagram is sent again until it is answered
// or the time is over, so `sent` may be larger than `answered`.
struct ProbeCount {
  std::string address;
  int sent = 0;
  int answered = 0;
  std::string error;  // of the socket; empty when there was none
};

// Sends `count` datagrams to the address, one after the other, for at most
// `limit`. Blocks.
ProbeCount AskProbe(const std::string& address, uint16_t port, int count,
                    absl::Duration limit);

// Binds the port on all addresses of both families, or of IPv4 alone where the
// kernel has no IPv6. -1: errno says why.
int BindProbe(uint16_t port);
// Answers every datagram that is a question, at its sender's address, with as
// many octets. Returns when the socket fails.
void AnswerProbes(int fd);

// `probe serve`, `probe ask ADDRESS...` (its answer is JSON); `arguments`
// without `probe`. Not for people: `verify --probe` runs them.
int RunProbeEnd(const std::vector<std::string>& arguments, std::ostream& out,
                std::ostream& err);

}  // namespace espalier::kubectl

#endif  // ESPALIER_AGENT_KUBECTL_PROBE_ENDS_H_
