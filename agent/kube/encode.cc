#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "agent/kube/json.h"
#include "agent/kube/objects.h"

namespace espalier::kube {
namespace {

constexpr char kGroupVersion[] = "espalier.dev/v1alpha1";

// metav1.Time has whole seconds, metav1.MicroTime always six more digits;
// the API server refuses the one for the other.
std::string Seconds(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d%ET%H:%M:%SZ", time, absl::UTCTimeZone());
}
std::string Micros(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", time, absl::UTCTimeZone());
}

void SetText(Json* json, const char* key, const std::string& text) {
  if (!text.empty()) (*json)[key] = text;
}

void SetTime(Json* json, const char* key, absl::Time time) {
  if (time != absl::InfinitePast()) (*json)[key] = Seconds(time);
}

Json ToJson(const OwnerReference& owner) {
  return {{"apiVersion", owner.api_version},
          {"kind", owner.kind},
          {"name", owner.name},
          {"uid", owner.uid}};
}

Json ToJson(const ObjectMeta& meta) {
  Json json = {{"name", meta.name}};
  SetText(&json, "namespace", meta.name_space);
  SetText(&json, "uid", meta.uid);
  SetText(&json, "resourceVersion", meta.resource_version);
  if (meta.generation != 0) json["generation"] = meta.generation;
  if (!meta.labels.empty()) json["labels"] = meta.labels;
  if (!meta.annotations.empty()) json["annotations"] = meta.annotations;
  for (const OwnerReference& owner : meta.owner_references) {
    json["ownerReferences"].push_back(ToJson(owner));
  }
  SetTime(&json, "creationTimestamp", meta.created);
  if (meta.deleted.has_value()) {
    SetTime(&json, "deletionTimestamp", *meta.deleted);
  }
  return json;
}

Json ToJson(const std::vector<Condition>& conditions) {
  Json list = Json::array();
  for (const Condition& condition : conditions) {
    Json json = {{"type", condition.type},
                 {"status", condition.status},
                 {"reason", condition.reason},
                 {"message", condition.message}};
    SetTime(&json, "lastTransitionTime", condition.last_transition);
    if (condition.observed_generation != 0) {
      json["observedGeneration"] = condition.observed_generation;
    }
    list.push_back(std::move(json));
  }
  return list;
}

template <typename T>
Json Texts(const std::vector<T>& values) {
  Json list = Json::array();
  for (const T& value : values) list.push_back(value.ToString());
  return list;
}

// What all bodies begin with.
Json Head(const char* api_version, absl::string_view kind) {
  return {{"apiVersion", api_version}, {"kind", std::string(kind)}};
}

Json ApplyHead(absl::string_view kind, absl::string_view name) {
  Json json = Head(kGroupVersion, kind);
  json["metadata"] = {{"name", std::string(name)}};
  return json;
}

Json ToJson(const EspalierNode::Spec& spec) {
  Json json = {{"publicKeys", Json::array()},
               {"ports", {{"ike", spec.ike_port}, {"natt", spec.natt_port}}},
               {"plaintextBlocks", Texts(spec.plaintext_blocks)}};
  for (const base::Bytes& key : spec.public_keys) {
    json["publicKeys"].push_back(absl::Base64Escape(absl::string_view(
        reinterpret_cast<const char*>(key.data()), key.size())));
  }
  SetText(&json, "datapath", spec.datapath);
  return json;
}

Json ToJson(const EspalierNode::Status& status) {
  Json json = {{"addresses", Texts(status.addresses)},
               {"podCIDRs", Texts(status.pod_cidrs)},
               {"conditions", ToJson(status.conditions)}};
  SetText(&json, "nodeUID", status.node_uid);
  return json;
}

Json ToJson(const EspalierNodeReport::Status& status) {
  Json json = {
      {"conditions", ToJson(status.conditions)},
      {"tunnels",
       {{"wanted", status.tunnels.wanted},
        {"up", status.tunnels.up},
        {"fallback", status.tunnels.fallback}}},
      {"pods",
       {{"required", status.pods.required},
        {"preferred", status.pods.preferred},
        {"disabled", status.pods.disabled},
        {"unprotected", status.pods.unprotected}}},
      {"drops", status.drops.empty() ? Json::object() : Json(status.drops)}};
  SetText(&json, "agentVersion", status.agent_version);
  SetText(&json, "datapath", status.datapath);
  SetTime(&json, "lastReport", status.last_report);
  return json;
}

}  // namespace

std::string Encode(const EspalierNode& node) {
  Json json = Head(kGroupVersion, EspalierNode::kKind);
  json["metadata"] = ToJson(node.meta);
  json["spec"] = ToJson(node.spec);
  if (node.status.has_value()) json["status"] = ToJson(*node.status);
  return Dump(json);
}

std::string Encode(const EspalierNodeReport& report) {
  Json json = Head(kGroupVersion, EspalierNodeReport::kKind);
  json["metadata"] = ToJson(report.meta);
  if (report.status.has_value()) json["status"] = ToJson(*report.status);
  return Dump(json);
}

std::string Encode(const NamespaceMeta& name_space) {
  Json json = Head("v1", NamespaceMeta::kKind);
  json["metadata"] = ToJson(name_space.meta);
  return Dump(json);
}

std::string Encode(const Pod& pod) {
  Json json = Head("v1", Pod::kKind);
  json["metadata"] = ToJson(pod.meta);
  json["spec"] = Json::object();
  SetText(&json["spec"], "nodeName", pod.node_name);
  if (pod.host_network) json["spec"]["hostNetwork"] = true;
  json["status"] = Json::object();
  SetText(&json["status"], "phase", pod.phase);
  for (const base::IpAddress& address : pod.addresses) {
    json["status"]["podIPs"].push_back({{"ip", address.ToString()}});
  }
  return Dump(json);
}

std::string Encode(const Node& node) {
  Json json = Head("v1", Node::kKind);
  json["metadata"] = ToJson(node.meta);
  json["spec"] = Json::object();
  if (!node.pod_cidrs.empty()) {
    json["spec"]["podCIDR"] = node.pod_cidrs.front().ToString();
    json["spec"]["podCIDRs"] = Texts(node.pod_cidrs);
  }
  json["status"] = Json::object();
  for (const base::IpAddress& address : node.internal_addresses) {
    json["status"]["addresses"].push_back(
        {{"type", "InternalIP"}, {"address", address.ToString()}});
  }
  json["status"]["conditions"].push_back(
      {{"type", "Ready"}, {"status", node.ready ? "True" : "False"}});
  return Dump(json);
}

std::string Encode(const Lease& lease) {
  Json json = Head("coordination.k8s.io/v1", Lease::kKind);
  json["metadata"] = ToJson(lease.meta);
  Json& spec = json["spec"] = Json::object();
  SetText(&spec, "holderIdentity", lease.holder);
  if (lease.duration_seconds > 0) {
    spec["leaseDurationSeconds"] = lease.duration_seconds;
  }
  if (lease.acquired != absl::InfinitePast()) {
    spec["acquireTime"] = Micros(lease.acquired);
  }
  if (lease.renewed != absl::InfinitePast()) {
    spec["renewTime"] = Micros(lease.renewed);
  }
  spec["leaseTransitions"] = lease.transitions;
  return Dump(json);
}

std::string Encode(const Event& event) {
  Json json = Head("v1", Event::kKind);
  json["metadata"] = ToJson(event.meta);
  Json& about = json["involvedObject"] = Json::object();
  SetText(&about, "apiVersion", event.about.api_version);
  SetText(&about, "kind", event.about.kind);
  SetText(&about, "namespace", event.about.name_space);
  SetText(&about, "name", event.about.name);
  SetText(&about, "uid", event.about.uid);
  SetText(&json, "type", event.type);
  SetText(&json, "reason", event.reason);
  SetText(&json, "message", event.message);
  Json& source = json["source"] = Json::object();
  SetText(&source, "component", event.component);
  SetText(&source, "host", event.host);
  SetTime(&json, "firstTimestamp", event.first);
  SetTime(&json, "lastTimestamp", event.last);
  json["count"] = event.count;
  return Dump(json);
}

std::string EncodeSpec(const EspalierNode& node) {
  Json json = ApplyHead(EspalierNode::kKind, node.meta.name);
  json["spec"] = ToJson(node.spec);
  return Dump(json);
}

std::string EncodeAgentMetadata(const EspalierNodeReport& report) {
  return Dump(ApplyHead(EspalierNodeReport::kKind, report.meta.name));
}

std::string EncodeStatus(const EspalierNode& node) {
  Json json = ApplyHead(EspalierNode::kKind, node.meta.name);
  // With them, the server refuses (409) what was made from stale knowledge or
  // for another object of that name.
  SetText(&json["metadata"], "uid", node.meta.uid);
  SetText(&json["metadata"], "resourceVersion", node.meta.resource_version);
  json["status"] = ToJson(node.status.value_or(EspalierNode::Status{}));
  return Dump(json);
}

std::string EncodeStatus(const EspalierNodeReport& report) {
  Json json = ApplyHead(EspalierNodeReport::kKind, report.meta.name);
  json["status"] = ToJson(report.status.value_or(EspalierNodeReport::Status{}));
  return Dump(json);
}

std::string EncodeOwner(absl::string_view kind, absl::string_view name,
                        const OwnerReference& owner) {
  Json json = ApplyHead(kind, name);
  json["metadata"]["ownerReferences"] = Json::array({ToJson(owner)});
  return Dump(json);
}

}  // namespace espalier::kube
