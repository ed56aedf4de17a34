#include "agent/kubectl/command.h"

#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/kubectl/probe_ends.h"

namespace espalier::kubectl {

bool IsForSocket(const std::vector<std::string>& arguments) {
  bool names_cluster = getenv("KUBECONFIG") != nullptr;
  for (const std::string& argument : arguments) {
    if (argument == "--socket" || absl::StartsWith(argument, "--socket=")) {
      return true;
    }
    for (const char* flag : {"--context", "--kubeconfig"}) {
      names_cluster |= argument == flag ||
                       absl::StartsWith(argument, absl::StrCat(flag, "="));
    }
  }
  if (names_cluster) return false;
  if (getenv("ESPALIER_SOCKET") != nullptr) return true;
  const char* home = getenv("HOME");
  if (home != nullptr &&
      access(absl::StrCat(home, "/.kube/config").c_str(), F_OK) == 0) {
    return false;
  }
  return access(kDefaultSocket, F_OK) == 0;
}

int RunCommand(const std::vector<std::string>& arguments, std::ostream& out,
               std::ostream& err) {
  if (!arguments.empty() && arguments.front() == "probe") {
    return RunProbeEnd({arguments.begin() + 1, arguments.end()}, out, err);
  }
  return IsForSocket(arguments) ? RunOnSocket(arguments, out, err)
                                : RunOnCluster(arguments, out, err);
}

}  // namespace espalier::kubectl
