// Packets that do not fit the tunnel: ICMP answers and IPv4 fragments.
#ifndef ESPALIER_AGENT_ESP_TOO_BIG_H_
#define ESPALIER_AGENT_ESP_TOO_BIG_H_

#include <cstddef>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/esp/inner_packet.h"

namespace espalier::esp {

// RFC 8200 5: every link takes packets of this size, the tunnel too.
inline constexpr size_t kMinIpv6Mtu = 1280;

// The whole IP packet that tells the sender of `packet` to send at most `mtu`
// octets: ICMP "fragmentation needed" (RFC 1191 4) or ICMPv6 "packet too big"
// (RFC 4443 3.2). Its source is the packet's own destination: any address of
// this node would be dropped as martian when it comes out of the TUN. Empty
// when no error may be sent about `packet` (RFC 1122 3.2.2, RFC 4443 2.4).
base::Bytes MakeTooBig(const InnerPacket& inner, base::ByteSpan packet,
                       size_t mtu);

// RFC 791 3.2: `packet` in pieces of at most `mtu` octets. Empty when that is
// impossible: `mtu` too small for a header and 8 octets.
std::vector<base::Bytes> FragmentIpv4(const InnerPacket& inner,
                                      base::ByteSpan packet, size_t mtu);

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_TOO_BIG_H_
