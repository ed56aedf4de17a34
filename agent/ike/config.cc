#include "agent/ike/config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace espalier::ike {

Identity Identity::Fqdn(const std::string& name) {
  return {Type::kFqdn, base::Bytes(name.begin(), name.end())};
}

Identity Identity::Address(const base::IpAddress& address) {
  const base::ByteSpan octets = address.bytes();
  return {address.is_v4() ? Type::kIpv4 : Type::kIpv6,
          base::Bytes(octets.begin(), octets.end())};
}

std::string Identity::ToString() const {
  switch (type) {
    case Type::kIpv4:
    case Type::kIpv6: {
      auto address = base::IpAddress::FromBytes(data);
      if (address.ok()) return address->ToString();
      break;
    }
    case Type::kFqdn:
    case Type::kRfc822: {
      const bool printable =
          std::all_of(data.begin(), data.end(),
                      [](uint8_t c) { return c > 0x20 && c < 0x7f; });
      if (printable) return std::string(data.begin(), data.end());
      break;
    }
    case Type::kDerAsn1Dn:
    case Type::kKeyId:
      break;
  }
  return absl::StrCat("type ", static_cast<int>(type), " ", base::ToHex(data));
}

}  // namespace espalier::ike
