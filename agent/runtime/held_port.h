// IKE on UDP 4500 with the kernel datapath: on duplicates of the sockets that
// espalier-espd holds.
#ifndef ESPALIER_AGENT_RUNTIME_HELD_PORT_H_
#define ESPALIER_AGENT_RUNTIME_HELD_PORT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/base/bytes.h"
#include "agent/base/event_loop.h"
#include "agent/base/ip_address.h"
#include "agent/esp/control/channel.h"
#include "agent/esp/control/held_sockets.h"

namespace espalier::runtime {

// Connects on Start and again, every retry interval, whenever the connection is
// lost. The sockets of an espd that died go on here, and are offered to the
// next one. One thread, the loop's.
class HeldPort {
 public:
  // An IKE message without the non-ESP marker (RFC 3948 2.2), with the address
  // that it came to and its sender; valid during the call only.
  using Handler =
      std::function<void(const base::Endpoint& local,
                         const base::Endpoint& remote, base::ByteSpan bytes)>;

  struct Options {
    std::string socket_path = "/run/espalier/espd.sock";
    absl::Duration retry = absl::Milliseconds(500);
  };

  // `loop` outlives this.
  HeldPort(base::EventLoop* loop, Options options, Handler handler);
  ~HeldPort();
  HeldPort(const HeldPort&) = delete;
  HeldPort& operator=(const HeldPort&) = delete;

  // Never fails: it goes on trying. `opened` runs whenever sockets came.
  void Start(std::function<void()> opened);

  // OK while there are sockets; else why not.
  const absl::Status& status() const { return status_; }

  // A datagram that is not taken is lost, as datagrams may be.
  absl::Status SendIke(const base::Endpoint& local,
                       const base::Endpoint& remote, base::ByteSpan bytes);
  // espd sends it, and goes on while no agent is connected.
  void SendKeepalive(const base::Endpoint& local, const base::Endpoint& remote);

 private:
  void TryConnect();
  void Disconnect(const absl::Status& why);
  void HandleConnection();
  void Use(esp::control::HeldSockets sockets);
  void Receive(base::Family family);
  void UnwatchSockets();

  base::EventLoop* loop_;
  const Options options_;
  const Handler handler_;
  std::function<void()> opened_;
  std::unique_ptr<esp::control::Channel> channel_;
  esp::control::HeldSockets sockets_;
  absl::Status status_;
  base::EventLoop::TimerId retry_timer_ = 0;
};

}  // namespace espalier::runtime

#endif  // ESPALIER_AGENT_RUNTIME_HELD_PORT_H_
