// One run of the plugin, without the process around it.
#ifndef ESPALIER_CNI_PLUGIN_H_
#define ESPALIER_CNI_PLUGIN_H_

#include <functional>
#include <memory>
#include <string>

#include "cni/agent_client.h"
#include "cni/invocation.h"
#include "cni/run_files.h"

namespace espalier::cni {

struct Output {
  int exit_code = 0;
  std::string standard_output;
};

// What a run touches. The two makers get the configured run directory and are
// called only by commands that need them.
struct Surroundings {
  Environment environment;
  // All of standard input.
  std::function<absl::Status(std::string*)> read_input;
  std::function<std::unique_ptr<AgentClient>(const std::string& run_directory)>
      connect;
  std::function<std::unique_ptr<RunFiles>(const std::string& run_directory)>
      files;
};

// Never fails otherwise than by an error result with exit code 1.
Output Run(const Surroundings& surroundings);

}  // namespace espalier::cni

#endif  // ESPALIER_CNI_PLUGIN_H_
