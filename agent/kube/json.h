// Reading of parsed JSON that cannot fail: what is absent or of another kind
// reads as empty. Internal to this folder; no exception leaves it.
#ifndef ESPALIER_AGENT_KUBE_JSON_H_
#define ESPALIER_AGENT_KUBE_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace espalier::kube {

using Json = nlohmann::json;

// Parses without exceptions; a discarded value when `text` is no JSON, or is
// nested deeper than any object of the API. managedFields and other managers'
// copies of the whole object are not even kept while parsing.
Json ParseJson(absl::string_view text);

// The member, or null.
const Json* Find(const Json& object, const char* key);
// The same for a path of two.
const Json* Find(const Json& object, const char* first, const char* second);
std::string ReadString(const Json& object, const char* key);
int64_t ReadInt(const Json& object, const char* key, int64_t otherwise = 0);
bool ReadBool(const Json& object, const char* key);
// RFC 3339; InfinitePast when absent or wrong.
absl::Time ReadTime(const Json& object, const char* key);
// The elements; an empty array when absent or of another kind.
const Json& ReadArray(const Json& object, const char* key);

// Compact; what is not UTF-8 is replaced.
std::string Dump(const Json& value);

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_JSON_H_
