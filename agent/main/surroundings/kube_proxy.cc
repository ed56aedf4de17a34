#include "agent/main/surroundings/kube_proxy.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace espalier::agent {
namespace {

using Support = KubeProxyVerdict::Support;

// Of Cilium and of Calico's eBPF mode.
constexpr const char* kReplacements[] = {"cil_", "cali_", "calico_"};

bool Contains(const std::vector<std::string>& names, const char* name) {
  return std::ranges::find(names, name) != names.end();
}

std::optional<std::string> FindReplacement(
    const std::vector<std::string>& programs) {
  for (const std::string& program : programs) {
    for (const char* prefix : kReplacements) {
      if (absl::StartsWith(program, prefix)) return program;
    }
  }
  return std::nullopt;
}

KubeProxyVerdict Replaced(const std::string& program) {
  return {Support::kNo, "EbpfReplacement",
          absl::StrCat(
              "the eBPF program ", program,
              " translates Services on this node in place of kube-proxy: it "
              "may take packets past routes and guards. Not supported; run "
              "kube-proxy in nftables or iptables mode")};
}

}  // namespace

KubeProxyVerdict JudgeKubeProxy(const KubeProxyFacts& facts,
                                bool policy_based) {
  // First: a replacement may have left kube-proxy's own rules behind.
  for (const auto* programs : {&facts.programs, &facts.connect_programs}) {
    if (const auto program = FindReplacement(*programs)) {
      return Replaced(*program);
    }
  }
  // It has chains of iptables, too.
  if (Contains(facts.links, "kube-ipvs0")) {
    if (!policy_based) {
      return {Support::kYes, "Ipvs", "kube-proxy in IPVS mode"};
    }
    return {Support::kNo, "IpvsWithPolicyBased",
            "kube-proxy in IPVS mode (kube-ipvs0 is there) works with "
            "route-based tunnels only: what it translates does not meet the "
            "policies as a pod's packet. Set datapath.kernel.routing to "
            "route-based, or kube-proxy's mode to nftables"};
  }
  if (Contains(facts.tables, "ip kube-proxy") ||
      Contains(facts.tables, "ip6 kube-proxy")) {
    return {Support::kYes, "Nftables", "kube-proxy in nftables mode"};
  }
  if (Contains(facts.chains, "ip nat KUBE-SERVICES") ||
      Contains(facts.chains, "ip6 nat KUBE-SERVICES")) {
    return {Support::kYes, "Iptables", "kube-proxy in iptables mode"};
  }
  if (facts.legacy_iptables) {
    return {Support::kYes, "IptablesLegacy",
            "a nat table of the legacy iptables is taken for kube-proxy's"};
  }
  if (!facts.connect_programs.empty()) {
    return Replaced(facts.connect_programs.front());
  }
  return {Support::kUnknown, "NoKubeProxy",
          "no kube-proxy is seen on this node: Services are not translated, or "
          "by something that Espalier does not know"};
}

KubeProxyVerdict LookAtKubeProxy(KubeProxyFactsSource* source,
                                 bool policy_based) {
  const absl::StatusOr<KubeProxyFacts> facts = source->Read();
  if (facts.ok()) return JudgeKubeProxy(*facts, policy_based);
  return {Support::kUnknown, "NotReadable",
          absl::StrCat("what translates Services is not known: ",
                       facts.status().message())};
}

}  // namespace espalier::agent
