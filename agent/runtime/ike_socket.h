// UDP sockets for IKE on port 500 (RFC 7296 2), where no non-ESP marker is.
#ifndef ESPALIER_AGENT_RUNTIME_IKE_SOCKET_H_
#define ESPALIER_AGENT_RUNTIME_IKE_SOCKET_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/event_loop.h"
#include "agent/base/ip_address.h"

namespace espalier::runtime {

// Bound to one local address, so that an answer leaves from the address that
// was asked, whatever other addresses the node has. Port 4500 is not for this
// class: espalier-espd alone reads it (DESIGN 4).
class IkeSocket {
 public:
  // `bytes` is valid during the call only.
  using Handler =
      std::function<void(const base::Endpoint& local,
                         const base::Endpoint& remote, base::ByteSpan bytes)>;

  // `loop` outlives the socket. The address need not be on the node yet (an
  // IPv6 address that is still being checked for duplicates cannot be bound
  // otherwise). Port 0 lets the kernel choose; see local(). `mark` is SO_MARK
  // of all that is sent, 0 for none; it needs CAP_NET_ADMIN.
  static absl::StatusOr<std::unique_ptr<IkeSocket>> Open(
      base::EventLoop* loop, const base::Endpoint& local, Handler handler,
      uint32_t mark = 0);
  ~IkeSocket();
  IkeSocket(const IkeSocket&) = delete;
  IkeSocket& operator=(const IkeSocket&) = delete;

  const base::Endpoint& local() const { return local_; }
  // A datagram that the kernel does not take is lost, as datagrams may be; the
  // status says why.
  absl::Status Send(const base::Endpoint& remote, base::ByteSpan bytes);

 private:
  IkeSocket(base::EventLoop* loop, int fd, base::Endpoint local,
            Handler handler);
  void Receive();

  base::EventLoop* loop_;
  const int fd_;
  const base::Endpoint local_;
  const Handler handler_;
};

}  // namespace espalier::runtime

#endif  // ESPALIER_AGENT_RUNTIME_IKE_SOCKET_H_
