#include "cni/network_config.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::cni {
namespace {

using nlohmann::json;

Error ConfigError(std::string message, std::string details = "") {
  return Error(ErrorCode::kInvalidNetworkConfig, std::move(message),
               std::move(details));
}

Error UnsupportedError(const std::string& key, const json& value,
                       std::string details) {
  return Error(
      ErrorCode::kUnsupportedField,
      absl::StrCat("unsupported field \"", key, "\": ",
                   value.dump(-1, ' ', false, json::error_handler_t::replace)),
      std::move(details));
}

// The library throws; nothing of it leaves this function.
Outcome<json> ParseJson(const std::string& text) {
  if (text.size() > kMaxConfigBytes) {
    return Error(ErrorCode::kDecoding, "network configuration is too large",
                 absl::StrCat("more than ", kMaxConfigBytes, " octets"));
  }
  bool too_deep = false;
  json parsed;
  try {
    parsed =
        json::parse(text, [&too_deep](int depth, json::parse_event_t, json&) {
          if (depth <= kMaxConfigDepth) return true;
          too_deep = true;
          return false;
        });
  } catch (const json::exception& e) {
    return Error(ErrorCode::kDecoding,
                 "network configuration on standard input is no valid JSON",
                 e.what());
  }
  if (too_deep) {
    return Error(ErrorCode::kDecoding,
                 "network configuration is nested too "
                 "deeply",
                 absl::StrCat("more than ", kMaxConfigDepth, " levels"));
  }
  if (!parsed.is_object()) {
    return Error(
        ErrorCode::kDecoding, "network configuration is no object",
        absl::StrCat("standard input holds a JSON ", parsed.type_name()));
  }
  return parsed;
}

// The text at `key`; "" when it is absent.
Outcome<std::string> TextAt(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end()) return std::string();
  if (!it->is_string()) {
    return ConfigError(absl::StrCat("\"", key, "\" is no text"),
                       absl::StrCat("it is of type ", it->type_name()));
  }
  return it->get<std::string>();
}

std::string SupportedVersions() {
  std::string out;
  for (const Version version : kVersions) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", VersionName(version));
  }
  return out;
}

// Which commands a version has.
std::optional<Error> CheckCommand(Version version, Command command) {
  const char* name = nullptr;
  const char* since = nullptr;
  if (command == Command::kCheck && version < Version::k040) {
    name = "CHECK", since = "0.4.0";
  } else if (command == Command::kCollectGarbage && version < Version::k110) {
    name = "GC", since = "1.1.0";
  } else if (command == Command::kStatus && version < Version::k110) {
    name = "STATUS", since = "1.1.0";
  }
  if (name == nullptr) return std::nullopt;
  return Error(ErrorCode::kIncompatibleVersion,
               absl::StrCat("config version ", VersionName(version),
                            " does not allow ", name),
               absl::StrCat(name, " came with version ", since));
}

Outcome<Version> ReadVersion(const json& object, Command command) {
  auto text = TextAt(object, "cniVersion");
  if (const Error* error = ErrorOf(text)) return *error;
  const std::string& name = std::get<std::string>(text);
  const std::optional<Version> version = ParseVersion(name);
  if (!version.has_value()) {
    return Error(ErrorCode::kIncompatibleVersion, "incompatible CNI versions",
                 absl::StrCat("config is \"", name,
                              "\" (\"cniVersion\"), plugin supports ",
                              SupportedVersions()));
  }
  if (auto error = CheckCommand(*version, command)) return *std::move(error);
  return *version;
}

std::optional<Error> ReadValidAttachments(const json& object,
                                          NetworkConfig* config) {
  // The second name is what libcni up to 1.1 wrote.
  auto it = object.find("cni.dev/valid-attachments");
  if (it == object.end()) it = object.find("cni.dev/attachments");
  if (it == object.end()) return std::nullopt;
  // Go's encoding of an empty list that was never made.
  if (it->is_null()) {
    config->valid.emplace();
    return std::nullopt;
  }
  const auto malformed = [] {
    return ConfigError(
        "\"cni.dev/valid-attachments\" is malformed",
        "a list of objects with \"containerID\" and \"ifname\" was expected");
  };
  if (!it->is_array()) return malformed();
  config->valid.emplace();
  for (const json& entry : *it) {
    if (!entry.is_object()) return malformed();
    const auto id = entry.find("containerID");
    const auto name = entry.find("ifname");
    if (id == entry.end() || name == entry.end() || !id->is_string() ||
        !name->is_string()) {
      return malformed();
    }
    config->valid->emplace_back(id->get<std::string>(),
                                name->get<std::string>());
  }
  return std::nullopt;
}

// Whoever shapes by it takes the ingress hook of the pod's interface from the
// guard, as the bandwidth plugin does: neither would do what it has to.
std::optional<Error> RefuseBandwidth(const json& object) {
  for (const char* key : {"capabilities", "runtimeConfig"}) {
    const auto part = object.find(key);
    if (part == object.end() || !part->is_object()) continue;
    const auto bandwidth = part->find("bandwidth");
    if (bandwidth == part->end() || bandwidth->is_null() ||
        *bandwidth == json(false)) {
      continue;
    }
    return UnsupportedError(
        absl::StrCat(key, ".bandwidth"), *bandwidth,
        "Espalier does not shape traffic, and the bandwidth plugin's ingress "
        "qdisc collides with the guard of the pod's interface; remove the "
        "field, and the plugin from the list");
  }
  return std::nullopt;
}

