// The objects of the Kubernetes API that Espalier reads and writes, as values:
// no more of each than is used, so that a thousand of them are small. Decoders
// are total. They ignore fields they do not know, and leave out a part that
// cannot be read, saying so in `problem`: what is left out errs towards ESP (a
// key, an address, a plaintext block less), and never hides that the object is
// there. Only what has no name is no object.
#ifndef ESPALIER_AGENT_KUBE_OBJECTS_H_
#define ESPALIER_AGENT_KUBE_OBJECTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/base/bytes.h"
#include "agent/base/ip_address.h"

namespace espalier::kube {

// Where objects live below the server's URL.
inline constexpr char kEspalierNodes[] =
    "/apis/espalier.dev/v1alpha1/espaliernodes";
inline constexpr char kEspalierNodeReports[] =
    "/apis/espalier.dev/v1alpha1/espaliernodereports";
inline constexpr char kNamespaces[] = "/api/v1/namespaces";
inline constexpr char kPods[] = "/api/v1/pods";
inline constexpr char kNodes[] = "/api/v1/nodes";

// COLLECTION/NAME, with what may not stand in a path escaped.
std::string ObjectPath(absl::string_view collection, absl::string_view name);
// COLLECTION/NAME/status
std::string StatusPath(absl::string_view collection, absl::string_view name);
// Collections of one namespace.
std::string PodsPath(absl::string_view name_space);
std::string EventsPath(absl::string_view name_space);
std::string LeasesPath(absl::string_view name_space);

struct OwnerReference {
  std::string api_version;
  std::string kind;
  std::string name;
  std::string uid;
  friend bool operator==(const OwnerReference&,
                         const OwnerReference&) = default;
};

struct ObjectMeta {
  std::string name;
  std::string name_space;  // empty: cluster-scoped
  std::string uid;
  std::string resource_version;
  int64_t generation = 0;
  // Of labels and annotations only those below "espalier.dev/" and, for static
  // pods, "kubernetes.io/config.hash": others may be as long as an object, and
  // nobody here reads them.
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> annotations;
  std::vector<OwnerReference> owner_references;
  absl::Time created = absl::InfinitePast();
  std::optional<absl::Time> deleted;  // deletionTimestamp

