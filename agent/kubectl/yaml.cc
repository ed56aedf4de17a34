#include "agent/kubectl/yaml.h"

#include "absl/strings/str_cat.h"

namespace espalier::kubectl {
namespace {

using Json = nlohmann::ordered_json;

// A YAML scalar: JSON's quoted text is YAML's double-quoted text.
std::string YamlScalar(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void AppendYaml(const Json& value, int indent, bool in_list, std::string* out) {
  const std::string pad(static_cast<size_t>(indent), ' ');
  bool first = in_list;  // the list's dash stands where the first pad would
  const auto begin_line = [&] {
    if (!first) *out += pad;
    first = false;
  };
  if (value.is_object() && !value.empty()) {
    for (const auto& [key, inner] : value.items()) {
      begin_line();
      if (inner.is_structured() && !inner.empty()) {
        absl::StrAppend(out, key, ":\n");
        AppendYaml(inner, indent + 2, false, out);
      } else {
        absl::StrAppend(out, key, ": ", YamlScalar(inner), "\n");
      }
    }
  } else if (value.is_array() && !value.empty()) {
    for (const Json& inner : value) {
      begin_line();
      *out += "- ";
      AppendYaml(inner, indent + 2, true, out);
    }
  } else {
    begin_line();
    absl::StrAppend(out, YamlScalar(value), "\n");
  }
}

}  // namespace

std::string YamlOf(const Json& value) {
  std::string out;
  AppendYaml(value, 0, false, &out);
  return out;
}

}  // namespace espalier::kubectl
