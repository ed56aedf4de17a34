// Where ESP packets towards the peers go, collected into few system calls.
#ifndef ESPALIER_AGENT_ESP_SENDER_H_
#define ESPALIER_AGENT_ESP_SENDER_H_

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "agent/esp/outer_sockets.h"
#include "agent/esp/sa_database.h"
#include "agent/esp/statistics.h"

namespace espalier::esp {

class PacketSink {
 public:
  virtual ~PacketSink() = default;
  // Room for one ESP packet of `size` octets of `sa`; `traffic_class` is the
  // outer header's. `fragment`: the packet is larger than the path's MTU and
  // may be cut on its way. May send what was collected before. `sa` must live
  // until the next Flush.
  virtual uint8_t* Reserve(Sa* sa, size_t size, uint8_t traffic_class,
                           bool fragment) = 0;
  // The packet is written; it leaves with the next Flush at the latest.
  virtual void Commit() = 0;
  virtual void Flush() = 0;
};

// Over OuterSockets: equally long packets of one SA in UDP become one send
// with UDP_SEGMENT, packets of protocol 50 one sendmmsg.
class Sender : public PacketSink {
 public:
  // Called when the kernel refuses a packet of `sa` as too long for the link.
  using OnTooLong = absl::AnyInvocable<void(Sa*)>;

  // Both outlive the sender.
  Sender(OuterSockets* sockets, Statistics* statistics);

  void SetOnTooLong(OnTooLong on_too_long) {
    on_too_long_ = std::move(on_too_long);
  }

  uint8_t* Reserve(Sa* sa, size_t size, uint8_t traffic_class,
                   bool fragment) override;
  void Commit() override;
  void Flush() override;

 private:
  static constexpr size_t kMaxPackets = 64;  // UDP_MAX_SEGMENTS before 6.9
  // UDP payload that fits an IPv6 packet without jumbograms (65535 - 48), and
  // so an IPv4 one.
  static constexpr size_t kMaxTrain = 65487;
  static constexpr size_t kBuffer = 1 << 17;

  bool Fits(const Sa* sa, size_t size, uint8_t traffic_class) const;
  bool SendTrain(int fd, msghdr* message);
  bool SendSingly(int fd, const msghdr& message);
  int SendMessage(int fd, const msghdr& message);
  bool WaitWritable(int fd);

  OuterSockets* sockets_;
  Statistics* statistics_;
  OnTooLong on_too_long_;
  std::unique_ptr<uint8_t[]> buffer_;
  Sa* sa_ = nullptr;
  uint8_t traffic_class_ = 0;
  bool fragment_ = false;
  size_t used_ = 0;
  size_t count_ = 0;
  size_t reserved_ = 0;
  std::array<size_t, kMaxPackets> sizes_;
  bool gso_ = true;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_SENDER_H_
