// Versions of the CNI specification.
#ifndef ESPALIER_CNI_VERSION_H_
#define ESPALIER_CNI_VERSION_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace espalier::cni {

// In order of age, so that they compare.
enum class Version : uint8_t { k031, k040, k100, k110 };

inline constexpr std::array<Version, 4> kVersions = {
    Version::k031, Version::k040, Version::k100, Version::k110};

constexpr const char* VersionName(Version version) {
  switch (version) {
    case Version::k031:
      return "0.3.1";
    case Version::k040:
      return "0.4.0";
    case Version::k100:
      return "1.0.0";
    case Version::k110:
      return "1.1.0";
  }
  return "";
}

inline std::optional<Version> ParseVersion(const std::string& text) {
  for (const Version version : kVersions) {
    if (text == VersionName(version)) return version;
  }
  return std::nullopt;
}

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_VERSION_H_
