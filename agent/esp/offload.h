// What a TUN with IFF_VNET_HDR says, and is told, about a packet that is
// larger than the link or lacks its checksum (virtio 1.2, 5.1.6).
#ifndef ESPALIER_AGENT_ESP_OFFLOAD_H_
#define ESPALIER_AGENT_ESP_OFFLOAD_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace espalier::esp {

// The legacy header, in the machine's byte order. Named anew because Debian
// 12's linux/virtio_net.h is not C++.
struct VirtioNetHeader {
  static constexpr uint8_t kNeedsChecksum = 1;
  static constexpr uint8_t kDataValid = 2;

  static constexpr uint8_t kGsoNone = 0;
  static constexpr uint8_t kGsoTcp4 = 1;
  static constexpr uint8_t kGsoTcp6 = 4;
  static constexpr uint8_t kGsoUdp = 5;
  static constexpr uint8_t kGsoEcn = 0x80;  // or-ed to a TCP kind

  uint8_t flags = 0;
  uint8_t gso_type = kGsoNone;
  uint16_t header_size = 0;
  uint16_t gso_size = 0;  // payload octets of each segment but the last
  uint16_t checksum_start = 0;
  uint16_t checksum_offset = 0;

  uint8_t gso_kind() const { return static_cast<uint8_t>(gso_type & ~kGsoEcn); }
};
static_assert(sizeof(VirtioNetHeader) == 10);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_OFFLOAD_H_
