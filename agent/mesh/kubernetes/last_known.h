// What the API server said last, kept on disk, so that an agent that starts
// while the server is away goes on with its tunnels instead of waiting.
#ifndef ESPALIER_AGENT_MESH_KUBERNETES_LAST_KNOWN_H_
#define ESPALIER_AGENT_MESH_KUBERNETES_LAST_KNOWN_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/mesh/kubernetes/compose.h"
#include "agent/mesh/kubernetes/known_nodes.h"

namespace espalier::mesh {

struct LastKnown {
  KnownNodes::Nodes nodes;
  // Of pods that ran here then: a pod of another uid is asked for anew.
  Namespaces namespaces;
  Pods pods;
};

// Text: a line that says what it is, then a line of JSON for each object.
// ParseLastKnown is total; a file that is cut short or damaged is refused as a
// whole (DataLoss), since a lost namespace could weaken what is kept.
std::string FormatLastKnown(const LastKnown& known);
absl::StatusOr<LastKnown> ParseLastKnown(absl::string_view text);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_KUBERNETES_LAST_KNOWN_H_
