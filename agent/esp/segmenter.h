// Cuts a super-packet of the TUN into packets, in place, as a network card
// with TSO and USO does.
#ifndef ESPALIER_AGENT_ESP_SEGMENTER_H_
#define ESPALIER_AGENT_ESP_SEGMENTER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "agent/esp/inner_packet.h"
#include "agent/esp/offload.h"
#include "agent/esp/packet.h"

namespace espalier::esp {

// One pass over one packet:
//
//   Segmenter segmenter(offload, inner, packet, size);
//   if (!segmenter.valid()) drop;
//   while (uint8_t* segment = segmenter.Next(&length)) use(segment, length);
//
// Each segment's header is written over the end of the payload before it,
// which has been used by then: so nothing is copied. The user may write up to
// kMaxTrailer octets behind a segment; Next puts back what was there.
class Segmenter {
 public:
  // `packet` has kMaxTrailer writable octets behind `size`, and outlives
  // this. `inner` was parsed out of it.
  Segmenter(const VirtioNetHeader& offload, const InnerPacket& inner,
            uint8_t* packet, size_t size);

  // False when the virtio header does not fit the packet.
  bool valid() const { return valid_; }
  // Whether it is more than one packet.
  bool is_super() const { return payload_size_ != 0; }
  // Octets of the largest segment.
  size_t largest() const;

  // The next whole packet, its checksums right; null after the last.
  uint8_t* Next(size_t* size);

 private:
  static constexpr size_t kMaxHeaders = 256;

  void PrepareSingle(const VirtioNetHeader& offload);
  void PrepareSuper(const VirtioNetHeader& offload, const InnerPacket& inner);
  void WriteHeaders(uint8_t* segment, size_t payload, size_t offset, bool last);

  uint8_t* packet_;
  size_t size_;
  bool valid_ = false;
  bool is_v4_ = false;
  bool is_tcp_ = false;
  size_t payload_size_ = 0;  // of each segment but the last; 0: no super-packet
  size_t transport_ = 0;     // place of the transport header
  size_t headers_ = 0;       // octets of all headers
  size_t next_ = 0;          // place of the next segment's payload
  // Headers with the fields that differ between segments set to zero, and the
  // sums over what stays.
  std::array<uint8_t, kMaxHeaders> headers_template_{};
  uint64_t transport_sum_ = 0;
  uint64_t ip_sum_ = 0;
  uint32_t tcp_sequence_ = 0;
  uint8_t tcp_flags_ = 0;
  uint16_t ip_id_ = 0;
  uint16_t index_ = 0;
  // What was behind the segment that is out.
  uint8_t* behind_ = nullptr;
  std::array<uint8_t, kMaxTrailer> saved_{};
};

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_SEGMENTER_H_
