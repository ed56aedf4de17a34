// From the objects of the API server to what a file would have said: pure
// functions over a snapshot.
#ifndef ESPALIER_AGENT_MESH_KUBERNETES_COMPOSE_H_
#define ESPALIER_AGENT_MESH_KUBERNETES_COMPOSE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/pod_modes.h"
#include "agent/kube/objects.h"
#include "agent/mesh/config/config.h"
#include "agent/mesh/kubernetes/known_nodes.h"

namespace espalier::mesh {

inline constexpr char kEncryptionAnnotation[] = "espalier.dev/encryption";
inline constexpr char kOutsideAnnotation[] = "espalier.dev/outside";
inline constexpr char kOutsideInAnnotation[] = "espalier.dev/outside-in";
inline constexpr char kRotateAnnotation[] = "espalier.dev/rotate";

using Namespaces =
    std::map<std::string, std::shared_ptr<const kube::NamespaceMeta>>;
using Pods = std::map<std::string, std::shared_ptr<const kube::Pod>>;

// This node's addresses and pod CIDRs, as its EspalierNode's status has them,
// into config->node. FailedPrecondition says what is missing, and of whom.
absl::Status FillNode(const kube::EspalierNode* own, Config* config);

// All other nodes into config->peers. What of a node cannot be believed or
// used is left out, which errs towards ESP: one line each in the answer.
std::vector<std::string> FillPeers(const KnownNodes::Nodes& nodes,
                                   Config* config);

// What annotations ask for. A word that nobody knows is the strongest.
// `plaintext` is false where there is no way for it.
base::PodWish WishOf(const kube::ObjectMeta& meta, bool plaintext);
// As CNI_ARGS' K8S_POD_UID has it: a static pod goes by its own, not by that
// of its mirror at the API server.
std::string PodUid(const kube::Pod& pod);
base::PodModes ModesOf(const Config& config, const Namespaces& namespaces,
                       const Pods& pods);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_KUBERNETES_COMPOSE_H_
