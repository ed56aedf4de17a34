#include "agent/esp/coalescer.h"

#include <cstring>
#include <utility>

#include "agent/esp/checksum.h"
#include "agent/esp/octets.h"

namespace espalier::esp {
namespace {

constexpr size_t kUdpHeader = 8;
constexpr size_t kTcpHeader = 20;
constexpr uint8_t kTcpPush = 0x08;
constexpr uint8_t kTcpAck = 0x10;
constexpr size_t kMaxSuperPacket = 65535;

// Addresses and ports stand at the same place in all packets of one shape.
constexpr size_t kIpv4Addresses = 12;
constexpr size_t kIpv6Addresses = 8;

bool Same(const uint8_t* a, const uint8_t* b, size_t size) {
  return std::memcmp(a, b, size) == 0;
}

uint64_t PseudoSum(const uint8_t* packet, bool is_v4, uint8_t protocol,
                   size_t length) {
  const uint64_t addresses = is_v4 ? PartialSum(packet + kIpv4Addresses, 8)
                                   : PartialSum(packet + kIpv6Addresses, 32);
  return addresses + WordSum(protocol) + WordSum(static_cast<uint16_t>(length));
}

}  // namespace

Coalescer::Segment Coalescer::Examine(uint8_t* packet, const InnerPacket& inner,
                                      bool udp) {
  Segment s{};
  s.packet = packet;
  s.transport = inner.transport;
  s.size = inner.size;
  s.is_v4 = inner.is_v4();
  s.is_tcp = inner.protocol == kProtocolTcp;
  s.headers = s.size;
  if (inner.fragment || (!s.is_tcp && inner.protocol != kProtocolUdp)) return s;
  const size_t minimum = s.is_tcp ? kTcpHeader : kUdpHeader;
  if (s.transport + minimum > s.size) return s;
  const uint8_t* t = packet + s.transport;
  const size_t header = s.is_tcp ? (t[12] >> 4) * 4u : kUdpHeader;
  if (header < minimum || s.transport + header > s.size) return s;
  // RFC 768: no checksum, and so nothing to verify.
  if (!s.is_tcp && Load16(t + 6) == 0) return s;
  const size_t length = s.size - s.transport;
  if (!s.is_tcp && Load16(t + 4) != length) return s;
  const uint64_t sum = PseudoSum(packet, s.is_v4, inner.protocol, length);
  s.verified = FoldSum(PartialSum(t, length, sum)) == 0xffff;
  if (!s.verified) return s;

  s.headers = s.transport + header;
  // No IP options or extension headers: those say things about one packet.
  const bool plain = s.transport == (s.is_v4 ? 20u : 40u);
  s.joinable = plain && s.payload() > 0;
  if (s.is_tcp) {
    s.tcp_flags = t[13];
    s.joinable = s.joinable && (s.tcp_flags & ~kTcpPush) == kTcpAck;
  } else {
    s.joinable = s.joinable && udp;
  }
  return s;
}

bool Coalescer::SameFlow(const Segment& a, const Segment& b) {
  if (a.is_v4 != b.is_v4 || a.is_tcp != b.is_tcp ||
      a.transport != b.transport) {
    return false;
  }
  const size_t addresses = a.is_v4 ? kIpv4Addresses : kIpv6Addresses;
  return Same(a.packet + addresses, b.packet + addresses, a.is_v4 ? 8 : 32) &&
         Same(a.packet + a.transport, b.packet + b.transport, 4);
}

bool Coalescer::Continues(const Flow& flow, const Segment& s) {
  const Segment& head = flow.head;
  if (!flow.open || !s.joinable || s.headers != head.headers ||
      s.payload() > head.payload() || flow.count >= kMaxSegments ||
      flow.size + s.payload() > kMaxSuperPacket) {
    return false;
  }
  const uint8_t* a = head.packet;
  const uint8_t* b = s.packet;
  if (s.is_v4) {
    // Traffic class, flags, TTL; without DF the identification has to count
    // on, as that of the segments cut again will (RFC 6864).
    if (a[1] != b[1] || !Same(a + 6, b + 6, 3)) return false;
    const bool dont_fragment = (b[6] & 0x40) != 0;
    if (!dont_fragment && Load16(b + 4) != flow.next_id) return false;
  } else if (!Same(a, b, 4) || a[7] != b[7]) {
    return false;
  }
  if (!s.is_tcp) return true;
  const uint8_t* ta = a + head.transport;
  const uint8_t* tb = b + s.transport;
  // Acknowledgement, window, urgent pointer and options: all the same.
  return Load32(tb + 4) == flow.next_sequence && Same(ta + 8, tb + 8, 4) &&
         Same(ta + 14, tb + 14, 2) && Same(ta + 18, tb + 18, 2) &&
         Same(ta + kTcpHeader, tb + kTcpHeader,
              s.headers - s.transport - kTcpHeader);
}

void Coalescer::Add(uint8_t* packet, const InnerPacket& inner) {
  const Segment s = Examine(packet, inner, udp_);
  if (!s.verified) {
    WriteAlone(s);
    return;
  }
  size_t i = 0;
  while (i < flow_count_ && !SameFlow(flows_[i].head, s)) ++i;
  if (i < flow_count_ && Continues(flows_[i], s)) {
    Flow& flow = flows_[i];
    flow.parts[++flow.count] = {s.packet + s.headers, s.payload()};
    flow.size += s.payload();
    flow.next_sequence += static_cast<uint32_t>(s.payload());
    ++flow.next_id;
    // PSH of the last one is the super-packet's.
    if ((s.tcp_flags & kTcpPush) != 0) {
      flow.head.packet[flow.head.transport + 13] |= kTcpPush;
      flow.open = false;
    }
    if (s.payload() < flow.head.payload()) flow.open = false;
    return;
  }
  if (i < flow_count_) {
    WriteFlow(&flows_[i]);
    if (!s.joinable) {
      if (--flow_count_ != i) flows_[i] = flows_[flow_count_];
      WriteAlone(s);
      return;
    }
  } else if (!s.joinable) {
    WriteAlone(s);
    return;
  } else {
    if (flow_count_ == kMaxFlows) Flush();
    i = flow_count_++;
  }
  Flow& flow = flows_[i];
  flow.head = s;
  flow.size = s.size;
  flow.count = 1;
  flow.open = (s.tcp_flags & kTcpPush) == 0;
  flow.next_id = s.is_v4 ? static_cast<uint16_t>(Load16(packet + 4) + 1) : 0;
  flow.next_sequence = s.is_tcp ? Load32(packet + s.transport + 4) +
                                      static_cast<uint32_t>(s.payload())
                                : 0;
  flow.parts[1] = {s.packet, s.size};
}

void Coalescer::Flush() {
  for (size_t i = 0; i < flow_count_; ++i) WriteFlow(&flows_[i]);
  flow_count_ = 0;
}

void Coalescer::WriteAlone(const Segment& segment) {
  VirtioNetHeader offload;
  if (segment.verified) offload.flags = VirtioNetHeader::kDataValid;
  iovec parts[2] = {{}, {segment.packet, segment.size}};
  sink_->Write(offload, parts, 2);
}

void Coalescer::WriteFlow(Flow* flow) {
  const Segment& head = flow->head;
  if (flow->count == 1) {
    WriteAlone(head);
    return;
  }
  uint8_t* p = head.packet;
  const size_t length = flow->size - head.transport;
  if (head.is_v4) {
    Store16(static_cast<uint16_t>(flow->size), p + 2);
    Store16(0, p + 10);
    StoreRaw16(FinishSum(PartialSum(p, head.transport)), p + 10);
  } else {
    Store16(static_cast<uint16_t>(length), p + 4);
  }
  VirtioNetHeader offload;
  offload.flags = VirtioNetHeader::kNeedsChecksum;
  offload.gso_type = !head.is_tcp ? VirtioNetHeader::kGsoUdp
                     : head.is_v4 ? VirtioNetHeader::kGsoTcp4
                                  : VirtioNetHeader::kGsoTcp6;
  offload.header_size = static_cast<uint16_t>(head.headers);
  offload.gso_size = static_cast<uint16_t>(head.payload());
  offload.checksum_start = static_cast<uint16_t>(head.transport);
  offload.checksum_offset = head.is_tcp ? 16 : 6;
  if (!head.is_tcp) {
    Store16(static_cast<uint16_t>(length), p + head.transport + 4);
  }
  // The sum of the pseudo-header alone, for whoever finishes it.
  const uint64_t sum = PseudoSum(
      p, head.is_v4, head.is_tcp ? kProtocolTcp : kProtocolUdp, length);
  StoreRaw16(FoldSum(sum), p + head.transport + offload.checksum_offset);
  sink_->Write(offload, flow->parts.data(), flow->count + 1);
}

}  // namespace espalier::esp
