// What espd gives up once its devices and sockets are open.
#ifndef ESPALIER_AGENT_ESP_PRIVILEGES_H_
#define ESPALIER_AGENT_ESP_PRIVILEGES_H_

#include "absl/status/status.h"

namespace espalier::esp {

// No core dumps, no ptrace by others, memory not swapped (best effort: keys
// are in it). Before any key is taken.
absl::Status ProtectMemory();

// All capabilities, for good: what is open stays usable without them.
absl::Status DropPrivileges();

}  // namespace espalier::esp

#endif  // ESPALIER_AGENT_ESP_PRIVILEGES_H_