  // "NAMESPACE/NAME", or the name alone: unique among objects of a kind.
  std::string Key() const;
  friend bool operator==(const ObjectMeta&, const ObjectMeta&) = default;
};

// As of meta/v1. `status` is "True", "False" or "Unknown".
struct Condition {
  std::string type;
  std::string status;
  std::string reason;
  std::string message;
  absl::Time last_transition = absl::InfinitePast();
  int64_t observed_generation = 0;
  friend bool operator==(const Condition&, const Condition&) = default;
};

// The condition of that type, or null.
const Condition* FindCondition(const std::vector<Condition>& conditions,
                               absl::string_view type);

// What an agent publishes of its node.
struct EspalierNodeSpec {
  std::vector<base::Bytes> public_keys;  // DER SubjectPublicKeyInfo, 1 to 3
  std::string datapath;                  // "user" or "kernel"
  uint16_t ike_port = 500;
  uint16_t natt_port = 4500;
  std::vector<base::IpPrefix> plaintext_blocks;
  friend bool operator==(const EspalierNodeSpec&,
                         const EspalierNodeSpec&) = default;
};
// What the controller has verified of it.
struct EspalierNodeStatus {
  std::string node_uid;
  std::vector<base::IpAddress> addresses;
  std::vector<base::IpPrefix> pod_cidrs;
  std::vector<Condition> conditions;
  friend bool operator==(const EspalierNodeStatus&,
                         const EspalierNodeStatus&) = default;
};
struct EspalierNode {
  static constexpr char kKind[] = "EspalierNode";
  using Spec = EspalierNodeSpec;
  using Status = EspalierNodeStatus;
  ObjectMeta meta;
  Spec spec;
  // Absent until the controller has written it.
  std::optional<Status> status;
  std::string problem;
  friend bool operator==(const EspalierNode&, const EspalierNode&) = default;
};

// What people's tools read of one node.
struct EspalierNodeReportStatus {
  struct Tunnels {
    int64_t wanted = 0;
    int64_t up = 0;
    int64_t fallback = 0;
    friend bool operator==(const Tunnels&, const Tunnels&) = default;
  };
  struct Pods {
    int64_t required = 0;
    int64_t preferred = 0;
    int64_t disabled = 0;
    int64_t unprotected = 0;  // attached by another CNI plugin
    friend bool operator==(const Pods&, const Pods&) = default;
  };
  std::string agent_version;
  std::string datapath;
  std::vector<Condition> conditions;
  Tunnels tunnels;
  Pods pods;
  std::map<std::string, int64_t> drops;  // by reason or mode
  absl::Time last_report = absl::InfinitePast();
  friend bool operator==(const EspalierNodeReportStatus&,
                         const EspalierNodeReportStatus&) = default;
};
struct EspalierNodeReport {
  static constexpr char kKind[] = "EspalierNodeReport";
  using Status = EspalierNodeReportStatus;
  ObjectMeta meta;
  std::optional<Status> status;
  std::string problem;
  friend bool operator==(const EspalierNodeReport&,
                         const EspalierNodeReport&) = default;
};

// A namespace's metadata: lists and watches ask for PartialObjectMetadata.
struct NamespaceMeta {
  static constexpr char kKind[] = "Namespace";
  ObjectMeta meta;
  std::string problem;
  friend bool operator==(const NamespaceMeta&, const NamespaceMeta&) = default;
};

struct Pod {
  static constexpr char kKind[] = "Pod";
  ObjectMeta meta;
  std::string node_name;
  bool host_network = false;
  std::string phase;  // "Pending", "Running", ...
  std::vector<base::IpAddress> addresses;
  std::string problem;
  friend bool operator==(const Pod&, const Pod&) = default;
};

struct Node {
  static constexpr char kKind[] = "Node";
  ObjectMeta meta;
  std::vector<base::IpAddress> internal_addresses;
  std::vector<base::IpPrefix> pod_cidrs;
  bool ready = false;
  std::string problem;
  friend bool operator==(const Node&, const Node&) = default;
};

// coordination.k8s.io/v1
struct Lease {
  static constexpr char kKind[] = "Lease";
  ObjectMeta meta;
  std::string holder;  // empty: nobody
  int64_t duration_seconds = 0;
  absl::Time acquired = absl::InfinitePast();
  absl::Time renewed = absl::InfinitePast();
  int64_t transitions = 0;
  std::string problem;
  friend bool operator==(const Lease&, const Lease&) = default;
};

struct ObjectReference {
  std::string api_version;
  std::string kind;
  std::string name_space;
  std::string name;
  std::string uid;
  friend bool operator==(const ObjectReference&,
                         const ObjectReference&) = default;
};

// core/v1. Lives in the namespace of what it is about, in "default" for what
// has none.
struct Event {
  static constexpr char kKind[] = "Event";
  ObjectMeta meta;
  ObjectReference about;
  std::string type;  // "Normal" or "Warning"
  std::string reason;
  std::string message;
  std::string component;  // who says it: "espalier-agent"
  std::string host;
  absl::Time first = absl::InfinitePast();
  absl::Time last = absl::InfinitePast();
  int64_t count = 1;
  std::string problem;
  friend bool operator==(const Event&, const Event&) = default;
};

// Of the seven types above. An error tells what the text is not.
template <typename T>
absl::StatusOr<T> Decode(absl::string_view json);
// The items of a list, whatever page of it.
template <typename T>
struct Page {
  std::vector<T> items;
  std::string resource_version;
  std::string continue_token;  // empty: the last page
};
template <typename T>
absl::StatusOr<Page<T>> DecodePage(absl::string_view json);

// The whole object, as for Create and Update; what is empty is left out.
std::string Encode(const EspalierNode& node);
std::string Encode(const EspalierNodeReport& report);
std::string Encode(const NamespaceMeta& name_space);
std::string Encode(const Pod& pod);
std::string Encode(const Node& node);
std::string Encode(const Lease& lease);
std::string Encode(const Event& event);

// Bodies of server-side apply: each owns just the fields it names.
std::string EncodeSpec(const EspalierNode& node);            // by the agent
std::string EncodeAgentMetadata(const EspalierNodeReport&);  // by the agent
std::string EncodeStatus(const EspalierNode& node);  // by the controller
std::string EncodeStatus(const EspalierNodeReport& report);  // by the agent
// `kind` is EspalierNode::kKind or EspalierNodeReport::kKind.
std::string EncodeOwner(absl::string_view kind, absl::string_view name,
                        const OwnerReference& owner);

// What list and watch need to know of a type, without a template. `value` is
// a shared_ptr<const T> of the type that decoded it.
struct DecodedObject {
  std::string key;
  std::string uid;
  std::string resource_version;
  std::shared_ptr<const void> value;
};
struct ObjectType {
  const char* kind;
  bool metadata_only;
  absl::StatusOr<DecodedObject> (*decode)(const nlohmann::json& object);
};
template <typename T>
const ObjectType& TypeOf();

}  // namespace espalier::kube

#endif  // ESPALIER_AGENT_KUBE_OBJECTS_H_
