#include "agent/base/pod_modes.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace espalier::base {
namespace {

int StrengthOf(Mode mode) {
  switch (mode) {
    case Mode::kDisabled:
      return 0;
    case Mode::kPreferred:
      return 1;
    case Mode::kRequired:
      return 2;
  }
  return 2;
}

void AddProblem(const std::string& problem, PodPolicy* policy) {
  if (problem.empty()) return;
  absl::StrAppend(&policy->problem, policy->problem.empty() ? "" : "; ",
                  problem);
}

}  // namespace

Mode Stronger(Mode a, Mode b) { return StrengthOf(a) >= StrengthOf(b) ? a : b; }

std::string PodModes::PodKey(const std::string& pod_namespace,
                             const std::string& pod_name,
                             const std::string& pod_uid) const {
  return listed ? absl::StrCat(pod_namespace, "/", pod_name, "/", pod_uid)
                : absl::StrCat(pod_namespace, "/", pod_name);
}

bool PodModes::Knows(const std::string& pod_namespace,
                     const std::string& pod_name,
                     const std::string& pod_uid) const {
  return !listed || (namespaces.contains(pod_namespace) &&
                     pods.contains(PodKey(pod_namespace, pod_name, pod_uid)));
}

PodPolicy PodModes::Resolve(const std::string& pod_namespace,
                            const std::string& pod_name,
                            const std::string& pod_uid) const {
  if (!Knows(pod_namespace, pod_name, pod_uid)) {
    return {.problem =
                "what its namespace and the pod ask for is not known yet"};
  }
  PodPolicy policy{.encryption = default_mode, .outside_denied = false};
  if (const auto found = namespaces.find(pod_namespace);
      found != namespaces.end()) {
    const PodWish& wish = found->second;
    policy.encryption = wish.encryption.value_or(policy.encryption);
    policy.outside_denied = wish.outside_denied.value_or(false);
    policy.outside_in_allowed = wish.outside_in_allowed.value_or(false);
    AddProblem(wish.problem, &policy);
  }
  const auto found = pods.find(PodKey(pod_namespace, pod_name, pod_uid));
  if (found == pods.end()) return policy;
  const PodWish& wish = found->second;
  AddProblem(wish.problem, &policy);
  const Mode asked = wish.encryption.value_or(policy.encryption);
  if (Stronger(asked, policy.encryption) != asked) {
    AddProblem(absl::StrCat("the pod asks for encryption ", ModeName(asked),
                            ", its namespace for ", ModeName(policy.encryption),
                            ": a pod may only strengthen it"),
               &policy);
  } else {
    policy.encryption = asked;
  }
  const bool denied = wish.outside_denied.value_or(policy.outside_denied);
  if (policy.outside_denied && !denied) {
    AddProblem("the pod asks for outside: allow, its namespace denies it",
               &policy);
  }
  policy.outside_denied = policy.outside_denied || denied;
  const bool in = wish.outside_in_allowed.value_or(policy.outside_in_allowed);
  if (in && !policy.outside_in_allowed) {
    AddProblem(
        "the pod asks for outsideIn: allow, its namespace does not allow it",
        &policy);
  }
  policy.outside_in_allowed = policy.outside_in_allowed && in;
  return policy;
}

}  // namespace espalier::base
