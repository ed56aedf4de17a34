// The sockets towards the peers: UDP 4500 and IP protocol 50, in both
// families.
#ifndef ESPALIER_AGENT_ESP_OUTER_SOCKETS_H_
#define ESPALIER_AGENT_ESP_OUTER_SOCKETS_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/ip_address.h"

namespace espalier::esp {

struct OuterOptions {
  uint16_t port = 4500;
  uint32_t mark = 0;  // SO_MARK of everything sent; 0: none
};

// What recvmmsg gave: one datagram, or a train of equally long ones that GRO
// joined (the last may be shorter).
struct Received {
  uint8_t* data;  // writable; valid until the next Receive
  size_t size;
  size_t segment;  // octets of each datagram
  uint8_t traffic_class;
  // The sender; its family is the socket's. Port 0 for protocol 50.
  base::Endpoint Remote() const;
  // The address it came to.
  base::Endpoint Local(uint16_t port) const;

  const msghdr* header;
};

// An ICMP error about something we sent (IP_RECVERR).
struct PathError {
  size_t mtu;  // what the router said
  base::IpAddress destination;
  base::Bytes quoted;  // of our packet, from the octet behind IP and UDP
};

class OuterSockets {
 public:
  enum Kind : uint8_t { kUdp4, kUdp6, kRaw4, kRaw6 };
  static constexpr size_t kKinds = 4;

  // Needs CAP_NET_RAW (protocol 50) and CAP_NET_ADMIN (mark, buffers). A host
  // without IPv6 gets no IPv6 sockets.
  static absl::StatusOr<std::unique_ptr<OuterSockets>> Open(
      const OuterOptions& options);
  // Takes over those of the process before, -1 for none. They keep their
  // options, except for the mark, which needs CAP_NET_ADMIN.
  using Descriptors = std::array<int, kKinds>;
  static absl::StatusOr<std::unique_ptr<OuterSockets>> Adopt(
      const Descriptors& descriptors, const OuterOptions& options);
  ~OuterSockets();
  OuterSockets(const OuterSockets&) = delete;
  OuterSockets& operator=(const OuterSockets&) = delete;

  // -1 when the host lacks the family.
  int fd(Kind kind) const { return fds_[kind]; }
  const Descriptors& descriptors() const { return fds_; }
  uint16_t port() const { return port_; }

  // Hands out what one recvmmsg gives; false when it was less than it could
  // have taken.
  bool Receive(Kind kind, absl::FunctionRef<void(const Received&)> handle);
  // All errors that wait. Only those with an MTU are handed out.
  void ReceiveErrors(Kind kind,
                     absl::FunctionRef<void(const PathError&)> handle);
  // One UDP datagram.
  bool SendUdp(const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes);

 private:
  // A train of GRO is at most this large; a packet of protocol 50 too.
  static constexpr size_t kBuffer = 65536;
  static constexpr size_t kUdpBatch = 8;
  static constexpr size_t kRawBatch = 32;

  OuterSockets() { fds_.fill(-1); }

  Descriptors fds_;
  uint16_t port_ = 0;
  struct Control {
    alignas(cmsghdr) std::array<uint8_t, 128> octets;
  };
  std::vector<uint8_t> buffers_ = std::vector<uint8_t>(kBuffer * kRawBatch);
  std::vector<mmsghdr> messages_ = std::vector<mmsghdr>(kRawBatch);
  std::vector<iovec> vectors_ = std::vector<iovec>(kRawBatch);
  std::vector<Control> controls_ = std::vector<Control>(kRawBatch);
  std::vector<sockaddr_in6> names_ = std::vector<sockaddr_in6>(kRawBatch);
};

// Fills the ancillary data of a send: source address, traffic class, segment
// size for UDP_SEGMENT (0: none).
class SendControl {
 public:
  SendControl(const base::IpAddress& source, uint8_t traffic_class,
              uint16_t segment);
  void Attach(msghdr* message) {
    message->msg_control = octets_.data();
    message->msg_controllen = size_;
  }

 private:
  void Put(int level, int type, const void* data, size_t size);

  alignas(cmsghdr) std::array<uint8_t, 160> octets_{};
  size_t size_ = 0;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_OUTER_SOCKETS_H_
