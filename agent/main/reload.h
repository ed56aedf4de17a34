// What a running agent can take from a new configuration.
#ifndef ESPALIER_AGENT_MAIN_RELOAD_H_
#define ESPALIER_AGENT_MAIN_RELOAD_H_

#include <string>
#include <vector>

#include "agent/mesh/config/config.h"

namespace espalier::agent {

// The fields that differ and are read at the start only, by their names in the
// file.
std::vector<std::string> StartOnlyChanges(const mesh::Config& running,
                                          const mesh::Config& wanted);

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_RELOAD_H_
