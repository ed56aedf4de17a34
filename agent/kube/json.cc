#include "agent/kube/json.h"

#include "absl/time/civil_time.h"

namespace espalier::kube {
namespace {

// Objects of the API that are read here nest about ten deep; anything deeper
// is somebody's free-form part, and only costs memory.
constexpr int kDeepest = 64;

}  // namespace

Json ParseJson(absl::string_view text) {
  bool too_deep = false;
  const auto keep = [&too_deep](int depth, Json::parse_event_t event,
                                Json& value) {
    if (depth > kDeepest) too_deep = true;
    if (event != Json::parse_event_t::key) return depth <= kDeepest;
    const std::string* key = value.get_ptr<const std::string*>();
    return key == nullptr ||
           (*key != "managedFields" &&
            *key != "kubectl.kubernetes.io/last-applied-configuration");
  };
  Json parsed = Json::parse(text.data(), text.data() + text.size(), keep,
                            /*allow_exceptions=*/false);
  if (too_deep) return Json(Json::value_t::discarded);
  return parsed;
}

const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

const Json* Find(const Json& object, const char* first, const char* second) {
  const Json* inner = Find(object, first);
  return inner == nullptr ? nullptr : Find(*inner, second);
}

std::string ReadString(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  if (value == nullptr || !value->is_string()) return "";
  return value->get_ref<const std::string&>();
}

int64_t ReadInt(const Json& object, const char* key, int64_t otherwise) {
  const Json* value = Find(object, key);
  if (value == nullptr || !value->is_number_integer()) return otherwise;
  if (value->is_number_unsigned() &&
      value->get<uint64_t>() > uint64_t{INT64_MAX}) {
    return otherwise;
  }
  return value->get<int64_t>();
}

bool ReadBool(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

absl::Time ReadTime(const Json& object, const char* key) {
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, ReadString(object, key), &time,
                       &error)) {
    return absl::InfinitePast();
  }
  // absl reads more than RFC 3339 has: infinities, and years beyond 9999.
  static const absl::Time first =
      absl::FromCivil(absl::CivilYear(1), absl::UTCTimeZone());
  static const absl::Time end =
      absl::FromCivil(absl::CivilYear(10000), absl::UTCTimeZone());
  return time < first || time >= end ? absl::InfinitePast() : time;
}

const Json& ReadArray(const Json& object, const char* key) {
  static const Json& empty = *new Json(Json::array());
  const Json* value = Find(object, key);
  return value == nullptr || !value->is_array() ? empty : *value;
}

std::string Dump(const Json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false,
                    Json::error_handler_t::replace);
}

}  // namespace espalier::kube
