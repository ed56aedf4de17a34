// espalier-cni: what a container runtime starts for each operation on a pod's
// network. Stateless; the node's agent does the work.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "agent/base/run_directory.h"
#include "cni/network_config.h"
#include "cni/plugin.h"

namespace espalier::cni {
namespace {

absl::Status ReadInput(std::string* out) {
  char buffer[65536];
  while (out->size() <= kMaxConfigBytes) {
    const ssize_t n = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "read");
    if (n == 0) break;
    out->append(buffer, static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

bool WriteOutput(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n =
        write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

int Main() {
  const Surroundings surroundings = {
      .environment =
          [](const char* name) {
            const char* value = std::getenv(name);
            return std::string(value == nullptr ? "" : value);
          },
      .read_input = ReadInput,
      .connect =
          [](const std::string& run_directory) {
            return MakeAgentClient(
                base::RunDirectory(run_directory).CniSocket());
          },
      .files =
          [](const std::string& run_directory) {
            return std::make_unique<RunFiles>(run_directory);
          },
  };
  const Output output = Run(surroundings);
  if (!WriteOutput(output.standard_output)) {
    std::perror("espalier-cni: write to standard output");
    return 1;
  }
  return output.exit_code;
}

}  // namespace
}  // namespace espalier::cni

int main(int argc, char** argv) {
  if (argc > 1 || std::getenv("CNI_COMMAND") == nullptr) {
    std::fprintf(
        stderr,
        "%s: CNI plugin of Espalier, for CNI 0.3.1, 0.4.0, 1.0.0 and 1.1.0.\n"
        "A container runtime starts it, with CNI_COMMAND and more in the\n"
        "environment and a network configuration on standard input. By hand:\n"
        "  echo '{\"cniVersion\":\"1.1.0\"}' | CNI_COMMAND=VERSION %s\n",
        argv[0], argv[0]);
    if (argc > 1) return 2;
  }
  // Nothing is left to save: skipping destructors saves gRPC's shutdown.
  _exit(espalier::cni::Main());
}
