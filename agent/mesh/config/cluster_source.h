// Where the mesh comes from: the file itself, or the Kubernetes API server,
// which then has what the file may not.
#ifndef ESPALIER_AGENT_MESH_CONFIG_CLUSTER_SOURCE_H_
#define ESPALIER_AGENT_MESH_CONFIG_CLUSTER_SOURCE_H_

#include <string>

#include "agent/mesh/config/config.h"
#include "agent/mesh/config/reader.h"

namespace espalier::mesh {

// `cluster.source` and `kubernetes`; to be read before all else. With
// kubernetes, each field of the file that the API server answers for is an
// error, and node.name is `node_name` until the file says otherwise.
void ReadClusterSource(const MapReader& file, const std::string& node_name,
                       Config* config);

// The key that the agent makes for itself, once stateDirectory is known.
void SetOwnKey(Config* config);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_CLUSTER_SOURCE_H_
