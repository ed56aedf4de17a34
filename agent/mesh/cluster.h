// What the mesh is told: this node and its peers, wherever that comes from (a
// file now, the API server in a cluster). Values only.
#ifndef ESPALIER_AGENT_MESH_CLUSTER_H_
#define ESPALIER_AGENT_MESH_CLUSTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/base/ip_address.h"
#include "agent/base/secret_bytes.h"
#include "agent/ike/config.h"
#include "agent/mesh/config/config.h"
#include "agent/network/node_network.h"

namespace espalier::mesh {

struct LocalNode {
  std::string name;
  ike::Identity identity;
  // At most one of each family.
  std::vector<base::IpAddress> addresses;
  std::vector<base::IpPrefix> pod_cidrs;
  uint32_t uplink_mtu = 1500;
  friend bool operator==(const LocalNode&, const LocalNode&) = default;
};

struct PeerSpec {
  std::string name;
  ike::Identity identity;  // unique; what a peer is known by
  std::vector<base::IpAddress> addresses;
  std::vector<base::IpPrefix> pod_cidrs;
  // Parts of them in which plaintext is allowed.
  std::vector<base::IpPrefix> plaintext_blocks;
  // A pre-shared key, or the peer's public keys.
  std::variant<std::shared_ptr<const base::SecretBytes>,
               std::vector<std::shared_ptr<const crypto::PublicKey>>>
      credential;
  std::vector<ike::IkeProposal> ike_proposals;
  std::vector<ike::ChildProposal> child_proposals;
  bool force_encapsulation = false;
  Initiate initiate = Initiate::kAuto;
  bool probe = true;
  // Between the nodes' own addresses, without pods (RFC 4301 4.1).
  bool transport_mode = false;

  // RFC 4302: what goes there is authenticated and stays readable, so no pod's
  // packet does.
  bool ah() const {
    return !child_proposals.empty() &&
           child_proposals.front().protocol == base::IpsecProtocol::kAh;
  }
  friend bool operator==(const PeerSpec& a, const PeerSpec& b);
};

struct Cluster {
  LocalNode node;
  std::vector<base::IpPrefix> cluster_pod_cidrs;
  // The nodes' networks, where they are known.
  std::vector<base::IpPrefix> node_cidrs;
  PlaintextPath plaintext_path = PlaintextPath::kNone;
  VxlanSettings vxlan;
  std::vector<PeerSpec> peers;
  // How long the end that does not begin waits for the other.
  absl::Duration grace = absl::Seconds(10);
  // Tunnels come with the first packet, and go after `idle_time` without one.
  bool on_demand = false;
  absl::Duration idle_time = absl::Minutes(10);
  // Packets of the node itself to peers' node addresses.
  NodeTraffic node_traffic = NodeTraffic::kOff;
  std::vector<network::DesiredNetwork::Port> node_traffic_exceptions;
  // RFC 9611: so many CPUs get SAs of their own; 0 is none. The datapath must
  // have them.
  uint32_t per_cpu_sas = 0;
  // How long an old SA stays once its successor carries traffic.
  absl::Duration drain_time = absl::Seconds(5);
};

// Parses the public keys on the way: an error names the peer. What depends on
// the datapath goes by `config.datapath_driver`.
absl::StatusOr<Cluster> ClusterFromConfig(const Config& config);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_CLUSTER_H_
