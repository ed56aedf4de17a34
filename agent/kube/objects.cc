#include "agent/kube/objects.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/kube/json.h"

namespace espalier::kube {
namespace {

// The most of each that one object may make us keep. The CRD's schema allows
// less; an object that another writer or version has made may not.
constexpr size_t kMostKeys = 3;
constexpr size_t kMostKeyOctets = 4096;
constexpr size_t kMostAddresses = 64;
constexpr size_t kMostPrefixes = 4096;
constexpr size_t kMostConditions = 32;
constexpr size_t kMostOwners = 16;
constexpr size_t kMostPairs = 64;
constexpr size_t kMostText = 1024;
constexpr size_t kMostProblem = 512;

constexpr char kOwn[] = "espalier.dev/";
// By it, and not by the mirror pod's uid, a runtime knows a static pod.
constexpr char kConfigHash[] = "kubernetes.io/config.hash";

void Complain(std::string* problem, absl::string_view what) {
  if (problem->size() >= kMostProblem) return;
  if (!problem->empty()) problem->append("; ");
  absl::StrAppend(problem, what.substr(0, kMostProblem));
}

std::string Text(const Json& object, const char* key) {
  std::string text = ReadString(object, key);
  if (text.size() > kMostText) text.resize(kMostText);
  return text;
}

std::map<std::string, std::string> OwnPairs(const Json* object) {
  std::map<std::string, std::string> pairs;
  if (object == nullptr || !object->is_object()) return pairs;
  for (const auto& [key, value] : object->items()) {
    if (!value.is_string()) continue;
    if (!absl::StartsWith(key, kOwn) && key != kConfigHash) continue;
    if (key.size() > kMostText || pairs.size() >= kMostPairs) continue;
    pairs[key] = value.get_ref<const std::string&>().substr(0, kMostText);
  }
  return pairs;
}

// False: without a name it is no object.
bool ReadMeta(const Json& object, ObjectMeta* meta) {
  const Json* json = Find(object, "metadata");
  if (json == nullptr) return false;
  meta->name = ReadString(*json, "name");
  // Longer is no name of the API; as a path or a key it would only do harm.
  if (meta->name.empty() || meta->name.size() > 253) return false;
  meta->name_space = Text(*json, "namespace");
  meta->uid = Text(*json, "uid");
  meta->resource_version = Text(*json, "resourceVersion");
  meta->generation = ReadInt(*json, "generation");
  meta->labels = OwnPairs(Find(*json, "labels"));
  meta->annotations = OwnPairs(Find(*json, "annotations"));
  for (const Json& owner : ReadArray(*json, "ownerReferences")) {
    if (meta->owner_references.size() >= kMostOwners) break;
    meta->owner_references.push_back({.api_version = Text(owner, "apiVersion"),
                                      .kind = Text(owner, "kind"),
                                      .name = Text(owner, "name"),
                                      .uid = Text(owner, "uid")});
  }
  meta->created = ReadTime(*json, "creationTimestamp");
  if (Find(*json, "deletionTimestamp") != nullptr) {
    // Present but unreadable still says that the object is going.
    meta->deleted = ReadTime(*json, "deletionTimestamp");
  }
  return true;
}

std::vector<Condition> ReadConditions(const Json& object) {
  std::vector<Condition> conditions;
  for (const Json& json : ReadArray(object, "conditions")) {
    if (conditions.size() >= kMostConditions) break;
    Condition condition{
        .type = Text(json, "type"),
        .status = Text(json, "status"),
        .reason = Text(json, "reason"),
        .message = Text(json, "message"),
        .last_transition = ReadTime(json, "lastTransitionTime"),
        .observed_generation = ReadInt(json, "observedGeneration")};
    if (!condition.type.empty()) conditions.push_back(std::move(condition));
  }
  return conditions;
}

// Strings of an array through `parse`; what it refuses is left out.
template <typename T>
std::vector<T> ReadParsed(const Json& object, const char* key, size_t most,
                          absl::StatusOr<T> (*parse)(const std::string&),
                          std::string* problem) {
  std::vector<T> values;
  for (const Json& json : ReadArray(object, key)) {
    if (values.size() >= most) {
      Complain(problem, absl::StrCat(key, ": only the first ", most, " count"));
      break;
    }
    const std::string* text = json.get_ptr<const std::string*>();
    absl::StatusOr<T> value =
        text == nullptr     ? absl::InvalidArgumentError("not a string")
        : text->size() > 64 ? absl::InvalidArgumentError("too long")
                            : parse(*text);
    if (value.ok()) {
      values.push_back(*std::move(value));
    } else {
      Complain(problem,
               absl::StrCat(key, ": left out: ", value.status().message()));
    }
  }
  return values;
}

std::vector<base::IpAddress> ReadAddresses(const Json& object, const char* key,
                                           std::string* problem) {
  return ReadParsed<base::IpAddress>(object, key, kMostAddresses,
                                     &base::IpAddress::Parse, problem);
}

std::vector<base::IpPrefix> ReadPrefixes(const Json& object, const char* key,
                                         std::string* problem) {
  return ReadParsed<base::IpPrefix>(object, key, kMostPrefixes,
                                    &base::IpPrefix::Parse, problem);
}

uint16_t ReadPort(const Json* ports, const char* key, uint16_t otherwise,
                  std::string* problem) {
  if (ports == nullptr || Find(*ports, key) == nullptr) return otherwise;
  const int64_t port = ReadInt(*ports, key);
  if (port < 1 || port > 65535) {
    Complain(problem, absl::StrCat("ports.", key, " is no port; ", otherwise,
                                   " is taken"));
    return otherwise;
  }
  return static_cast<uint16_t>(port);
}

std::vector<base::Bytes> ReadKeys(const Json& spec, std::string* problem) {
  std::vector<base::Bytes> keys;
  for (const Json& json : ReadArray(spec, "publicKeys")) {
    if (keys.size() >= kMostKeys) {
      Complain(problem, "publicKeys: only the first 3 count");
      break;
    }
    const std::string* text = json.get_ptr<const std::string*>();
    std::string der;
    if (text == nullptr || text->size() > 2 * kMostKeyOctets ||
        !absl::Base64Unescape(*text, &der) || der.empty()) {
      Complain(problem, "publicKeys: one is not base64 and is left out");
      continue;
    }
    keys.emplace_back(der.begin(), der.end());
  }
  return keys;
}

absl::Status Fill(const Json& json, EspalierNode* node) {
  if (const Json* spec = Find(json, "spec")) {
    node->spec.public_keys = ReadKeys(*spec, &node->problem);
    node->spec.datapath = Text(*spec, "datapath");
    const Json* ports = Find(*spec, "ports");
    node->spec.ike_port = ReadPort(ports, "ike", 500, &node->problem);
    node->spec.natt_port = ReadPort(ports, "natt", 4500, &node->problem);
    node->spec.plaintext_blocks =
        ReadPrefixes(*spec, "plaintextBlocks", &node->problem);
  }
  const Json* status = Find(json, "status");
  if (status != nullptr && status->is_object()) {
    node->status = EspalierNode::Status{
        .node_uid = Text(*status, "nodeUID"),
        .addresses = ReadAddresses(*status, "addresses", &node->problem),
        .pod_cidrs = ReadPrefixes(*status, "podCIDRs", &node->problem),
        .conditions = ReadConditions(*status)};
  }
  return absl::OkStatus();
}

absl::Status Fill(const Json& json, EspalierNodeReport* report) {
  const Json* status = Find(json, "status");
  if (status == nullptr || !status->is_object()) return absl::OkStatus();
  EspalierNodeReport::Status& out = report->status.emplace();
  out.agent_version = Text(*status, "agentVersion");
  out.datapath = Text(*status, "datapath");
  out.conditions = ReadConditions(*status);
  if (const Json* tunnels = Find(*status, "tunnels")) {
    out.tunnels = {.wanted = ReadInt(*tunnels, "wanted"),
                   .up = ReadInt(*tunnels, "up"),
                   .fallback = ReadInt(*tunnels, "fallback")};
  }
  if (const Json* pods = Find(*status, "pods")) {
    out.pods = {.required = ReadInt(*pods, "required"),
                .preferred = ReadInt(*pods, "preferred"),
                .disabled = ReadInt(*pods, "disabled"),
                .unprotected = ReadInt(*pods, "unprotected")};
  }
  const Json* drops = Find(*status, "drops");
  if (drops != nullptr && drops->is_object()) {
    for (const auto& [key, value] : drops->items()) {
      if (out.drops.size() >= kMostPairs || key.size() > kMostText) continue;
      out.drops[key] = ReadInt(*drops, key.c_str());
    }
  }
  out.last_report = ReadTime(*status, "lastReport");
  return absl::OkStatus();
}

absl::Status Fill(const Json&, NamespaceMeta*) { return absl::OkStatus(); }

absl::Status Fill(const Json& json, Pod* pod) {
  if (const Json* spec = Find(json, "spec")) {
    pod->node_name = Text(*spec, "nodeName");
    pod->host_network = ReadBool(*spec, "hostNetwork");
  }
  if (const Json* status = Find(json, "status")) {
    pod->phase = Text(*status, "phase");
    for (const Json& ip : ReadArray(*status, "podIPs")) {
      if (pod->addresses.size() >= kMostAddresses) break;
      absl::StatusOr<base::IpAddress> address =
          base::IpAddress::Parse(Text(ip, "ip"));
      if (address.ok()) {
        pod->addresses.push_back(*address);
      } else {
        Complain(&pod->problem, absl::StrCat("podIPs: left out: ",
                                             address.status().message()));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Fill(const Json& json, Node* node) {
  if (const Json* spec = Find(json, "spec")) {
    node->pod_cidrs = ReadPrefixes(*spec, "podCIDRs", &node->problem);
  }
  const Json* status = Find(json, "status");
  if (status == nullptr) return absl::OkStatus();
  for (const Json& entry : ReadArray(*status, "addresses")) {
    if (ReadString(entry, "type") != "InternalIP") continue;
    if (node->internal_addresses.size() >= kMostAddresses) break;
    absl::StatusOr<base::IpAddress> address =
        base::IpAddress::Parse(Text(entry, "address"));
    if (address.ok()) {
      node->internal_addresses.push_back(*address);
    } else {
      Complain(&node->problem, absl::StrCat("InternalIP left out: ",
                                            address.status().message()));
    }
  }
  for (const Json& condition : ReadArray(*status, "conditions")) {
    if (ReadString(condition, "type") == "Ready") {
      node->ready = ReadString(condition, "status") == "True";
    }
  }
  return absl::OkStatus();
}

absl::Status Fill(const Json& json, Lease* lease) {
  if (const Json* spec = Find(json, "spec")) {
    lease->holder = Text(*spec, "holderIdentity");
    lease->duration_seconds = ReadInt(*spec, "leaseDurationSeconds");
    lease->acquired = ReadTime(*spec, "acquireTime");
    lease->renewed = ReadTime(*spec, "renewTime");
    lease->transitions = ReadInt(*spec, "leaseTransitions");
  }
  return absl::OkStatus();
}

absl::Status Fill(const Json& json, Event* event) {
  if (const Json* about = Find(json, "involvedObject")) {
    event->about = {.api_version = Text(*about, "apiVersion"),
                    .kind = Text(*about, "kind"),
                    .name_space = Text(*about, "namespace"),
                    .name = Text(*about, "name"),
                    .uid = Text(*about, "uid")};
  }
  event->type = Text(json, "type");
  event->reason = Text(json, "reason");
  event->message = Text(json, "message");
  if (const Json* source = Find(json, "source")) {
    event->component = Text(*source, "component");
    event->host = Text(*source, "host");
  }
  event->first = ReadTime(json, "firstTimestamp");
  event->last = ReadTime(json, "lastTimestamp");
  event->count = ReadInt(json, "count", 1);
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<T> FromJson(const Json& json) {
  T object;
  if (!ReadMeta(json, &object.meta)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the API server's answer is not a ", T::kKind, ": it has no name"));
  }
  absl::Status filled = Fill(json, &object);
  if (!filled.ok()) return filled;
  return object;
}

template <typename T>
absl::StatusOr<DecodedObject> DecodeAny(const Json& json) {
  absl::StatusOr<T> object = FromJson<T>(json);
  if (!object.ok()) return object.status();
  auto value = std::make_shared<const T>(*std::move(object));
  DecodedObject decoded{.key = value->meta.Key(),
                        .uid = value->meta.uid,
                        .resource_version = value->meta.resource_version};
  decoded.value = std::move(value);
  return decoded;
}

}  // namespace

std::string ObjectMeta::Key() const {
  return name_space.empty() ? name : absl::StrCat(name_space, "/", name);
}

const Condition* FindCondition(const std::vector<Condition>& conditions,
                               absl::string_view type) {
  const auto found =
      std::find_if(conditions.begin(), conditions.end(),
                   [type](const Condition& c) { return c.type == type; });
  return found == conditions.end() ? nullptr : &*found;
}

template <typename T>
absl::StatusOr<T> Decode(absl::string_view json) {
  const Json parsed = ParseJson(json);
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the API server's answer is not a ", T::kKind,
                     ": it is no JSON object"));
  }
  return FromJson<T>(parsed);
}

template <typename T>
absl::StatusOr<Page<T>> DecodePage(absl::string_view json) {
  const Json parsed = ParseJson(json);
  const Json* meta = Find(parsed, "metadata");
  const Json* items = Find(parsed, "items");
  // Go's API gives null for no items at all.
  if (meta == nullptr ||
      (items != nullptr && !items->is_array() && !items->is_null())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the API server's answer is not a list of ", T::kKind, "s"));
  }
  Page<T> page{.resource_version = ReadString(*meta, "resourceVersion"),
               .continue_token = ReadString(*meta, "continue")};
  for (const Json& item : ReadArray(parsed, "items")) {
    absl::StatusOr<T> object = FromJson<T>(item);
    if (!object.ok()) return object.status();
    page.items.push_back(*std::move(object));
  }
  return page;
}

template <typename T>
const ObjectType& TypeOf() {
  static const ObjectType type{
      .kind = T::kKind,
      .metadata_only = std::is_same_v<T, NamespaceMeta>,
      .decode = &DecodeAny<T>};
  return type;
}

#define ESPALIER_KUBE_TYPE(T)                                        \
  template absl::StatusOr<T> Decode<T>(absl::string_view);           \
  template absl::StatusOr<Page<T>> DecodePage<T>(absl::string_view); \
  template const ObjectType& TypeOf<T>();
ESPALIER_KUBE_TYPE(EspalierNode)
ESPALIER_KUBE_TYPE(EspalierNodeReport)
ESPALIER_KUBE_TYPE(NamespaceMeta)
ESPALIER_KUBE_TYPE(Pod)
ESPALIER_KUBE_TYPE(Node)
ESPALIER_KUBE_TYPE(Lease)
ESPALIER_KUBE_TYPE(Event)
#undef ESPALIER_KUBE_TYPE

}  // namespace espalier::kube
