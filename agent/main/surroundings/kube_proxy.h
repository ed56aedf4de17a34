// Who translates Services on this node, and whether Espalier works with it
// (DESIGN 7): kube-proxy in nftables and iptables mode, in IPVS mode with
// route-based tunnels; no replacement by eBPF.
#ifndef ESPALIER_AGENT_MAIN_SURROUNDINGS_KUBE_PROXY_H_
#define ESPALIER_AGENT_MAIN_SURROUNDINGS_KUBE_PROXY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace espalier::agent {

struct KubeProxyFacts {
  std::vector<std::string> links;   // names
  std::vector<std::string> tables;  // nftables', "ip kube-proxy"
  std::vector<std::string> chains;  // iptables over nftables: "ip nat NAME"
  // The node has a nat table of the legacy iptables, which is not looked into.
  bool legacy_iptables = false;
  // eBPF programs' names, as the kernel keeps them: at most 15 characters.
  std::vector<std::string> programs;          // all that are loaded
  std::vector<std::string> connect_programs;  // those that see connect()
};

class KubeProxyFactsSource {
 public:
  virtual ~KubeProxyFactsSource() = default;
  // May block; on any one thread.
  virtual absl::StatusOr<KubeProxyFacts> Read() = 0;
};

// Those of the calling thread's network namespace, and of the kernel.
class KernelKubeProxyFacts : public KubeProxyFactsSource {
 public:
  absl::StatusOr<KubeProxyFacts> Read() override;
};

inline constexpr char kNotLookedYet[] = "NotLookedYet";
struct KubeProxyVerdict {
  enum class Support : uint8_t { kUnknown, kYes, kNo };
  Support support = Support::kUnknown;
  std::string reason = kNotLookedYet;  // CamelCase, of the condition
  std::string message;
  friend bool operator==(const KubeProxyVerdict&,
                         const KubeProxyVerdict&) = default;
};

// `policy_based`: the tunnels are policies on the uplink.
KubeProxyVerdict JudgeKubeProxy(const KubeProxyFacts& facts, bool policy_based);
// The same of what `source` reads, or that it cannot be known.
KubeProxyVerdict LookAtKubeProxy(KubeProxyFactsSource* source,
                                 bool policy_based);

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_SURROUNDINGS_KUBE_PROXY_H_
