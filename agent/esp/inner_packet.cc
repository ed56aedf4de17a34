#include "agent/esp/inner_packet.h"

#include <array>
#include <cstring>

#include "agent/esp/octets.h"

namespace espalier::esp {
namespace {

constexpr size_t kIpv4Header = 20;
constexpr size_t kIpv6Header = 40;

std::optional<InnerPacket> ParseIpv4(base::ByteSpan packet, bool gso) {
  if (packet.size() < kIpv4Header) return std::nullopt;
  const uint8_t* p = packet.data();
  const size_t header = (p[0] & 15u) * 4u;
  const size_t total = gso ? packet.size() : Load16(p + 2);
  if (header < kIpv4Header || total < header || total > packet.size()) {
    return std::nullopt;
  }
  InnerPacket inner;
  inner.family = base::Family::kIpv4;
  inner.traffic_class = p[1];
  inner.transport = static_cast<uint16_t>(header);
  inner.size = static_cast<uint32_t>(total);
  inner.protocol = p[9];
  const uint16_t fragment = Load16(p + 6);
  inner.dont_fragment = (fragment & 0x4000) != 0;
  inner.fragment = (fragment & 0x3fff) != 0;
  inner.first_fragment = (fragment & 0x1fff) == 0;
  std::memcpy(inner.addresses.source, p + 12, 4);
  std::memcpy(inner.addresses.destination, p + 16, 4);
  return inner;
}

// Hop-by-hop, routing, destination options, mobility, HIP, shim6.
bool IsPlainExtension(uint8_t protocol) {
  return protocol == 0 || protocol == 43 || protocol == 60 || protocol == 135 ||
         protocol == 139 || protocol == 140;
}

// RFC 8200 4. False when the chain runs out of the packet.
bool SkipExtensions(base::ByteSpan packet, InnerPacket* inner) {
  constexpr uint8_t kFragmentHeader = 44;
  const uint8_t* p = packet.data();
  size_t place = kIpv6Header;
  uint8_t protocol = p[6];
  while (true) {
    const bool fragment = protocol == kFragmentHeader;
    if (!fragment && !IsPlainExtension(protocol)) break;
    if (place + 8 > inner->size) return false;
    if (fragment) {
      const uint16_t offset = Load16(p + place + 2);
      inner->fragment = true;
      inner->first_fragment = (offset & 0xfff8) == 0;
    }
    protocol = p[place];
    place += fragment ? 8u : (p[place + 1] + 1u) * 8u;
    if (place > inner->size) return false;
    if (!inner->first_fragment) break;
  }
  inner->protocol = protocol;
  inner->transport = static_cast<uint16_t>(place);
  return true;
}

std::optional<InnerPacket> ParseIpv6(base::ByteSpan packet, bool gso) {
  if (packet.size() < kIpv6Header) return std::nullopt;
  const uint8_t* p = packet.data();
  const size_t total = gso ? packet.size() : kIpv6Header + Load16(p + 4);
  if (total > packet.size()) return std::nullopt;
  InnerPacket inner;
  inner.family = base::Family::kIpv6;
  inner.traffic_class = static_cast<uint8_t>(Load16(p) >> 4);
  inner.size = static_cast<uint32_t>(total);
  inner.dont_fragment = true;
  std::memcpy(inner.addresses.source, p + 8, 16);
  std::memcpy(inner.addresses.destination, p + 24, 16);
  if (!SkipExtensions(packet, &inner)) return std::nullopt;
  return inner;
}

base::IpAddress MakeAddress(base::Family family, const uint8_t* octets) {
  if (family == base::Family::kIpv4) {
    std::array<uint8_t, 4> v4;
    std::memcpy(v4.data(), octets, v4.size());
    return base::IpAddress::V4(v4);
  }
  std::array<uint8_t, 16> v6;
  std::memcpy(v6.data(), octets, v6.size());
  return base::IpAddress::V6(v6);
}

}  // namespace

base::IpAddress InnerPacket::source() const {
  return MakeAddress(family, addresses.source);
}

base::IpAddress InnerPacket::destination() const {
  return MakeAddress(family, addresses.destination);
}

std::optional<InnerPacket> ParseInnerPacket(base::ByteSpan packet, bool gso) {
  if (packet.empty() || packet.size() > 65575) return std::nullopt;
  switch (packet[0] >> 4) {
    case 4:
      return ParseIpv4(packet, gso);
    case 6:
      return ParseIpv6(packet, gso);
    default:
      return std::nullopt;
  }
}

}  // namespace espalier::esp
