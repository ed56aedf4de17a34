// IPv4 and IPv6 addresses, prefixes and UDP endpoints as values.
#ifndef ESPALIER_AGENT_BASE_IP_ADDRESS_H_
#define ESPALIER_AGENT_BASE_IP_ADDRESS_H_

#include <array>
#include <compare>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/bytes.h"

namespace espalier::base {

enum class Family : uint8_t { kIpv4 = 4, kIpv6 = 6 };

class IpAddress {
 public:
  // 0.0.0.0
  constexpr IpAddress() = default;
  // From 4 or 16 octets in network order; any other size is InvalidArgument.
  static absl::StatusOr<IpAddress> FromBytes(ByteSpan bytes);
  static IpAddress V4(const std::array<uint8_t, 4>& octets);
  static IpAddress V6(const std::array<uint8_t, 16>& octets);
  // Presentation form without scope or prefix length; the error quotes `text`.
  static absl::StatusOr<IpAddress> Parse(const std::string& text);
  static IpAddress Any(Family family);

  Family family() const { return family_; }
  bool is_v4() const { return family_ == Family::kIpv4; }
  bool is_v6() const { return family_ == Family::kIpv6; }
  // 32 or 128.
  int bits() const { return is_v4() ? 32 : 128; }
  // 4 or 16 octets in network order; borrows from this.
  ByteSpan bytes() const { return {octets_.data(), is_v4() ? size_t{4} : 16}; }
  bool IsUnspecified() const;
  bool IsLinkLocal() const;
  bool IsMulticast() const;
  std::string ToString() const;

  // This plus n, as a big-endian number; wraps inside its family.
  IpAddress Plus(uint64_t n) const;

  friend auto operator<=>(const IpAddress&, const IpAddress&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const IpAddress& a) {
    return H::combine(std::move(state), a.family_, a.octets_);
  }

 private:
  Family family_ = Family::kIpv4;
  std::array<uint8_t, 16> octets_{};
};

// An address with a prefix length; bits behind the length are always zero.
class IpPrefix {
 public:
  constexpr IpPrefix() = default;
  // Host bits are cleared; a length outside the family is InvalidArgument.
  static absl::StatusOr<IpPrefix> Make(const IpAddress& address, int length);
  // "10.0.0.0/16"; host bits must be zero, so that a typing error is noticed.
  static absl::StatusOr<IpPrefix> Parse(const std::string& text);
  // /32 or /128.
  static IpPrefix Host(const IpAddress& address);

  const IpAddress& address() const { return address_; }
  int length() const { return length_; }
  Family family() const { return address_.family(); }
  bool Contains(const IpAddress& address) const;
  bool Contains(const IpPrefix& other) const;
  bool Overlaps(const IpPrefix& other) const {
    return Contains(other) || other.Contains(*this);
  }
  IpAddress First() const { return address_; }
  IpAddress Last() const;
  std::string ToString() const;

  friend auto operator<=>(const IpPrefix&, const IpPrefix&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const IpPrefix& p) {
    return H::combine(std::move(state), p.address_, p.length_);
  }

 private:
  IpAddress address_;
  int length_ = 0;
};

// A UDP address and port (host order).
struct Endpoint {
  IpAddress address;
  uint16_t port = 0;

  std::string ToString() const;  // 192.0.2.1:500, [2001:db8::1]:500
  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Endpoint& e) {
    return H::combine(std::move(state), e.address, e.port);
  }
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_IP_ADDRESS_H_
