// What is asked of pods' traffic, by namespace and by pod, and what of it holds
// for one pod (DESIGN 5).
#ifndef ESPALIER_AGENT_BASE_POD_MODES_H_
#define ESPALIER_AGENT_BASE_POD_MODES_H_

#include <map>
#include <optional>
#include <string>

#include "agent/base/mode.h"

namespace espalier::base {

// As one namespace or one pod asks for it; what is not set is not asked for.
struct PodWish {
  // A word that nobody knows is kRequired.
  std::optional<Mode> encryption;
  std::optional<bool> outside_denied;
  std::optional<bool> outside_in_allowed;
  // Why a word was not taken as it stands, for people; empty when all were.
  std::string problem;
  friend bool operator==(const PodWish&, const PodWish&) = default;
};

// What holds for one pod. The defaults are the strongest.
struct PodPolicy {
  Mode encryption = Mode::kRequired;
  // Nothing may be sent to outside the cluster.
  bool outside_denied = true;
  // Connections from outside the cluster to the pod's address are let in.
  bool outside_in_allowed = false;
  // What was asked for and does not hold, for people.
  std::string problem;
  friend bool operator==(const PodPolicy&, const PodPolicy&) = default;
};

// Of two modes the one that lets less pass in plaintext.
Mode Stronger(Mode a, Mode b);

struct PodModes {
  Mode default_mode = Mode::kPreferred;
  std::map<std::string, PodWish> namespaces;
  std::map<std::string, PodWish> pods;  // by PodKey
  // Every namespace and every pod of this node that is known is listed, with
  // an empty wish if it asks for nothing. What is not listed is not known yet,
  // and a mode not known yet is kRequired (DESIGN 5). Pods go by their uid,
  // too: one of the same name may have asked for something else.
  bool listed = false;

  // "NAMESPACE/NAME", with `listed` "NAMESPACE/NAME/UID".
  std::string PodKey(const std::string& pod_namespace,
                     const std::string& pod_name,
                     const std::string& pod_uid) const;
  // Whether all that Resolve needs is known; always, without `listed`.
  bool Knows(const std::string& pod_namespace, const std::string& pod_name,
             const std::string& pod_uid) const;

  // A namespace may ask for anything; a pod only for more than its namespace.
  // A pod of no namespace (outside Kubernetes) has the default.
  PodPolicy Resolve(const std::string& pod_namespace,
                    const std::string& pod_name,
                    const std::string& pod_uid = "") const;
  friend bool operator==(const PodModes&, const PodModes&) = default;
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_POD_MODES_H_
