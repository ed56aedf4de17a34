// Joins consecutive segments of a flow into super-packets for the TUN, as the
// kernel's GRO does: what Segmenter cut at the other end comes together again.
#ifndef ESPALIER_AGENT_ESP_COALESCER_H_
#define ESPALIER_AGENT_ESP_COALESCER_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "agent/esp/inner_packet.h"
#include "agent/esp/offload.h"

namespace espalier::esp {

// Where packets towards the pods go.
class TunSink {
 public:
  virtual ~TunSink() = default;
  // parts[0] is free for the implementation (the virtio header); the packet
  // is parts[1, count).
  virtual void Write(const VirtioNetHeader& offload, iovec* parts,
                     size_t count) = 0;
};

// Packets of one flow leave in the order they came. Borrows them until Flush.
class Coalescer {
 public:
  // `udp`: whether the TUN takes UDP super-packets.
  Coalescer(TunSink* sink, bool udp) : sink_(sink), udp_(udp) {}

  // `packet` stays valid, and is not touched by anyone else, until Flush. It
  // holds `inner.size` octets.
  void Add(uint8_t* packet, const InnerPacket& inner);
  void Flush();

 private:
  static constexpr size_t kMaxFlows = 16;
  static constexpr size_t kMaxSegments = 64;

  // A packet taken apart, as far as joining needs it.
  struct Segment {
    uint8_t* packet;
    size_t transport;
    size_t headers;
    size_t size;
    bool is_v4;
    bool is_tcp;
    // The transport checksum was computed and is right.
    bool verified;
    bool joinable;
    uint8_t tcp_flags;
    size_t payload() const { return size - headers; }
  };
  struct Flow {
    Segment head;
    size_t size;  // of the whole super-packet
    uint32_t next_sequence;
    uint16_t next_id;
    size_t count;
    bool open;  // takes more
    std::array<iovec, kMaxSegments + 1> parts;
  };

  static Segment Examine(uint8_t* packet, const InnerPacket& inner, bool udp);
  static bool SameFlow(const Segment& a, const Segment& b);
  static bool Continues(const Flow& flow, const Segment& segment);
  void WriteAlone(const Segment& segment);
  void WriteFlow(Flow* flow);

  TunSink* sink_;
  bool udp_;
  size_t flow_count_ = 0;
  std::array<Flow, kMaxFlows> flows_;
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_COALESCER_H_
