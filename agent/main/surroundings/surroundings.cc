#include "agent/main/surroundings/surroundings.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"

namespace espalier::agent {
namespace {

using Support = KubeProxyVerdict::Support;

constexpr size_t kMostNames = 10;
constexpr char kTrue[] = "True";
constexpr char kFalse[] = "False";

std::string Bounded(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMostNames); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", names[i]);
  }
  if (names.size() > kMostNames) {
    absl::StrAppend(&text, " and ", names.size() - kMostNames, " more");
  }
  return text;
}

kube::Condition Met(const char* type) {
  return {.type = type, .status = kTrue, .reason = "AsExpected"};
}

kube::Condition NotMet(const char* type, const char* reason,
                       std::string message) {
  return {.type = type,
          .status = kFalse,
          .reason = reason,
          .message = std::move(message)};
}

kube::Condition PodsProtected(const std::vector<UnprotectedPod>& pods) {
  constexpr char kType[] = "PodsProtected";
  if (pods.empty()) return Met(kType);
  std::vector<std::string> names;
  for (const base::Mode mode :
       {base::Mode::kRequired, base::Mode::kPreferred, base::Mode::kDisabled}) {
    for (const UnprotectedPod& pod : pods) {
      if (pod.mode != mode) continue;
      names.push_back(
          absl::StrCat(pod.Name(), " (", base::ModeName(mode), ")"));
    }
  }
  return NotMet(
      kType, "ForeignPods",
      absl::StrCat(pods.size(),
                   " pods were attached by another CNI plugin, and nothing "
                   "here protects their traffic: ",
                   Bounded(names),
                   "; delete them, so that they are made anew"));
}

kube::Condition CniConfigured(const CniConfigs& configs) {
  constexpr char kType[] = "CniConfigured";
  if (!configs.with_bandwidth.empty()) {
    return NotMet(
        kType, "BandwidthChained",
        absl::StrCat(configs.with_bandwidth,
                     " chains the bandwidth plugin behind espalier-cni: its "
                     "ingress qdisc collides with the guard of the pod's "
                     "interface, so no pod is attached; remove the plugin from "
                     "the list"));
  }
  std::vector<std::string> before;
  std::vector<std::string> after;
  for (const ForeignCniConfig& config : configs.foreign) {
    std::string name = config.file.substr(0, 100);
    absl::StrAppend(&name, config.network.empty()
                               ? " (unreadable)"
                               : absl::StrCat(" (", config.network, ")"));
    (config.before_ours ? before : after).push_back(std::move(name));
  }
  if (!before.empty()) {
    return NotMet(
        kType, "ForeignConfigFirst",
        absl::StrCat("the runtime takes another network's configuration than ",
                     kConflistName, ", and new pods are not protected: ",
                     Bounded(before), "; remove it"));
  }
  if (!after.empty()) {
    return NotMet(
        kType, "ForeignConfig",
        absl::StrCat("other networks' configurations lie beside ",
                     kConflistName, ": ", Bounded(after),
                     "; were it away for a moment, the runtime would take "
                     "them, and pods would not be protected. Remove them"));
  }
  return Met(kType);
}

kube::Condition KubeProxySupported(const KubeProxyVerdict& verdict) {
  const char* status = verdict.support == Support::kYes  ? kTrue
                       : verdict.support == Support::kNo ? kFalse
                                                         : "Unknown";
  return {.type = "KubeProxySupported",
          .status = status,
          .reason = verdict.reason,
          .message = verdict.message};
}

kube::Condition FamiliesMatch(const std::vector<std::string>& lines) {
  constexpr char kType[] = "FamiliesMatch";
  if (lines.empty()) return Met(kType);
  return NotMet(kType, "FamilyMissing",
                absl::StrCat("what one end has no pod CIDR for is dropped: ",
                             Bounded(lines)));
}

bool HasFamily(const std::vector<base::IpPrefix>& prefixes,
               base::Family family) {
  return std::ranges::any_of(prefixes, [family](const base::IpPrefix& prefix) {
    return prefix.family() == family;
  });
}

}  // namespace

std::vector<std::string> FamiliesLacking(
    const std::vector<base::IpPrefix>& own,
    const std::vector<base::IpPrefix>& theirs) {
  std::vector<std::string> lacking;
  for (const base::Family family : {base::Family::kIpv4, base::Family::kIpv6}) {
    if (HasFamily(own, family) && !HasFamily(theirs, family)) {
      lacking.push_back(family == base::Family::kIpv4 ? "IPv4" : "IPv6");
    }
  }
  return lacking;
}

std::vector<std::string> MissingFamilies(const std::vector<base::IpPrefix>& own,
                                         const std::vector<mesh::Peer>& peers) {
  std::vector<std::string> lines;
  for (const mesh::Peer& peer : peers) {
    for (const std::string& family : FamiliesLacking(own, peer.pod_cidrs)) {
      lines.push_back(absl::StrCat(peer.name, " lacks ", family));
    }
    for (const std::string& family : FamiliesLacking(peer.pod_cidrs, own)) {
      lines.push_back(
          absl::StrCat("this node lacks ", family, ", ", peer.name, " has it"));
    }
  }
  return lines;
}

void Surroundings::SetPods(std::vector<UnprotectedPod> pods) {
  if (pods == pods_) return;
  pods_ = std::move(pods);
  Tell();
}

void Surroundings::SetCniConfigs(CniConfigs configs) {
  if (configs == configs_) return;
  configs_ = std::move(configs);
  Tell();
}

void Surroundings::SetKubeProxy(KubeProxyVerdict verdict) {
  if (verdict == kube_proxy_) return;
  kube_proxy_ = std::move(verdict);
  Tell();
}

void Surroundings::SetMissingFamilies(std::vector<std::string> lines) {
  if (lines == missing_families_) return;
  missing_families_ = std::move(lines);
  Tell();
}

absl::Status Surroundings::Refusal() const {
  if (configs_.with_bandwidth.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(CniConfigured(configs_).message);
}

std::vector<kube::Condition> Surroundings::Conditions() const {
  return {PodsProtected(pods_), CniConfigured(configs_),
          KubeProxySupported(kube_proxy_), FamiliesMatch(missing_families_)};
}

std::vector<std::string> Surroundings::Problems() const {
  std::vector<std::string> problems;
  for (const kube::Condition& condition : Conditions()) {
    if (condition.status == kFalse) problems.push_back(condition.message);
  }
  return problems;
}

void Surroundings::Tell() {
  for (const kube::Condition& condition : Conditions()) {
    const std::string reason =
        condition.status == kFalse ? condition.reason : "";
    if (std::exchange(told_[condition.type], reason) == reason) continue;
    if (reason.empty()) {
      base::Log(base::LogLevel::kInfo, "a condition of this node is met again",
                {{"condition", condition.type}});
    } else {
      base::Log(base::LogLevel::kWarning, "a condition of this node is not met",
                {{"condition", condition.type},
                 {"reason", reason},
                 {"message", condition.message}});
    }
  }
}

}  // namespace espalier::agent
