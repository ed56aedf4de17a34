// What a peer's SAs are beyond ESP tunnels: AH (RFC 4302), transport mode
// (RFC 4301 4.1). Only for peers of the file, and only in the kernel datapath.
#ifndef ESPALIER_AGENT_MESH_CONFIG_TUNNEL_KINDS_H_
#define ESPALIER_AGENT_MESH_CONFIG_TUNNEL_KINDS_H_

#include <vector>

#include "agent/mesh/config/config.h"
#include "agent/mesh/config/reader.h"

namespace espalier::mesh {

// `peers[].mode`.
void ReadTunnelKind(const MapReader& map, Peer* peer);

// AH is something that one peer asks for: never the file's default, which the
// mesh's own peers have.
void RefuseAh(const MapReader& file,
              const std::vector<ike::ChildProposal>& proposals);

// What goes with what; after the whole file is read.
void CheckTunnelKinds(const Config& config, ErrorList* errors);
// The same of encryptNodeTraffic, which stands at `at`.
void CheckNodeTraffic(const Config& config, const YamlNode& at,
                      ErrorList* errors);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_TUNNEL_KINDS_H_
