#include "agent/base/ip_address.h"

#include <arpa/inet.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::base {

absl::StatusOr<IpAddress> IpAddress::FromBytes(ByteSpan bytes) {
  if (bytes.size() != 4 && bytes.size() != 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("an IP address has 4 or 16 octets, not ", bytes.size()));
  }
  IpAddress result;
  result.family_ = bytes.size() == 4 ? Family::kIpv4 : Family::kIpv6;
  std::copy(bytes.begin(), bytes.end(), result.octets_.begin());
  return result;
}

IpAddress IpAddress::V4(const std::array<uint8_t, 4>& octets) {
  return *FromBytes(octets);
}

IpAddress IpAddress::V6(const std::array<uint8_t, 16>& octets) {
  return *FromBytes(octets);
}

absl::StatusOr<IpAddress> IpAddress::Parse(const std::string& text) {
  std::array<uint8_t, 16> octets{};
  if (inet_pton(AF_INET, text.c_str(), octets.data()) == 1) {
    return FromBytes(ByteSpan(octets).first(4));
  }
  if (inet_pton(AF_INET6, text.c_str(), octets.data()) == 1) {
    return FromBytes(octets);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not an IPv4 or IPv6 address"));
}

IpAddress IpAddress::Any(Family family) {
  IpAddress result;
  result.family_ = family;
  return result;
}

bool IpAddress::IsUnspecified() const {
  return std::ranges::all_of(octets_, [](uint8_t b) { return b == 0; });
}

bool IpAddress::IsLinkLocal() const {
  if (is_v4()) return octets_[0] == 169 && octets_[1] == 254;
  return octets_[0] == 0xfe && (octets_[1] & 0xc0) == 0x80;
}

bool IpAddress::IsMulticast() const {
  return is_v4() ? (octets_[0] & 0xf0) == 0xe0 : octets_[0] == 0xff;
}

std::string IpAddress::ToString() const {
  char text[INET6_ADDRSTRLEN] = {};
  inet_ntop(is_v4() ? AF_INET : AF_INET6, octets_.data(), text, sizeof(text));
  return text;
}

IpAddress IpAddress::Plus(uint64_t n) const {
  IpAddress result = *this;
  for (size_t i = bytes().size(); i-- > 0 && n != 0;) {
    n += result.octets_[i];
    result.octets_[i] = static_cast<uint8_t>(n);
    n >>= 8;
  }
  return result;
}

absl::StatusOr<IpPrefix> IpPrefix::Make(const IpAddress& address, int length) {
  if (length < 0 || length > address.bits()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a prefix of ", address.ToString(), " has 0 to ",
                     address.bits(), " bits, not ", length));
  }
  Bytes octets(address.bytes().begin(), address.bytes().end());
  for (int bit = length; bit < address.bits(); ++bit) {
    octets[bit / 8] &= static_cast<uint8_t>(~(0x80 >> (bit % 8)));
  }
  IpPrefix result;
  result.address_ = *IpAddress::FromBytes(octets);
  result.length_ = length;
  return result;
}

absl::StatusOr<IpPrefix> IpPrefix::Parse(const std::string& text) {
  const size_t slash = text.find('/');
  int length = 0;
  if (slash == std::string::npos || slash + 1 == text.size() ||
      !std::all_of(text.begin() + static_cast<ptrdiff_t>(slash) + 1, text.end(),
                   [](char c) { return c >= '0' && c <= '9'; }) ||
      !absl::SimpleAtoi(text.substr(slash + 1), &length)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not ADDRESS/LENGTH"));
  }
  ESPALIER_ASSIGN_OR_RETURN(const IpAddress address,
                            IpAddress::Parse(text.substr(0, slash)));
  ESPALIER_ASSIGN_OR_RETURN(const IpPrefix prefix, Make(address, length));
  if (prefix.address() != address) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text, "' has bits set behind its length; did you mean ",
        prefix.ToString(), "?"));
  }
  return prefix;
}

IpPrefix IpPrefix::Host(const IpAddress& address) {
  return *Make(address, address.bits());
}

bool IpPrefix::Contains(const IpAddress& address) const {
  return address.family() == family() &&
         Make(address, length_)->address_ == address_;
}

bool IpPrefix::Contains(const IpPrefix& other) const {
  return other.length_ >= length_ && Contains(other.address_);
}

IpAddress IpPrefix::Last() const {
  Bytes octets(address_.bytes().begin(), address_.bytes().end());
  for (int bit = length_; bit < address_.bits(); ++bit) {
    octets[bit / 8] |= static_cast<uint8_t>(0x80 >> (bit % 8));
  }
  return *IpAddress::FromBytes(octets);
}

std::string IpPrefix::ToString() const {
  return absl::StrCat(address_.ToString(), "/", length_);
}

std::string Endpoint::ToString() const {
  return address.is_v4() ? absl::StrCat(address.ToString(), ":", port)
                         : absl::StrCat("[", address.ToString(), "]:", port);
}

}  // namespace espalier::base
