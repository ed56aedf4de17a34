#include "agent/pods/names.h"

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace espalier::pods {
namespace {

constexpr char kAliasMark[] = "espalier-pod";

// FNV-1a, then a finalizer that spreads it over all bits: names have to be the
// same in every process, which rules out absl::Hash.
uint64_t StableHash(absl::string_view salt, absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const absl::string_view part : {salt, text}) {
    for (const char c : part) {
      hash ^= static_cast<uint8_t>(c);
      hash *= 0x100000001b3;
    }
  }
  hash ^= hash >> 33;
  hash *= 0xff51afd7ed558ccd;
  hash ^= hash >> 33;
  return hash;
}

netlink::MacAddress MacOf(absl::string_view salt, const std::string& owner) {
  const uint64_t hash = StableHash(salt, owner);
  netlink::MacAddress mac;
  for (size_t i = 0; i < mac.size(); ++i) {
    mac[i] = static_cast<uint8_t>(hash >> (8 * i));
  }
  mac[0] = static_cast<uint8_t>((mac[0] & 0xfc) | 0x02);
  return mac;
}

}  // namespace

std::string OwnerOf(const std::string& container_id,
                    const std::string& interface_name) {
  return absl::StrCat(container_id, "@", interface_name);
}

std::optional<OwnerParts> ParseOwner(const std::string& owner) {
  const size_t at = owner.find('@');
  if (at == std::string::npos || at == 0 || at + 1 == owner.size()) {
    return std::nullopt;
  }
  return OwnerParts{owner.substr(0, at), owner.substr(at + 1)};
}

std::string HostInterfaceName(const std::string& owner) {
  constexpr uint64_t kMask = (uint64_t{1} << 44) - 1;
  return absl::StrFormat("esp%011x", StableHash("interface", owner) & kMask);
}

netlink::MacAddress PodMac(const std::string& owner) {
  return MacOf("pod", owner);
}

netlink::MacAddress HostMac(const std::string& owner) {
  return MacOf("host", owner);
}

std::string FormatAlias(const std::string& network, const std::string& owner) {
  return absl::StrCat(kAliasMark, " ", network, " ", owner);
}

std::optional<ParsedAlias> ParseAlias(const std::string& alias) {
  const std::vector<std::string> words = absl::StrSplit(alias, ' ');
  if (words.size() != 3 || words[0] != kAliasMark || words[1].empty() ||
      !ParseOwner(words[2]).has_value()) {
    return std::nullopt;
  }
  return ParsedAlias{words[1], words[2]};
}

}  // namespace espalier::pods
