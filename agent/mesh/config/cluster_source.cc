#include "agent/mesh/config/cluster_source.h"

#include "absl/strings/str_cat.h"

namespace espalier::mesh {
namespace {

struct Foreign {
  const char* parent;  // "": the file itself
  const char* key;
  const char* instead;
};

// One source for each value: a second, in a file, would be believed by this
// node alone.
constexpr Foreign kForeign[] = {
    {"node", "addresses", "its EspalierNode's status has them"},
    {"node", "podCIDRs", "its EspalierNode's status has them"},
    {"node", "identity", "a node is known by its name"},
    {"modes", "namespaces", "namespaces are annotated"},
    {"modes", "pods", "pods are annotated"},
    {"", "peers", "each node's EspalierNode has it"},
    {"", "auth", "the agent makes its own key in stateDirectory"},
};

const YamlNode* EntryOf(const YamlNode& map, const std::string& key) {
  if (map.kind != YamlNode::Kind::kMap) return nullptr;
  for (const YamlEntry& entry : map.entries) {
    if (entry.key.scalar == key) return &entry.value;
  }
  return nullptr;
}

}  // namespace

void ReadClusterSource(const MapReader& file, const std::string& node_name,
                       Config* config) {
  if (const YamlNode* node = EntryOf(file.node(), "cluster");
      node != nullptr && EntryOf(*node, "source") != nullptr) {
    // Its own list: `cluster` is read in full, with its errors, later.
    ErrorList elsewhere("");
    const MapReader cluster("cluster", *node, &elsewhere);
    std::string source;
    if (cluster.OneOf("source", {"file", "kubernetes"}, &source) &&
        source == "kubernetes") {
      config->source = ClusterSource::kKubernetes;
    }
  }
  const YamlNode* options = file.Get("kubernetes");
  if (options != nullptr) {
    const MapReader map("kubernetes", *options, file.errors());
    map.Text("kubeconfig", "the path of a file", &config->kubeconfig);
  }
  if (config->source == ClusterSource::kFile) {
    if (options != nullptr) {
      file.errors()->Add(*options,
                         "kubernetes is there, but cluster.source is 'file': "
                         "expected cluster.source: kubernetes with it");
    }
    return;
  }
  config->node.name = node_name;
  for (const Foreign& field : kForeign) {
    const YamlNode* map = *field.parent == '\0'
                              ? &file.node()
                              : EntryOf(file.node(), field.parent);
    const YamlNode* value = map == nullptr ? nullptr : EntryOf(*map, field.key);
    if (value == nullptr) continue;
    file.errors()->Add(
        *value,
        absl::StrCat(field.parent, *field.parent == '\0' ? "" : ".", field.key,
                     " is not for cluster.source: kubernetes: ", field.instead,
                     "; remove it here"));
  }
}

void SetOwnKey(Config* config) {
  config->private_key =
      PrivateKeySource{{absl::StrCat(config->state_directory, "/node.key")},
                       /*generate=*/true};
}

}  // namespace espalier::mesh
