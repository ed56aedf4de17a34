#include "agent/mesh/config/reader.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/mesh/config/config.h"

namespace espalier::mesh {
namespace {

constexpr size_t kMaxErrorsShown = 50;

// Levenshtein's distance, for words short enough to be a field's name.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (absl::ascii_tolower(a[i - 1]) !=
                                             absl::ascii_tolower(b[j - 1]));
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// The names that may follow `path` in ConfigFields().
std::vector<std::string> KeysOf(const std::string& path) {
  const std::string prefix = path.empty() ? "" : absl::StrCat(path, ".");
  std::vector<std::string> keys;
  for (const std::string& field : ConfigFields()) {
    if (!absl::StartsWith(field, prefix)) continue;
    std::string rest = field.substr(prefix.size());
    rest = rest.substr(0, rest.find('.'));
    if (absl::EndsWith(rest, "[]")) rest.resize(rest.size() - 2);
    if (!rest.empty() &&
        std::find(keys.begin(), keys.end(), rest) == keys.end()) {
      keys.push_back(rest);
    }
  }
  return keys;
}

}  // namespace

std::string NearestWord(const std::string& word,
                        const std::vector<std::string>& words) {
  if (word.empty() || word.size() > 64) return "";
  std::string nearest;
  size_t best = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : words) {
    const size_t distance = EditDistance(word, candidate);
    // A word that shares nothing with the candidate is no misspelling of it.
    if (distance < best && distance < candidate.size()) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string Quoted(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "empty";
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
    case YamlNode::Kind::kScalar:
      break;
  }
  std::string text;
  for (char c : node.scalar) {
    if (text.size() >= 60) {
      text += "...";
      break;
    }
    text.push_back(absl::ascii_iscntrl(static_cast<unsigned char>(c)) ? '?'
                                                                      : c);
  }
  return absl::StrCat("'", text, "'");
}

