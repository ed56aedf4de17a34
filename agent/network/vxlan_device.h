// The device of the plaintext path by VXLAN: desired against actual.
#ifndef ESPALIER_AGENT_NETWORK_VXLAN_DEVICE_H_
#define ESPALIER_AGENT_NETWORK_VXLAN_DEVICE_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "agent/netlink/route_client.h"
#include "agent/network/node_network.h"
#include "agent/network/sysctl.h"

namespace espalier::network {

class VxlanDevice {
 public:
  // Borrowed; both outlive this.
  VxlanDevice(netlink::RouteClient* client, Sysctl* sysctl)
      : client_(client), sysctl_(sysctl) {}

  // Its index once it is as desired; 0 when none is desired, and none of ours
  // is there. AlreadyExists: somebody else's device has that name.
  absl::StatusOr<int32_t> Ensure(const std::optional<Vxlan>& desired);

 private:
  absl::StatusOr<netlink::Link> Make(const Vxlan& desired);
  absl::Status SetAddress(int32_t index, const Vxlan& desired);

  netlink::RouteClient* const client_;
  Sysctl* const sysctl_;
};

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_VXLAN_DEVICE_H_
