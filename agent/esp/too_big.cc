#include "agent/esp/too_big.h"

#include <algorithm>
#include <cstring>

#include "agent/base/byte_writer.h"
#include "agent/esp/checksum.h"
#include "agent/esp/octets.h"

namespace espalier::esp {
namespace {

constexpr size_t kIpv4Header = 20;
constexpr size_t kIcmpHeader = 8;
// RFC 1812 4.3.2.3: as much as possible without exceeding 576 octets.
constexpr size_t kMaxIcmpv4 = 576;
constexpr uint8_t kTimeToLive = 64;

// RFC 1122 3.2.2, RFC 4443 2.4 (e): never about an error, a later fragment, or
// what was not sent by, or to, one host.
bool MayAnswer(const InnerPacket& inner, base::ByteSpan packet) {
  if (!inner.first_fragment) return false;
  const base::IpAddress source = inner.source();
  if (source.IsUnspecified() || source.IsMulticast()) return false;
  if (inner.destination().IsMulticast() && inner.is_v4()) return false;
  if (inner.transport >= packet.size()) return true;
  const uint8_t type = packet[inner.transport];
  if (inner.protocol == kProtocolIcmp && inner.is_v4()) {
    return type == 0 || type == 8 || (type >= 13 && type <= 18);
  }
  if (inner.protocol == kProtocolIcmpv6 && !inner.is_v4()) return type >= 128;
  return true;
}

base::Bytes MakeTooBigV4(base::ByteSpan packet, size_t mtu) {
  const base::ByteSpan quote = packet.first(
      std::min(packet.size(), kMaxIcmpv4 - kIpv4Header - kIcmpHeader));
  base::ByteWriter w;
  w.WriteU8(0x45);
  w.WriteU8(0xc0);  // RFC 1812 4.3.2.5: internetwork control
  w.WriteU16(static_cast<uint16_t>(kIpv4Header + kIcmpHeader + quote.size()));
  w.WriteU32(0);
  w.WriteU8(kTimeToLive);
  w.WriteU8(kProtocolIcmp);
  w.WriteU16(0);
  w.WriteSpan(packet.subspan(16, 4));
  w.WriteSpan(packet.subspan(12, 4));
  w.WriteU8(3);  // destination unreachable
  w.WriteU8(4);  // fragmentation needed and DF set
  w.WriteU32(0);
  w.WriteU16(static_cast<uint16_t>(std::min<size_t>(mtu, 0xffff)));
  w.WriteSpan(quote);
  base::Bytes bytes = w.Take();
  StoreRaw16(FinishSum(PartialSum(bytes.data(), kIpv4Header)),
             bytes.data() + 10);
  StoreRaw16(FinishSum(PartialSum(bytes.data() + kIpv4Header,
                                  bytes.size() - kIpv4Header)),
             bytes.data() + kIpv4Header + 2);
  return bytes;
}

base::Bytes MakeTooBigV6(base::ByteSpan packet, size_t mtu) {
  constexpr size_t kHeader = 40;
  const base::ByteSpan quote = packet.first(
      std::min(packet.size(), kMinIpv6Mtu - kHeader - kIcmpHeader));
  base::ByteWriter w;
  w.WriteU32(0x60000000);
  w.WriteU16(static_cast<uint16_t>(kIcmpHeader + quote.size()));
  w.WriteU8(kProtocolIcmpv6);
  w.WriteU8(kTimeToLive);
  w.WriteSpan(packet.subspan(24, 16));
  w.WriteSpan(packet.subspan(8, 16));
  w.WriteU8(2);  // packet too big
  w.WriteU8(0);
  w.WriteU16(0);
  w.WriteU32(static_cast<uint32_t>(mtu));
  w.WriteSpan(quote);
  base::Bytes bytes = w.Take();
  const size_t length = bytes.size() - kHeader;
  const uint64_t pseudo = PartialSum(bytes.data() + 8, 32) +
                          WordSum(static_cast<uint16_t>(length)) +
                          WordSum(kProtocolIcmpv6);
  StoreRaw16(FinishSum(PartialSum(bytes.data() + kHeader, length, pseudo)),
             bytes.data() + kHeader + 2);
  return bytes;
}

// The header of fragments but the first: only options whose copied bit is set
// (RFC 791 3.1) stay.
base::Bytes LaterHeader(base::ByteSpan header) {
  base::Bytes out(header.begin(), header.begin() + kIpv4Header);
  size_t place = kIpv4Header;
  while (place < header.size()) {
    const uint8_t option = header[place];
    if (option == 0) break;
    size_t length = 1;
    if (option != 1) {
      if (place + 1 >= header.size()) break;
      length = header[place + 1];
      if (length < 2 || place + length > header.size()) break;
    }
    if ((option & 0x80) != 0) {
      out.insert(out.end(), header.begin() + place,
                 header.begin() + place + length);
    }
    place += length;
  }
  while (out.size() % 4 != 0) out.push_back(0);
  out[0] = static_cast<uint8_t>(0x40 | out.size() / 4);
  return out;
}

}  // namespace

base::Bytes MakeTooBig(const InnerPacket& inner, base::ByteSpan packet,
                       size_t mtu) {
  if (!MayAnswer(inner, packet)) return {};
  return inner.is_v4() ? MakeTooBigV4(packet, mtu)
                       : MakeTooBigV6(packet, std::max(mtu, kMinIpv6Mtu));
}

std::vector<base::Bytes> FragmentIpv4(const InnerPacket& inner,
                                      base::ByteSpan packet, size_t mtu) {
  constexpr uint16_t kMoreFragments = 0x2000;
  std::vector<base::Bytes> fragments;
  const size_t first_header = inner.transport;
  if (mtu < first_header + 8) return fragments;
  const base::Bytes later = LaterHeader(packet.first(first_header));
  const uint16_t field = Load16(packet.data() + 6);
  const uint16_t first_offset = field & 0x1fff;
  for (size_t place = first_header; place < inner.size;) {
    const base::ByteSpan header =
        fragments.empty() ? packet.first(first_header) : base::ByteSpan(later);
    const size_t room = (mtu - header.size()) / 8 * 8;
    const size_t payload = std::min(room, inner.size - place);
    const bool last = place + payload == inner.size;
    base::Bytes& out = fragments.emplace_back(header.begin(), header.end());
    out.insert(out.end(), packet.begin() + place,
               packet.begin() + place + payload);
    Store16(static_cast<uint16_t>(out.size()), out.data() + 2);
    const uint16_t more =
        last ? (field & kMoreFragments) : kMoreFragments;  // of a fragment
    Store16(static_cast<uint16_t>((first_offset + (place - first_header) / 8) |
                                  more),
            out.data() + 6);
    Store16(0, out.data() + 10);
    StoreRaw16(FinishSum(PartialSum(out.data(), header.size())),
               out.data() + 10);
    place += payload;
  }
  return fragments;
}

}  // namespace espalier::esp
