#include "agent/base/security_association.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace espalier::base {
namespace {

bool IsOpaque(const TrafficSelector& ts) {
  return ts.first_port == 65535 && ts.last_port == 0;
}

bool IsAnyPort(const TrafficSelector& ts) {
  return ts.first_port == 0 && ts.last_port == 65535;
}

}  // namespace

TrafficSelector TrafficSelector::FromPrefix(const IpPrefix& prefix) {
  return {.first = prefix.First(), .last = prefix.Last()};
}

bool TrafficSelector::Contains(const IpAddress& address) const {
  return address.family() == first.family() && first <= address &&
         address <= last;
}

bool TrafficSelector::Contains(const TrafficSelector& other) const {
  if (protocol != 0 && protocol != other.protocol) return false;
  if (!Contains(other.first) || !Contains(other.last)) return false;
  if (IsAnyPort(*this)) return true;
  if (IsOpaque(*this) || IsOpaque(other))
    return IsOpaque(*this) && IsOpaque(other);
  return first_port <= other.first_port && other.last_port <= last_port;
}

std::optional<TrafficSelector> TrafficSelector::Intersect(
    const TrafficSelector& other) const {
  if (first.family() != other.first.family()) return std::nullopt;
  if (protocol != 0 && other.protocol != 0 && protocol != other.protocol) {
    return std::nullopt;
  }
  TrafficSelector result;
  result.protocol = protocol != 0 ? protocol : other.protocol;
  result.first = std::max(first, other.first);
  result.last = std::min(last, other.last);
  if (result.last < result.first) return std::nullopt;
  if (IsOpaque(*this) || IsOpaque(other)) {
    const TrafficSelector& counterpart = IsOpaque(*this) ? other : *this;
    if (!IsOpaque(counterpart) && !IsAnyPort(counterpart)) return std::nullopt;
    result.first_port = 65535;
    result.last_port = 0;
    return result;
  }
  result.first_port = std::max(first_port, other.first_port);
  result.last_port = std::min(last_port, other.last_port);
  if (result.last_port < result.first_port) return std::nullopt;
  return result;
}

std::string TrafficSelector::ToString() const {
  std::string text = absl::StrCat(first.ToString(), "-", last.ToString());
  if (protocol != 0) absl::StrAppend(&text, " proto ", protocol);
  if (IsOpaque(*this)) {
    absl::StrAppend(&text, " port opaque");
  } else if (!IsAnyPort(*this)) {
    absl::StrAppend(&text, " port ", first_port, "-", last_port);
  }
  return text;
}

size_t EspSuite::integrity_key_size() const {
  switch (integrity) {
    case EspIntegrity::kNone:
      return 0;
    case EspIntegrity::kHmacSha2_256_128:
      return 32;
    case EspIntegrity::kHmacSha2_384_192:
      return 48;
    case EspIntegrity::kHmacSha2_512_256:
      return 64;
  }
  return 0;
}

size_t EspSuite::icv_size() const {
  return aead() ? 16 : integrity_key_size() / 2;
}

std::string EspSuite::ToString() const {
  std::string text;
  if (ah()) {
    text = absl::StrCat("ah-hmacsha", integrity_key_size() * 8);
    return esn ? absl::StrCat(text, "-esn") : text;
  }
  switch (cipher) {
    case EspCipher::kAesCbc:
      text = absl::StrCat("aes", key_bits, "cbc-hmacsha",
                          integrity_key_size() * 8);
      break;
    case EspCipher::kAesGcm16:
      text = absl::StrCat("aes", key_bits, "gcm16");
      break;
    case EspCipher::kChaCha20Poly1305:
      text = "chacha20poly1305";
      break;
  }
  return esn ? absl::StrCat(text, "-esn") : text;
}

std::string SaKey::ToString() const {
  return absl::StrCat(direction == Direction::kInbound ? "in" : "out", " 0x",
                      absl::Hex(spi.value(), absl::kZeroPad8), " to ",
                      outer_destination.ToString());
}

EspSa EspSa::Clone() const {
  EspSa copy;
  copy.direction = direction;
  copy.spi = spi;
  copy.outer_source = outer_source;
  copy.outer_destination = outer_destination;
  copy.encapsulation = encapsulation;
  copy.mode = mode;
  copy.cpu = cpu;
  copy.suite = suite;
  copy.encryption_key = encryption_key.Clone();
  copy.integrity_key = integrity_key.Clone();
  copy.replay_window = replay_window;
  copy.reqid = reqid;
  copy.local_selectors = local_selectors;
  copy.remote_selectors = remote_selectors;
  copy.limits = limits;
  return copy;
}

namespace {

// Outer IP and UDP headers, ESP header (SPI, sequence number), IV and ICV.
size_t FixedOverhead(const EspSuite& suite, Family outer, bool udp) {
  return (outer == Family::kIpv4 ? 20u : 40u) + (udp ? 8u : 0u) + 8u +
         suite.iv_size() + suite.icv_size();
}

// Pad length and next header octets (RFC 4303 2).
constexpr size_t kTrailer = 2;

// RFC 4302 2, 3.3.3.2.1: the header with its ICV fills multiples of 4 octets
// in IPv4, of 8 in IPv6. AH does not pass NAT: there is no UDP.
size_t AhOverhead(const EspSuite& suite, Family outer) {
  const size_t unit = outer == Family::kIpv4 ? 4 : 8;
  const size_t header = (12 + suite.icv_size() + unit - 1) / unit * unit;
  return (outer == Family::kIpv4 ? 20u : 40u) + header;
}

}  // namespace

size_t EspOverhead(const EspSuite& suite, Family outer, bool udp,
                   size_t inner) {
  if (suite.ah()) return AhOverhead(suite, outer);
  const size_t block = suite.block_size();
  const size_t padded = (inner + kTrailer + block - 1) / block * block;
  return FixedOverhead(suite, outer, udp) + padded - inner;
}

size_t InnerMtu(const EspSuite& suite, Family outer, bool udp,
                size_t link_mtu) {
  if (suite.ah()) {
    const size_t overhead = AhOverhead(suite, outer);
    return link_mtu > overhead ? link_mtu - overhead : 0;
  }
  const size_t fixed = FixedOverhead(suite, outer, udp);
  const size_t block = suite.block_size();
  if (link_mtu < fixed + block) return 0;
  return (link_mtu - fixed) / block * block - kTrailer;
}

}  // namespace espalier::base
