// The node's routes, rules, addresses, settings and masquerading for the pod
// network: desired against actual.
#ifndef ESPALIER_AGENT_NETWORK_NODE_NETWORK_H_
#define ESPALIER_AGENT_NETWORK_NODE_NETWORK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/ip_address.h"
#include "agent/base/marks.h"

namespace espalier::network {

// One destination that is reached through the tunnel's interface.
struct TunnelRoute {
  base::IpPrefix destination;
  // Octets of the largest inner packet towards that peer; 0: the device's.
  uint32_t mtu = 0;
  // Only for traffic that comes from this node's pods (peers' node addresses);
  // otherwise for all.
  bool pods_only = false;
  // Only for what this node itself sends, from `source` unless it chose
  // another.
  bool node_only = false;
  std::optional<base::IpAddress> source;
  friend auto operator<=>(const TunnelRoute&, const TunnelRoute&) = default;
};

// A peer's block in which plaintext is allowed: what comes from `disabled` pods
// goes there by the peer's own address, without a tunnel of ESP.
struct PlainRoute {
  base::IpPrefix destination;
  // Without a VXLAN: of the same family, on link. With it: its far end.
  base::IpAddress gateway;
  friend auto operator<=>(const PlainRoute&, const PlainRoute&) = default;
};

// The plaintext path of networks that know no pods' addresses.
struct Vxlan {
  uint32_t id = 0;
  uint16_t port = 0;  // UDP
  uint32_t mtu = 0;   // of inner packets, octets
  // IPv4, of the node in its own pod CIDR: on a device without an address even
  // loose reverse-path filtering drops all.
  std::optional<base::IpAddress> address;
  friend bool operator==(const Vxlan&, const Vxlan&) = default;
};

// What the node's network is to look like (DESIGN 5).
struct DesiredNetwork {
  // Made by the datapath; empty or not there yet: what needs it waits.
  std::string tunnel_interface;
  // It is the node's uplink (policies there find the tunnel): only the routes
  // through it are ours, and the tunnel's addresses stand on loopback.
  bool tunnel_is_uplink = false;
  // Of that interface (or loopback's) and source of its routes: at most one of
  // each family, out of the node's own pod CIDRs.
  std::vector<base::IpAddress> tunnel_addresses;
  std::vector<TunnelRoute> routes;
  std::vector<PlainRoute> plain_routes;
  // Set: `plain_routes` lead into it, and its device is there.
  std::optional<Vxlan> vxlan;
  // Blackholes: an address of ours that no pod has leads nowhere.
  std::vector<base::IpPrefix> own_pod_cidrs;
  // Unreachable where nothing more specific is known.
  std::vector<base::IpPrefix> cluster_pod_cidrs;
  // The nodes' networks: for pods unreachable where no node is known.
  std::vector<base::IpPrefix> node_cidrs;
  // Nodes' own addresses: pods keep their source towards these too.
  std::vector<base::IpAddress> node_addresses;
  // What pods send to anywhere but the inside leaves with the node's address.
  bool masquerade = true;
  // What the node sends to or from these ports takes no `node_only` route;
  // neither do IKE, ESP and AH.
  struct Port {
    uint8_t ip_protocol = 0;
    uint16_t port = 0;
    friend auto operator<=>(const Port&, const Port&) = default;
  };
  std::vector<Port> node_exceptions;
  // Nodes whose own packets to this one come by their tunnel or not at all.
  std::vector<base::IpAddress> sealed_nodes;
  uint32_t mark_mask = base::kDefaultMarkMask;
  friend bool operator==(const DesiredNetwork&,
                         const DesiredNetwork&) = default;
};

// What could not be made so, and is being retried.
struct NetworkProblem {
  std::string item;  // "route 10.244.2.0/24 table 254 dev esp0"
  absl::Status status;
};

class NodeNetwork {
 public:
  virtual ~NodeNetwork() = default;
  // Replaces the whole; applied before this returns as far as it succeeds, and
  // retried after.
  virtual void SetDesired(DesiredNetwork desired) = 0;
  virtual std::vector<NetworkProblem> Problems() const = 0;
};

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_NODE_NETWORK_H_
