// Pods of this node that another CNI plugin attached: no guard stands at their
// interfaces, and no route of ours carries their traffic.
#ifndef ESPALIER_AGENT_MAIN_SURROUNDINGS_UNPROTECTED_PODS_H_
#define ESPALIER_AGENT_MAIN_SURROUNDINGS_UNPROTECTED_PODS_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/ip_address.h"
#include "agent/base/pod_modes.h"
#include "agent/mesh/kubernetes/compose.h"
#include "agent/pods/manager.h"

namespace espalier::agent {

struct UnprotectedPod {
  std::string pod_namespace;
  std::string pod_name;
  std::vector<base::IpAddress> addresses;
  // What was asked for it, and does not hold.
  base::Mode mode = base::Mode::kRequired;
  std::string Name() const { return pod_namespace + "/" + pod_name; }
  friend bool operator==(const UnprotectedPod&,
                         const UnprotectedPod&) = default;
};

class UnprotectedPods {
 public:
  // The API server tells of a pod that is made or goes away a moment before or
  // after the attachment itself does.
  static constexpr absl::Duration kGrace = absl::Seconds(10);

  // Of `pods`, all of this node, those with an address that none of their own
  // attachments has; not those of the node's network, nor those that ended.
  // `modes` is asked for when there are such.
  std::vector<UnprotectedPod> Look(
      base::Instant now, const mesh::Pods& pods,
      const std::vector<pods::PodInfo>& attached,
      const std::function<base::PodModes()>& modes);

 private:
  std::map<std::string, base::Instant> since_;  // by namespace, name and uid
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_SURROUNDINGS_UNPROTECTED_PODS_H_
