#include "agent/mesh/config/modes.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::mesh {
namespace {

constexpr size_t kMaxEntries = 20'000;
constexpr char kModeWords[] = "required, preferred or disabled";
constexpr char kNoPath[] =
    "required or preferred, because cluster.plaintextPath is none";

class ModesReader {
 public:
  ModesReader(ErrorList* errors, const std::string& file, Config* config)
      : errors_(errors), file_(file), config_(config) {}

  std::optional<base::Mode> ReadMode(const MapReader& map, const char* key,
                                     std::string* problem) {
    std::string word;
    if (!map.Text(key, kModeWords, &word)) return std::nullopt;
    const std::optional<base::Mode> mode = base::ParseMode(word);
    if (!mode) {
      Warn(map, key, kModeWords, "required", problem);
      return base::Mode::kRequired;
    }
    if (*mode == base::Mode::kDisabled &&
        config_->plaintext_path == PlaintextPath::kNone) {
      map.Wrong(key, *map.Get(key), kNoPath);
    }
    return mode;
  }

  // `strong` is what an unknown word counts as; the answer is whether the word
  // is `yes`.
  std::optional<bool> ReadWord(const MapReader& map, const char* key,
                               const char* yes, std::string* problem) {
    std::string word;
    if (!map.Text(key, "allow or deny", &word)) return std::nullopt;
    if (word != "allow" && word != "deny") {
      Warn(map, key, "allow or deny", "deny", problem);
      word = "deny";
    }
    return word == yes;
  }

  base::PodWish ReadWish(const std::string& path, const YamlNode& node) {
    base::PodWish wish;
    const MapReader map(path, node, errors_);
    wish.encryption = ReadMode(map, "encryption", &wish.problem);
    wish.outside_denied = ReadWord(map, "outside", "deny", &wish.problem);
    wish.outside_in_allowed =
        ReadWord(map, "outsideIn", "allow", &wish.problem);
    return wish;
  }

  void ReadWishes(const MapReader& modes, const std::string& key,
                  const std::string& entry,
                  std::map<std::string, base::PodWish>* out) {
    const YamlNode* node = modes.Get(key);
    if (node == nullptr) return;
    const bool pods = key == "pods";
    if (node->kind != YamlNode::Kind::kMap) {
      modes.Wrong(key, *node,
                  pods ? "a map of NAMESPACE/NAME" : "a map of namespaces");
      return;
    }
    if (node->entries.size() > kMaxEntries) {
      modes.Wrong(key, *node, absl::StrCat("at most ", kMaxEntries));
      return;
    }
    for (const YamlEntry& at : node->entries) {
      const std::string& name = at.key.scalar;
      const size_t slash = name.find('/');
      const bool right =
          pods ? slash != std::string::npos && slash > 0 &&
                     slash + 1 < name.size() &&
                     name.find('/', slash + 1) == std::string::npos
               : !name.empty() && slash == std::string::npos;
      if (!right) {
        errors_->Add(
            at.key,
            absl::StrCat("modes.", key, " has ", Quoted(at.key), ": expected ",
                         pods ? "NAMESPACE/NAME" : "a namespace"));
        continue;
      }
      base::PodWish wish =
          ReadWish(absl::StrCat("modes.", key, ".", entry), at.value);
      if (!out->emplace(name, std::move(wish)).second) {
        errors_->Add(at.key, absl::StrCat("modes.", key, " has ",
                                          Quoted(at.key), " twice"));
      }
    }
  }

 private:
  void Warn(const MapReader& map, const char* key, const char* expected,
            const char* taken_as, std::string* problem) {
    const YamlNode& node = *map.Get(key);
    std::string text = absl::StrCat(
        file_, ":", node.line, ":", node.column, ": ", map.PathOf(key), " is ",
        Quoted(node), ": expected ", expected, "; taken as ", taken_as);
    absl::StrAppend(problem, problem->empty() ? "" : "; ", text);
    if (config_->warnings.size() < 50) {
      config_->warnings.push_back(std::move(text));
    }
  }

  ErrorList* errors_;
  const std::string& file_;
  Config* config_;
};

}  // namespace

void ReadModes(const YamlNode& node, ErrorList* errors, const std::string& file,
               Config* config) {
  const MapReader map("modes", node, errors);
  ModesReader reader(errors, file, config);
  std::string ignored;
  config->modes.default_mode = reader.ReadMode(map, "default", &ignored)
                                   .value_or(config->modes.default_mode);
  reader.ReadWishes(map, "namespaces", "NAMESPACE", &config->modes.namespaces);
  reader.ReadWishes(map, "pods", "POD", &config->modes.pods);
}

void ReadGuard(const YamlNode& node, ErrorList* errors, Config* config) {
  const MapReader map("guard", node, errors);
  std::string word;
  if (map.OneOf("bpf", {"auto", "on", "off"}, &word)) {
    config->guard.bpf = word == "auto" ? GuardBpf::kAuto
                        : word == "on" ? GuardBpf::kOn
                                       : GuardBpf::kOff;
  }
  if (map.OneOf("nftables", {"on", "off"}, &word)) {
    config->guard.nftables = word == "on";
  }
}

}  // namespace espalier::mesh
