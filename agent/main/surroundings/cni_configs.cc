#include "agent/main/surroundings/cni_configs.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/mesh/config/files.h"

namespace espalier::agent {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfig = size_t{1} << 20;
constexpr int kMaxDepth = 64;
constexpr size_t kMaxName = 128;

absl::StatusOr<std::set<std::string>> ConfigNames(const std::string& folder) {
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  std::set<std::string> names;
  for (; !error && entry != std::filesystem::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (absl::EndsWith(name, ".conf") || absl::EndsWith(name, ".conflist") ||
        absl::EndsWith(name, ".json")) {
      names.insert(name);
      if (names.size() > kMostCniConfigs) names.erase(std::prev(names.end()));
    }
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot read the folder ", folder, ": ", error.message()));
  }
  return names;
}

std::string TextAt(const json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto found = object.find(key);
  return found != object.end() && found->is_string()
             ? found->get<std::string>().substr(0, kMaxName)
             : "";
}

struct Config {
  std::string network;
  std::vector<std::string> plugins;  // their types
};

// A list, or a single plugin's configuration. nullopt: a runtime passes over
// it.
std::optional<Config> ReadConfig(const std::string& path) {
  const absl::StatusOr<std::string> text =
      mesh::ReadWholeFile(path, kMaxConfig);
  if (!text.ok()) return std::nullopt;
  bool deep = false;
  const json object = json::parse(
      *text,
      [&deep](int depth, json::parse_event_t, json&) {
        if (depth > kMaxDepth) deep = true;
        return !deep;
      },
      /*allow_exceptions=*/false);
  if (deep || !object.is_object()) return std::nullopt;
  Config config{.network = TextAt(object, "name")};
  const auto plugins = object.find("plugins");
  if (plugins == object.end()) {
    config.plugins.push_back(TextAt(object, "type"));
  } else if (plugins->is_array()) {
    for (const json& plugin : *plugins) {
      config.plugins.push_back(TextAt(plugin, "type"));
    }
  }
  if (config.plugins.empty() || config.plugins.front().empty()) {
    return std::nullopt;
  }
  return config;
}

bool Contains(const std::vector<std::string>& plugins, const char* plugin) {
  return std::ranges::find(plugins, plugin) != plugins.end();
}

}  // namespace

absl::StatusOr<CniConfigs> ReadCniConfigs(const std::string& folder) {
  ESPALIER_ASSIGN_OR_RETURN(const std::set<std::string> names,
                            ConfigNames(folder));
  CniConfigs configs;
  for (const std::string& name : names) {
    const std::optional<Config> config =
        ReadConfig(absl::StrCat(folder, "/", name));
    if (!config) {
      if (name != kConflistName) configs.foreign.push_back({.file = name});
      continue;
    }
    if (Contains(config->plugins, "espalier-cni")) {
      if (Contains(config->plugins, "bandwidth") &&
          configs.with_bandwidth.empty()) {
        configs.with_bandwidth = name;
      }
      continue;
    }
    if (std::ranges::all_of(config->plugins, [](const std::string& plugin) {
          return plugin == "loopback";
        })) {
      continue;
    }
    configs.foreign.push_back({.file = name,
                               .network = config->network,
                               .before_ours = name < kConflistName});
  }
  return configs;
}

}  // namespace espalier::agent