void ErrorList::Add(int line, int column, const std::string& message) {
  // Enough to say "and more"; a file of nothing but errors stays cheap.
  if (errors_.size() > 10'000) return;
  // A value of several lines must not break an error's one line.
  std::string clean = message;
  for (char& c : clean) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  errors_.push_back({line, column, errors_.size(), std::move(clean)});
}

absl::Status ErrorList::ToStatus() const {
  if (errors_.empty()) return absl::OkStatus();
  std::vector<Error> sorted = errors_;
  std::sort(sorted.begin(), sorted.end(), [](const Error& a, const Error& b) {
    return std::tie(a.line, a.column, a.order) <
           std::tie(b.line, b.column, b.order);
  });
  std::vector<std::string> lines;
  for (const Error& error : sorted) {
    if (lines.size() == kMaxErrorsShown) {
      lines.push_back(absl::StrCat(name_, ": and ",
                                   sorted.size() - kMaxErrorsShown, " more"));
      break;
    }
    lines.push_back(absl::StrCat(name_, ":", error.line, ":", error.column,
                                 ": ", error.message));
  }
  return absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
}

MapReader::MapReader(const std::string& path, const YamlNode& node,
                     ErrorList* errors)
    : path_(path), node_(node), errors_(errors) {
  const std::string title = path_.empty() ? "the file" : path_;
  if (node.kind != YamlNode::Kind::kMap) {
    errors_->Add(std::max(node.line, 1), std::max(node.column, 1),
                 absl::StrCat(title, " is ", Quoted(node),
                              ": expected a map with the fields ",
                              absl::StrJoin(KeysOf(path_), ", ")));
    return;
  }
  const std::vector<std::string> keys = KeysOf(path_);
  std::vector<std::string> seen;
  for (const auto& [key, value] : node.entries) {
    if (std::find(keys.begin(), keys.end(), key.scalar) == keys.end()) {
      const std::string nearest =
          errors_->full() ? "" : NearestWord(key.scalar, keys);
      errors_->Add(
          key,
          absl::StrCat("unknown field ", Quoted(key), " in ", title,
                       nearest.empty()
                           ? absl::StrCat(": expected one of ",
                                          absl::StrJoin(keys, ", "))
                           : absl::StrCat(": did you mean '", nearest, "'?")));
      continue;
    }
    if (std::find(seen.begin(), seen.end(), key.scalar) != seen.end()) {
      errors_->Add(key, absl::StrCat(PathOf(key.scalar),
                                     " is given twice: expected it once"));
      continue;
    }
    seen.push_back(key.scalar);
    if (value.kind == YamlNode::Kind::kNull) {
      errors_->Add(key, absl::StrCat(PathOf(key.scalar),
                                     " has no value: give one, or leave the "
                                     "field out"));
    }
  }
}

const YamlNode* MapReader::Get(const std::string& key) const {
  for (const auto& [name, value] : node_.entries) {
    if (name.scalar == key) {
      return value.kind == YamlNode::Kind::kNull ? nullptr : &value;
    }
  }
  return nullptr;
}

bool MapReader::Has(const std::string& key) const {
  return std::any_of(
      node_.entries.begin(), node_.entries.end(),
      [&](const auto& entry) { return entry.key.scalar == key; });
}

std::string MapReader::PathOf(const std::string& key) const {
  return path_.empty() ? key : absl::StrCat(path_, ".", key);
}

void MapReader::Wrong(const std::string& key, const YamlNode& value,
                      const std::string& expected) const {
  errors_->Add(value, absl::StrCat(PathOf(key), " is ", Quoted(value),
                                   ": expected ", expected));
}

void MapReader::Missing(const std::string& key,
                        const std::string& expected) const {
  // A map of the wrong kind, or a key without a value, has had its error.
  if (node_.kind != YamlNode::Kind::kMap || Has(key)) return;
  errors_->Add(node_,
               absl::StrCat(PathOf(key), " is missing: expected ", expected));
}

bool MapReader::Text(const std::string& key, const std::string& expected,
                     std::string* out) const {
  const YamlNode* value = Get(key);
  if (value == nullptr) return false;
  if (value->kind != YamlNode::Kind::kScalar || value->scalar.empty() ||
      value->scalar.size() > 4096) {
    Wrong(key, *value, expected);
    return false;
  }
  *out = value->scalar;
  return true;
}

bool MapReader::Bool(const std::string& key, bool* out) const {
  const YamlNode* value = Get(key);
  if (value == nullptr) return false;
  if (value->kind == YamlNode::Kind::kScalar && !value->quoted) {
    if (value->scalar == "true" || value->scalar == "false") {
      *out = value->scalar == "true";
      return true;
    }
  }
  Wrong(key, *value, "true or false");
  return false;
}

bool MapReader::Number(const std::string& key, uint64_t low, uint64_t high,
                       uint64_t* out) const {
  const YamlNode* value = Get(key);
  if (value == nullptr) return false;
  uint64_t number = 0;
  if (value->kind == YamlNode::Kind::kScalar && !value->scalar.empty() &&
      absl::ascii_isdigit(static_cast<unsigned char>(value->scalar[0])) &&
      absl::SimpleAtoi(value->scalar, &number) && number >= low &&
      number <= high) {
    *out = number;
    return true;
  }
  Wrong(key, *value, absl::StrCat("a whole number from ", low, " to ", high));
  return false;
}

bool MapReader::Duration(const std::string& key, absl::Duration low,
                         absl::Duration high, absl::Duration* out) const {
  const YamlNode* value = Get(key);
  if (value == nullptr) return false;
  absl::Duration duration;
  if (value->kind == YamlNode::Kind::kScalar &&
      absl::ParseDuration(value->scalar, &duration) && duration >= low &&
      duration <= high) {
    *out = duration;
    return true;
  }
  Wrong(key, *value,
        absl::StrCat("a time with its unit, as in '90s', '20m' or '4h', from ",
                     absl::FormatDuration(low), " to ",
                     absl::FormatDuration(high)));
  return false;
}

bool MapReader::ByteCount(const std::string& key, uint64_t* out) const {
  const YamlNode* value = Get(key);
  if (value == nullptr) return false;
  if (value->kind == YamlNode::Kind::kScalar) {
    constexpr struct {
      const char* suffix;
      uint64_t factor;
    } kUnits[] = {{"KiB", 1ull << 10},   {"MiB", 1ull << 20},
                  {"GiB", 1ull << 30},   {"TiB", 1ull << 40},
                  {"kB", 1'000},         {"MB", 1'000'000},
                  {"GB", 1'000'000'000}, {"TB", 1'000'000'000'000}};
    std::string digits = value->scalar;
    uint64_t factor = 1;
    for (const auto& unit : kUnits) {
      if (absl::EndsWith(digits, unit.suffix)) {
        digits.resize(digits.size() -
                      std::char_traits<char>::length(unit.suffix));
        factor = unit.factor;
        break;
      }
    }
    uint64_t number = 0;
    if (!digits.empty() &&
        absl::ascii_isdigit(static_cast<unsigned char>(digits[0])) &&
        absl::SimpleAtoi(digits, &number) &&
        number <= (uint64_t{1} << 62) / factor) {
      *out = number * factor;
      return true;
    }
  }
  Wrong(key, *value,
        "a number of octets with or without a unit, as in '256GiB' (0: no "
        "limit)");
  return false;
}

bool MapReader::List(
    const std::string& key, const std::string& expected, size_t max_size,
    const std::function<absl::Status(const std::string&)>& each) const {
  const YamlNode* value = Get(key);
  if (value == nullptr) return false;
  if (value->kind != YamlNode::Kind::kSequence || value->elements.empty()) {
    Wrong(key, *value, absl::StrCat("a list of ", expected));
    return false;
  }
  if (value->elements.size() > max_size) {
    errors_->Add(*value,
                 absl::StrCat(PathOf(key), " has ", value->elements.size(),
                              " entries: expected at most ", max_size));
    return false;
  }
  bool ok = true;
  for (const YamlNode& element : value->elements) {
    if (element.kind != YamlNode::Kind::kScalar) {
      Wrong(key, element, absl::StrCat("a list of ", expected));
      ok = false;
      continue;
    }
    absl::Status status = each(element.scalar);
    if (!status.ok()) {
      errors_->Add(element, absl::StrCat(PathOf(key), ": ", status.message()));
      ok = false;
    }
  }
  return ok;
}

bool MapReader::OneOf(const std::string& key,
                      const std::vector<std::string>& words,
                      std::string* out) const {
  const YamlNode* value = Get(key);
  if (value == nullptr) return false;
  if (value->kind == YamlNode::Kind::kScalar &&
      std::find(words.begin(), words.end(), value->scalar) != words.end()) {
    *out = value->scalar;
    return true;
  }
  const std::string nearest = value->kind == YamlNode::Kind::kScalar
                                  ? NearestWord(value->scalar, words)
                                  : "";
  Wrong(key, *value,
        absl::StrCat("one of ", absl::StrJoin(words, ", "),
                     nearest.empty()
                         ? ""
                         : absl::StrCat("; did you mean '", nearest, "'?")));
  return false;
}

}  // namespace espalier::mesh
