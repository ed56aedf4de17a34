// Names by which attachments are recognised, in files and in the kernel.
#ifndef ESPALIER_AGENT_PODS_NAMES_H_
#define ESPALIER_AGENT_PODS_NAMES_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "agent/netlink/route_types.h"

namespace espalier::pods {

// In the folder of the agent's state: which pod has which address.
inline constexpr char kCheckpointFile[] = "pods.json";
// Labels of a lease there.
inline constexpr char kPodNamespace[] = "podNamespace";
inline constexpr char kPodName[] = "podName";

// "<container id>@<interface>", the key of everything.
std::string OwnerOf(const std::string& container_id,
                    const std::string& interface_name);
struct OwnerParts {
  std::string container_id;
  std::string interface_name;
};
std::optional<OwnerParts> ParseOwner(const std::string& owner);

// "esp" and 11 hexadecimal digits: the same for the same owner after a
// restart. Two owners of one node meet with a probability of n^2 / 2^45; the
// second ADD then fails on the taken name.
std::string HostInterfaceName(const std::string& owner);

// Locally administered, the same for the same owner: what was given at ADD can
// be told again without asking the kernel.
netlink::MacAddress PodMac(const std::string& owner);
netlink::MacAddress HostMac(const std::string& owner);

// The host interface's alias, which marks it as Espalier's and says whose it
// is.
std::string FormatAlias(const std::string& network, const std::string& owner);
struct ParsedAlias {
  std::string network;
  std::string owner;
};
std::optional<ParsedAlias> ParseAlias(const std::string& alias);

}  // namespace espalier::pods

#endif  // ESPALIER_AGENT_PODS_NAMES_H_
