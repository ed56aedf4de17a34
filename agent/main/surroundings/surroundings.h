// What others do on this node that weakens what Espalier promises, as it was
// last seen; what follows from it, for reports, metrics and verify.
#ifndef ESPALIER_AGENT_MAIN_SURROUNDINGS_SURROUNDINGS_H_
#define ESPALIER_AGENT_MAIN_SURROUNDINGS_SURROUNDINGS_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/ip_address.h"
#include "agent/kube/objects.h"
#include "agent/main/surroundings/cni_configs.h"
#include "agent/main/surroundings/kube_proxy.h"
#include "agent/main/surroundings/unprotected_pods.h"
#include "agent/mesh/config/config.h"

namespace espalier::agent {

// The families that `own` has and `theirs` does not: "IPv4", "IPv6".
std::vector<std::string> FamiliesLacking(
    const std::vector<base::IpPrefix>& own,
    const std::vector<base::IpPrefix>& theirs);
// One line for each family that one end of a pair has and the other does not.
std::vector<std::string> MissingFamilies(const std::vector<base::IpPrefix>& own,
                                         const std::vector<mesh::Peer>& peers);

// On one thread.
class Surroundings {
 public:
  // Each says in the log what has become worse, and better.
  void SetPods(std::vector<UnprotectedPod> pods);
  void SetCniConfigs(CniConfigs configs);
  void SetKubeProxy(KubeProxyVerdict verdict);
  void SetMissingFamilies(std::vector<std::string> lines);

  const std::vector<UnprotectedPod>& pods() const { return pods_; }
  const CniConfigs& cni_configs() const { return configs_; }
  const KubeProxyVerdict& kube_proxy() const { return kube_proxy_; }

  // OK, or why no pod may be attached on this node.
  absl::Status Refusal() const;
  // PodsProtected, CniConfigured, KubeProxySupported, FamiliesMatch; the times
  // are left to who reports them. Names in messages are bounded.
  std::vector<kube::Condition> Conditions() const;
  // The messages of those that are not met.
  std::vector<std::string> Problems() const;

 private:
  void Tell();

  std::vector<UnprotectedPod> pods_;
  CniConfigs configs_;
  KubeProxyVerdict kube_proxy_;
  std::vector<std::string> missing_families_;
  std::map<std::string, std::string> told_;  // the reason, by type
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_SURROUNDINGS_SURROUNDINGS_H_