std::optional<Error> RefuseUnsupported(const json& object) {
  const auto ipam = object.find("ipam");
  if (ipam != object.end() && !(ipam->is_object() && ipam->empty()) &&
      !ipam->is_null()) {
    return UnsupportedError("ipam", *ipam,
                            "Espalier's agent assigns addresses out of the "
                            "node's pod CIDRs; remove the field");
  }
  const auto masquerade = object.find("ipMasq");
  if (masquerade != object.end() && *masquerade != json(false)) {
    return UnsupportedError("ipMasq", *masquerade,
                            "masquerading is a setting of the agent; remove "
                            "the field");
  }
  return RefuseBandwidth(object);
}

}  // namespace

std::optional<std::string> FindVersion(const std::string& text) {
  const Outcome<json> parsed = ParseJson(text);
  if (ErrorOf(parsed)) return std::nullopt;
  const json& object = std::get<json>(parsed);
  const auto it = object.find("cniVersion");
  if (it == object.end() || !it->is_string()) return std::nullopt;
  return it->get<std::string>();
}

Outcome<NetworkConfig> ParseNetworkConfig(const std::string& text,
                                          Command command) {
  Outcome<json> parsed = ParseJson(text);
  if (const Error* error = ErrorOf(parsed)) return *error;
  json& object = std::get<json>(parsed);
  NetworkConfig config;

  const Outcome<Version> version = ReadVersion(object, command);
  if (const Error* error = ErrorOf(version)) return *error;
  config.version = std::get<Version>(version);

  Outcome<std::string> name = TextAt(object, "name");
  if (const Error* error = ErrorOf(name)) return *error;
  config.name = std::get<std::string>(std::move(name));
  if (!IsIdentifier(config.name) || config.name.size() > kMaxNetworkName) {
    return ConfigError(
        absl::StrCat("\"name\" is \"", config.name, "\""),
        absl::StrCat("a letter or digit, then letters, digits, '_', '.', '-' "
                     "was expected, at most ",
                     kMaxNetworkName, " characters"));
  }

  Outcome<std::string> directory = TextAt(object, "runDirectory");
  if (const Error* error = ErrorOf(directory)) return *error;
  if (const auto& path = std::get<std::string>(directory); !path.empty()) {
    if (path[0] != '/' || path.find('\0') != std::string::npos) {
      return ConfigError(absl::StrCat("\"runDirectory\" is \"", path, "\""),
                         "an absolute path was expected");
    }
    config.run_directory = path;
  }

  // What is wrong for ADD must not keep a pod from being taken down.
  if (command != Command::kDelete && command != Command::kCollectGarbage) {
    if (auto error = RefuseUnsupported(object)) return *std::move(error);
  }
  if (const auto dns = object.find("dns"); dns != object.end()) {
    if (!dns->is_object()) {
      if (command == Command::kAdd) return ConfigError("\"dns\" is no object");
    } else {
      config.dns = *dns;
    }
  }
  if (const auto it = object.find("prevResult"); it != object.end()) {
    config.previous_result = std::move(*it);
  }
  if (command == Command::kCollectGarbage) {
    if (auto error = ReadValidAttachments(object, &config)) {
      return *std::move(error);
    }
  }
  return config;
}

Outcome<PreviousAttachment> FindPreviousAttachment(
    const NetworkConfig& config, const std::string& name,
    const std::string& network_namespace) {
  const json& result = config.previous_result;
  if (!result.is_object()) {
    return ConfigError("\"prevResult\" is missing",
                       "CHECK needs the result of ADD");
  }
  const auto interfaces = result.find("interfaces");
  if (interfaces == result.end() || !interfaces->is_array()) {
    return ConfigError("\"prevResult\" has no list \"interfaces\"");
  }
  PreviousAttachment out;
  std::optional<size_t> index;
  for (size_t i = 0; i < interfaces->size(); ++i) {
    const json& entry = (*interfaces)[i];
    if (!entry.is_object()) continue;
    if (entry.value("name", json()) != json(name)) continue;
    if (entry.value("sandbox", json()) != json(network_namespace)) continue;
    index = i;
    const json mac = entry.value("mac", json());
    if (mac.is_string()) out.mac = mac.get<std::string>();
    break;
  }
  if (!index.has_value()) {
    return ConfigError(absl::StrCat("\"prevResult\" has no interface \"", name,
                                    "\" in ", network_namespace),
                       "the result of this pod's ADD was expected");
  }
  const auto ips = result.find("ips");
  if (ips != result.end() && ips->is_array()) {
    for (const json& entry : *ips) {
      if (!entry.is_object()) continue;
      if (entry.value("interface", json()) != json(*index)) continue;
      const json address = entry.value("address", json());
      if (address.is_string()) {
        out.addresses.push_back(address.get<std::string>());
      }
    }
  }
  if (out.addresses.empty()) {
    return ConfigError(
        absl::StrCat("\"prevResult\" has no address for \"", name, "\""));
  }
  return out;
}

}  // namespace espalier::cni
