// The UDP sockets of port 4500 with the kernel datapath. The kernel takes ESP
// out of UDP on behalf of the socket that the datagram came to (UDP_ENCAP, RFC
// 3948), so they must outlive the agent: espalier-espd holds them, and the
// agent works on duplicates (SCM_RIGHTS).
//
// A frame is one datagram of the control socket with the header of messages.h
// (version, type, 0, id 0) and nothing behind it; its types lie beyond those of
// messages.h, so an espd in user mode refuses them.
#ifndef ESPALIER_AGENT_ESP_CONTROL_HELD_SOCKETS_H_
#define ESPALIER_AGENT_ESP_CONTROL_HELD_SOCKETS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/ip_address.h"

namespace espalier::esp::control {

// What this socket sends and receives passes IPsec policies untouched, both
// ways: IKE must never need the tunnel that it makes, and the kernel judges a
// datagram of ESP in UDP before it decapsulates it. Needs CAP_NET_ADMIN;
// Unimplemented on kernels without IPsec, which have no policies to pass.
absl::Status BypassIpsec(int fd, base::Family family);

// Owns at most one socket of each family.
class HeldSockets {
 public:
  HeldSockets() = default;
  ~HeldSockets();
  HeldSockets(HeldSockets&& other) noexcept;
  HeldSockets& operator=(HeldSockets&& other) noexcept;

  // Bound to any address, decapsulating, past all policies. A host without
  // IPv6 gets no IPv6 socket. AlreadyExists when the port is taken. `mark`:
  // SO_MARK, 0 for none.
  static absl::StatusOr<HeldSockets> Open(uint16_t port, uint32_t mark);
  // Takes `fds` over, also when it fails: InvalidArgument for anything but
  // bound UDP sockets of one port, one a family.
  static absl::StatusOr<HeldSockets> FromDescriptors(std::vector<int> fds);

  bool empty() const { return v4_ < 0 && v6_ < 0; }
  int fd(base::Family family) const {
    return family == base::Family::kIpv4 ? v4_ : v6_;
  }
  uint16_t port() const { return port_; }

 private:
  int v4_ = -1;
  int v6_ = -1;
  uint16_t port_ = 0;
};

enum class HeldFrame : uint8_t {
  // Agent to espd, first on a connection. Carries the agent's sockets when it
  // has some: of an espd that died. The port is theirs until the last duplicate
  // is closed, so its successor goes on with them.
  kTake = 64,
  // espd's answer, with its sockets.
  kSockets = 65,
};

// Unavailable when the other end is gone or does not read.
absl::Status SendSockets(int connection, HeldFrame frame,
                         const HeldSockets& sockets);

struct HeldMessage {
  std::optional<HeldFrame> frame;  // unset: a frame of messages.h
  HeldSockets sockets;             // with `frame` only
  base::Bytes octets;              // the datagram
};
// The next datagram; nullopt when there is none for the moment. Unavailable
// when the other end has closed, InvalidArgument for descriptors that are not
// such sockets.
absl::StatusOr<std::optional<HeldMessage>> ReceiveSockets(int connection);

}  // namespace espalier::esp::control

#endif  // ESPALIER_AGENT_ESP_CONTROL_HELD_SOCKETS_H_
