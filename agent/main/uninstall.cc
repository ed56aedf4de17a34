#include "agent/main/uninstall.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace espalier::agent {
namespace {

constexpr size_t kNamedPods = 20;

using Removal = absl::StatusOr<std::string> (InstalledNode::*)();

// What its failure means for the steps after it.
enum class Need : uint8_t {
  kFirst,  // nothing goes before it: they are left out
  kAny,    // they are made all the same
  kLast,   // itself only when all before it succeeded
};

struct Step {
  const char* what;
  Removal remove;
  Need need;
};

// New pods are not attached any more, then nothing leads anywhere any more, and
// only then do the guards go. The state is what a second run knows pods by.
constexpr Step kSteps[] = {
    {"CNI plugin", &InstalledNode::RemoveCniPlugin, Need::kFirst},
    {"pods' interfaces", &InstalledNode::RemovePodInterfaces, Need::kAny},
    {"SAs and policies", &InstalledNode::RemoveTunnels, Need::kAny},
    {"tunnel's interface", &InstalledNode::RemoveTunnelInterface, Need::kAny},
    {"routes and rules", &InstalledNode::RemoveRoutes, Need::kAny},
    {"masquerading", &InstalledNode::RemoveMasquerading, Need::kAny},
    {"nftables guard", &InstalledNode::RemoveNftablesGuard, Need::kLast},
    {"eBPF guard", &InstalledNode::RemoveBpfGuard, Need::kLast},
    {"state", &InstalledNode::RemoveState, Need::kLast},
};

std::string NamesOf(std::vector<std::string> pods) {
  std::ranges::sort(pods);
  const size_t more = pods.size() - std::min(pods.size(), kNamedPods);
  pods.resize(pods.size() - more);
  return absl::StrCat(absl::StrJoin(pods, ", "),
                      more > 0 ? absl::StrCat(" and ", more, " more") : "");
}

// Whether every step was made and succeeded.
bool RunSteps(InstalledNode* node, std::ostream& out) {
  bool all = true;
  for (const Step& step : kSteps) {
    out << step.what << ": ";
    if (!all && step.need == Need::kLast) {
      out << "left as it is, because not all before it is gone\n";
      continue;
    }
    const absl::StatusOr<std::string> removed = (node->*step.remove)();
    if (removed.ok()) {
      out << (removed->empty() ? "nothing there" : *removed) << "\n";
    } else {
      out << "FAILED: " << removed.status().message() << "\n";
      all = false;
      if (step.need == Need::kFirst) break;
    }
    out.flush();
  }
  return all;
}

}  // namespace

UninstallResult Uninstall(InstalledNode* node, bool force, std::ostream& out) {
  if (const absl::Status stopped = node->CheckStopped(); !stopped.ok()) {
    out << "refused: " << stopped.message() << "\n";
    return UninstallResult::kRefused;
  }
  const absl::StatusOr<std::vector<std::string>> pods = node->AttachedPods();
  if (!pods.ok() && !force) {
    out << "refused: whether pods are attached is not known: "
        << pods.status().message() << "; --force goes on all the same\n";
    return UninstallResult::kRefused;
  }
  if (pods.ok() && !pods->empty()) {
    if (!force) {
      out << "refused: " << pods->size()
          << " pods have their network from Espalier: " << NamesOf(*pods)
          << "; delete them first, or take their network away with --force\n";
      return UninstallResult::kPodsAttached;
    }
    out << "forced: " << pods->size()
        << " pods lose their network and have to be made anew: "
        << NamesOf(*pods) << "\n";
  }
  return RunSteps(node, out) ? UninstallResult::kDone
                             : UninstallResult::kIncomplete;
}

}  // namespace espalier::agent
