// The part of the file that says what pods' traffic may do.
#ifndef ESPALIER_AGENT_MESH_CONFIG_MODES_H_
#define ESPALIER_AGENT_MESH_CONFIG_MODES_H_

#include "agent/mesh/config/config.h"
#include "agent/mesh/config/reader.h"

namespace espalier::mesh {

// `modes`. An unknown word counts as the strongest and is noted in
// config->warnings, so that a slip of the pen never weakens a running node by
// having the whole file refused. Reads config->plaintext_path: `disabled`
// without a path for it is an error.
void ReadModes(const YamlNode& node, ErrorList* errors, const std::string& file,
               Config* config);

void ReadGuard(const YamlNode& node, ErrorList* errors, Config* config);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CONFIG_MODES_H_
