// espd's state and what the agent may do with it; the loop and the control
// connections are around it.
#ifndef ESPALIER_AGENT_ESP_ENGINE_H_
#define ESPALIER_AGENT_ESP_ENGINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "agent/base/clock.h"
#include "agent/esp/control/messages.h"
#include "agent/esp/inbound.h"
#include "agent/esp/outbound.h"
#include "agent/esp/outer_sockets.h"
#include "agent/esp/path_mtu.h"
#include "agent/esp/policy_table.h"
#include "agent/esp/sa_database.h"
#include "agent/esp/sender.h"
#include "agent/esp/statistics.h"
#include "agent/esp/tun.h"

namespace espalier::esp {

// One thread. Everything given is borrowed.
class Engine {
 public:
  // Events of the control protocol; false when no agent takes them.
  using OnEvent = std::function<bool(control::Message)>;

  Engine(CipherChoice choice, Tun* tun, OuterSockets* sockets,
         Statistics* statistics, base::Clock* clock, OnEvent on_event);

  // --- the loop ---

  // A bounded number of packets out of the TUN; true when there may be more.
  bool HandleTun();
  bool HandleSocket(OuterSockets::Kind kind);
  void HandleSocketErrors(OuterSockets::Kind kind);
  // About once a second. `agent_present`: then keepalives are the agent's.
  void Tick(bool agent_present);

  // --- the agent's requests (control/messages.h) ---

  absl::Status InstallSa(base::EspSa sa);
  void RemoveSa(const base::SaKey& key);
  absl::Status WatchInbound(const base::SaKey& key);
  absl::Status SetPolicy(base::TunnelPolicy policy);
  void RemovePolicy(base::Reqid reqid);
  std::vector<base::InstalledSa> ListSas();
  std::vector<base::TunnelPolicy> ListPolicies() const;
  void SendIke(const control::SendIke& request);
  void SendKeepalive(const control::SendKeepalive& request);
  // An agent came: it is told again of what expired before.
  void RepeatEvents();

  // --- the hand-over to the next process (hand_over.h) ---

  // All state, frame by frame; ends with the first error of `send`.
  absl::Status HandOver(absl::FunctionRef<absl::Status(control::Message)> send);
  // One such frame, in the order in which HandOver sent them. After an error
  // this engine must not run.
  absl::Status Adopt(control::Message message);

  const Statistics& statistics() const { return *statistics_; }

 private:
  struct KeepalivePath {
    base::Endpoint local;
    base::Endpoint remote;
    base::Instant last;
  };

  void HandleDatagram(const Received& train, base::MutableByteSpan datagram);
  void HandleRaw4(const Received& received);
  void HandlePathError(const PathError& error, bool udp);
  void HandleTooLong(Sa* sa);
  void UpdateInnerMtu(Sa* sa, base::Instant now);

  Tun* tun_;
  OuterSockets* sockets_;
  Statistics* statistics_;
  base::Clock* clock_;
  OnEvent on_event_;
  PathMtuTable path_mtu_{KernelLinkMtu};
  PolicyTable policies_;
  SaDatabase sas_;
  Sender sender_;
  Outbound outbound_;
  Inbound inbound_;
  std::map<base::Endpoint, KeepalivePath> keepalives_;
  std::vector<uint8_t> tun_buffer_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_ENGINE_H_
