#include "agent/esp/selectors.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "agent/base/byte_reader.h"

namespace espalier::esp {
namespace {

using base::TrafficSelector;

bool AnyPort(const TrafficSelector& s) {
  return s.first_port == 0 && s.last_port == 65535;
}

bool AddressesOnly(const std::vector<TrafficSelector>& selectors) {
  return std::all_of(
      selectors.begin(), selectors.end(),
      [](const TrafficSelector& s) { return s.protocol == 0 && AnyPort(s); });
}

struct Ports {
  uint16_t source;
  uint16_t destination;
};

// RFC 4301 4.4.1.1: for ICMP type and code stand in the place of both ports
// (RFC 7296 3.13.1). nullopt: OPAQUE, the packet does not show any.
std::optional<Ports> PortsOf(const InnerPacket& inner, base::ByteSpan packet) {
  if (!inner.first_fragment) return std::nullopt;
  base::ByteReader reader(packet.first(inner.size));
  Ports ports;
  if (!reader.Skip(inner.transport) || !reader.ReadU16(&ports.source)) {
    return std::nullopt;
  }
  switch (inner.protocol) {
    case kProtocolIcmp:
    case kProtocolIcmpv6:
      ports.destination = ports.source;
      return ports;
    case kProtocolTcp:
    case kProtocolUdp:
    case 132:  // SCTP
    case 33:   // DCCP
    case 136:  // UDP-Lite
      if (!reader.ReadU16(&ports.destination)) return std::nullopt;
      return ports;
    default:
      return std::nullopt;
  }
}

bool MatchSide(const std::vector<TrafficSelector>& selectors,
               const base::IpAddress& address, uint8_t protocol,
               std::optional<uint16_t> port) {
  return std::any_of(selectors.begin(), selectors.end(),
                     [&](const TrafficSelector& s) {
                       if (!s.Contains(address)) return false;
                       if (s.protocol != 0 && s.protocol != protocol)
                         return false;
                       if (AnyPort(s)) return true;
                       if (s.first_port > s.last_port)
                         return !port.has_value();  // OPAQUE
                       return port.has_value() && s.first_port <= *port &&
                              *port <= s.last_port;
                     });
}

}  // namespace

Selectors::Selectors(std::vector<TrafficSelector> source,
                     std::vector<TrafficSelector> destination)
    : source_(std::move(source)),
      destination_(std::move(destination)),
      addresses_only_(AddressesOnly(source_) && AddressesOnly(destination_)) {}

bool Selectors::Match(const InnerPacket& inner, base::ByteSpan packet) {
  if (have_last_ && last_family_ == inner.family && last_ == inner.addresses) {
    return true;
  }
  std::optional<Ports> ports;
  if (!addresses_only_) ports = PortsOf(inner, packet);
  const auto source_port =
      ports ? std::optional<uint16_t>(ports->source) : std::nullopt;
  const auto destination_port =
      ports ? std::optional<uint16_t>(ports->destination) : std::nullopt;
  if (!MatchSide(source_, inner.source(), inner.protocol, source_port) ||
      !MatchSide(destination_, inner.destination(), inner.protocol,
                 destination_port)) {
    return false;
  }
  // With ports or protocols in play the addresses alone decide nothing.
  if (addresses_only_) {
    have_last_ = true;
    last_family_ = inner.family;
    last_ = inner.addresses;
  }
  return true;
}

}  // namespace espalier::esp
