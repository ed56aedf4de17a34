// UDP sockets on the addresses of the tunnel's interface, for the probes that
// mesh/probe.h describes.
#ifndef ESPALIER_AGENT_RUNTIME_PROBE_SOCKETS_H_
#define ESPALIER_AGENT_RUNTIME_PROBE_SOCKETS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/bytes.h"
#include "agent/base/event_loop.h"
#include "agent/base/ip_address.h"

namespace espalier::runtime {

// What leaves does so through the tunnel's interface, whatever the routes are;
// what arrived on another interface (a pod of this node, the uplink) is
// dropped. The interface may come and go, and so may its addresses.
class ProbeSockets {
 public:
  using Handler =
      std::function<void(const base::IpAddress& local,
                         const base::IpAddress& remote, base::ByteSpan bytes)>;
  struct Handlers {
    Handler received;
    // A datagram that was sent, come back as ICMP's "port unreachable" from
    // its destination through the tunnel's interface: it arrived, and nobody
    // listened.
    Handler unreachable;
  };

  // `loop` outlives it. `interface` names the tunnel's, "" while there is none.
  // A datapath whose tunnels have no interface (policy-based) says "*": then
  // the kernel's IN policies alone tell what came out of ESP.
  ProbeSockets(base::EventLoop* loop, uint16_t port,
               std::function<std::string()> interface, Handlers handlers);
  ~ProbeSockets();
  ProbeSockets(const ProbeSockets&) = delete;
  ProbeSockets& operator=(const ProbeSockets&) = delete;

  // Opens and closes; what cannot be opened is logged and tried again at the
  // next Send.
  void SetLocal(const std::vector<base::IpAddress>& addresses);
  absl::Status Send(const base::IpAddress& local, const base::IpAddress& remote,
                    base::ByteSpan bytes);

 private:
  absl::Status Open(const base::IpAddress& address);
  void Close(const base::IpAddress& address);
  void Receive(const base::IpAddress& local, int fd);
  // Hands on what the socket, or its error queue, has; false when it is empty.
  bool ReceiveOne(const base::IpAddress& local, int fd, bool error_queue);
  bool IsTunnel(unsigned interface) const;

  base::EventLoop* loop_;
  const uint16_t port_;
  const std::function<std::string()> interface_;
  const Handlers handlers_;
  std::map<base::IpAddress, int> sockets_;  // -1: not open
};

}  // namespace espalier::runtime

#endif  // ESPALIER_AGENT_RUNTIME_PROBE_SOCKETS_H_
