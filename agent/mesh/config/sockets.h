// Where the agent serves HTTP: `sockets` of the configuration.
#ifndef ESPALIER_AGENT_MESH_CONFIG_SOCKETS_H_
#define ESPALIER_AGENT_MESH_CONFIG_SOCKETS_H_

#include "agent/mesh/config/config.h"
#include "agent/mesh/config/reader.h"

namespace espalier::mesh {

// After `cluster.source`, on which depends what may be served to whom.
void ReadSockets(const YamlNode& node, ErrorList* errors, Config* out);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_SOCKETS_H_
