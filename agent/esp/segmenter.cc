#include "agent/esp/segmenter.h"

#include <algorithm>
#include <cstring>

#include "agent/esp/checksum.h"
#include "agent/esp/octets.h"

namespace espalier::esp {
namespace {

constexpr uint8_t kTcpFin = 0x01;
constexpr uint8_t kTcpPush = 0x08;
constexpr uint8_t kTcpCwr = 0x80;
constexpr size_t kUdpHeader = 8;
constexpr size_t kTcpHeader = 20;
constexpr size_t kUdpChecksum = 6;   // in the UDP header
constexpr size_t kTcpChecksum = 16;  // in the TCP header

// RFC 768: a computed zero is sent as all ones.
uint16_t UdpChecksum(uint64_t sum) {
  const uint16_t checksum = FinishSum(sum);
  return checksum == 0 ? 0xffff : checksum;
}

}  // namespace

Segmenter::Segmenter(const VirtioNetHeader& offload, const InnerPacket& inner,
                     uint8_t* packet, size_t size)
    : packet_(packet), size_(size), is_v4_(inner.is_v4()) {
  if (offload.gso_kind() == VirtioNetHeader::kGsoNone) {
    PrepareSingle(offload);
  } else {
    PrepareSuper(offload, inner);
  }
}

void Segmenter::PrepareSingle(const VirtioNetHeader& offload) {
  if ((offload.flags & VirtioNetHeader::kNeedsChecksum) == 0) {
    valid_ = true;
    return;
  }
  const size_t start = offload.checksum_start;
  const size_t field = start + offload.checksum_offset;
  if (start > size_ || field + 2 > size_) return;
  // The field holds the sum of the pseudo-header.
  const uint64_t sum = PartialSum(packet_ + start, size_ - start);
  const bool udp = offload.checksum_offset == kUdpChecksum;
  StoreRaw16(udp ? UdpChecksum(sum) : FinishSum(sum), packet_ + field);
  valid_ = true;
}

void Segmenter::PrepareSuper(const VirtioNetHeader& offload,
                             const InnerPacket& inner) {
  switch (offload.gso_kind()) {
    case VirtioNetHeader::kGsoTcp4:
    case VirtioNetHeader::kGsoTcp6:
      is_tcp_ = true;
      break;
    case VirtioNetHeader::kGsoUdp:
      break;
    default:
      return;
  }
  transport_ = inner.transport;
  if (inner.fragment || offload.gso_size == 0 ||
      inner.protocol != (is_tcp_ ? kProtocolTcp : kProtocolUdp) ||
      transport_ + (is_tcp_ ? kTcpHeader : kUdpHeader) > size_) {
    return;
  }
  const size_t transport_header =
      is_tcp_ ? (packet_[transport_ + 12] >> 4) * 4u : kUdpHeader;
  headers_ = transport_ + transport_header;
  if ((is_tcp_ && transport_header < kTcpHeader) || headers_ >= size_ ||
      headers_ > kMaxHeaders) {
    return;
  }
  payload_size_ = offload.gso_size;
  next_ = headers_;

  uint8_t* h = headers_template_.data();
  std::memcpy(h, packet_, headers_);
  if (is_tcp_) {
    tcp_sequence_ = Load32(h + transport_ + 4);
    tcp_flags_ = h[transport_ + 13];
    Store32(0, h + transport_ + 4);
    h[transport_ + 13] = 0;
    Store16(0, h + transport_ + kTcpChecksum);
  } else {
    Store32(0, h + transport_ + 4);  // length and checksum
  }
  uint64_t pseudo;
  if (is_v4_) {
    ip_id_ = Load16(h + 4);
    Store32(0, h + 2);  // total length and identification
    Store16(0, h + 10);
    ip_sum_ = PartialSum(h, transport_);
    pseudo = PartialSum(h + 12, 8);
  } else {
    pseudo = PartialSum(h + 8, 32);
  }
  pseudo += WordSum(inner.protocol);
  transport_sum_ = PartialSum(h + transport_, transport_header, pseudo);
  valid_ = true;
}

size_t Segmenter::largest() const {
  return is_super() ? std::min(headers_ + payload_size_, size_) : size_;
}

uint8_t* Segmenter::Next(size_t* size) {
  if (behind_ != nullptr) {
    std::memcpy(behind_, saved_.data(), saved_.size());
    behind_ = nullptr;
  }
  if (next_ >= size_) return nullptr;
  uint8_t* segment = packet_;
  if (!is_super()) {
    *size = size_;
    next_ = size_;
    return segment;
  }
  const size_t payload = std::min(payload_size_, size_ - next_);
  const size_t offset = next_ - headers_;
  segment = packet_ + offset;
  next_ += payload;
  const bool last = next_ >= size_;
  behind_ = packet_ + next_;
  std::memcpy(saved_.data(), behind_, saved_.size());
  WriteHeaders(segment, payload, offset, last);
  ++index_;
  *size = headers_ + payload;
  return segment;
}

void Segmenter::WriteHeaders(uint8_t* segment, size_t payload, size_t offset,
                             bool last) {
  std::memcpy(segment, headers_template_.data(), headers_);
  const uint16_t total = static_cast<uint16_t>(headers_ + payload);
  if (is_v4_) {
    const uint16_t id = static_cast<uint16_t>(ip_id_ + index_);
    Store16(total, segment + 2);
    Store16(id, segment + 4);
    StoreRaw16(FinishSum(ip_sum_ + WordSum(total) + WordSum(id)), segment + 10);
  } else {
    Store16(static_cast<uint16_t>(total - 40), segment + 4);
  }
  uint8_t* t = segment + transport_;
  const uint16_t transport_length = static_cast<uint16_t>(total - transport_);
  uint64_t sum = transport_sum_ + WordSum(transport_length);
  const uint8_t* data = segment + headers_;
  if (!is_tcp_) {
    Store16(transport_length, t + 4);
    sum += WordSum(transport_length);
    StoreRaw16(UdpChecksum(PartialSum(data, payload, sum)), t + kUdpChecksum);
    return;
  }
  const uint32_t sequence = tcp_sequence_ + static_cast<uint32_t>(offset);
  uint8_t flags = tcp_flags_;
  if (!last) flags &= static_cast<uint8_t>(~(kTcpFin | kTcpPush));
  if (index_ != 0) flags &= static_cast<uint8_t>(~kTcpCwr);  // RFC 3168 6.1.2
  Store32(sequence, t + 4);
  t[13] = flags;
  sum += WordSum(static_cast<uint16_t>(sequence >> 16)) +
         WordSum(static_cast<uint16_t>(sequence)) + WordSum(flags);
  StoreRaw16(FinishSum(PartialSum(data, payload, sum)), t + kTcpChecksum);
}

}  // namespace espalier::esp
