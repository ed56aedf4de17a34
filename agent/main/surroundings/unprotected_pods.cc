#include "agent/main/surroundings/unprotected_pods.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::agent {
namespace {

// An attachment that was found without a checkpoint knows no pod's name.
constexpr char kNameless[] = "";

std::string KeyOf(const std::string& pod_namespace, const std::string& pod_name,
                  const std::string& pod_uid) {
  return absl::StrCat(pod_namespace, "/", pod_name, "/", pod_uid);
}

using Addresses = std::map<std::string, std::set<base::IpAddress>>;

// By the pod's key, with and without its uid, which not every runtime tells.
Addresses AddressesOf(const std::vector<pods::PodInfo>& attached) {
  Addresses addresses;
  for (const pods::PodInfo& pod : attached) {
    const std::string key =
        pod.pod_name.empty()
            ? kNameless
            : KeyOf(pod.pod_namespace, pod.pod_name, pod.pod_uid);
    addresses[key].insert(pod.addresses.begin(), pod.addresses.end());
  }
  return addresses;
}

// By name, and not by address alone: another plugin's pod may have the address
// that one of ours has, too.
bool IsAttached(const kube::Pod& pod, const std::string& uid,
                const Addresses& attached) {
  const std::string& space = pod.meta.name_space;
  const std::string& name = pod.meta.name;
  const std::string keys[] = {KeyOf(space, name, uid), KeyOf(space, name, ""),
                              kNameless};
  return std::ranges::all_of(pod.addresses, [&](const base::IpAddress& own) {
    return std::ranges::any_of(keys, [&](const std::string& key) {
      const auto found = attached.find(key);
      return found != attached.end() && found->second.contains(own);
    });
  });
}

}  // namespace

std::vector<UnprotectedPod> UnprotectedPods::Look(
    base::Instant now, const mesh::Pods& pods,
    const std::vector<pods::PodInfo>& attached,
    const std::function<base::PodModes()>& modes) {
  const Addresses addresses = AddressesOf(attached);
  std::map<std::string, base::Instant> since;
  std::vector<UnprotectedPod> found;
  std::optional<base::PodModes> asked;
  for (const auto& [key, pod] : pods) {
    if (pod->host_network || pod->addresses.empty() ||
        pod->phase == "Succeeded" || pod->phase == "Failed") {
      continue;
    }
    const std::string uid = mesh::PodUid(*pod);
    if (IsAttached(*pod, uid, addresses)) continue;
    const std::string& space = pod->meta.name_space;
    const std::string& name = pod->meta.name;
    const std::string pod_key = KeyOf(space, name, uid);
    const auto known = since_.find(pod_key);
    since[pod_key] = known == since_.end() ? now : known->second;
    if (now - since[pod_key] < kGrace) continue;
    if (!asked) asked = modes();
    found.push_back({space, name, pod->addresses,
                     asked->Resolve(space, name, uid).encryption});
  }
  since_ = std::move(since);
  return found;
}

}  // namespace espalier::agent
