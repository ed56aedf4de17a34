// What the data path needs to know of an inner IP packet.
#ifndef ESPALIER_AGENT_ESP_INNER_PACKET_H_
#define ESPALIER_AGENT_ESP_INNER_PACKET_H_

#include <cstdint>
#include <optional>

#include "agent/base/bytes.h"
#include "agent/base/ip_address.h"

namespace espalier::esp {

inline constexpr uint8_t kProtocolIcmp = 1;
inline constexpr uint8_t kProtocolIpv4 = 4;
inline constexpr uint8_t kProtocolTcp = 6;
inline constexpr uint8_t kProtocolUdp = 17;
inline constexpr uint8_t kProtocolIpv6 = 41;
inline constexpr uint8_t kProtocolEsp = 50;
inline constexpr uint8_t kProtocolIcmpv6 = 58;
inline constexpr uint8_t kProtocolNone = 59;

// Octets of the addresses of both families at fixed length, so that they
// compare and hash quickly; an IPv4 address fills the first four.
struct AddressPair {
  uint8_t source[16] = {};
  uint8_t destination[16] = {};
  friend bool operator==(const AddressPair&, const AddressPair&) = default;
};

struct InnerPacket {
  base::Family family = base::Family::kIpv4;
  uint8_t protocol = 0;       // behind IPv6 extension headers
  uint8_t traffic_class = 0;  // DSCP and ECN
  // Of the transport header; for IPv4 the header's length. Behind extension
  // headers for IPv6.
  uint16_t transport = 0;
  uint32_t size = 0;           // as the IP header says; at most what was given
  bool dont_fragment = false;  // true for IPv6
  bool fragment = false;       // any but a whole packet
  bool first_fragment = true;  // has the transport header
  AddressPair addresses;

  bool is_v4() const { return family == base::Family::kIpv4; }
  base::IpAddress source() const;
  base::IpAddress destination() const;
};

// nullopt when the headers are not whole or contradict each other. What lies
// behind the IP header's own length is padding (RFC 4303 2.7) and not counted.
// `gso`: a super-packet, whose IP length field may be 0 or too small; its size
// is that of `packet`.
std::optional<InnerPacket> ParseInnerPacket(base::ByteSpan packet,
                                            bool gso = false);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_INNER_PACKET_H_
