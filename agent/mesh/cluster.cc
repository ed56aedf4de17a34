#include "agent/mesh/cluster.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/keys.h"

namespace espalier::mesh {
namespace {

using PublicKeys = std::vector<std::shared_ptr<const crypto::PublicKey>>;

bool SameProposal(const ike::IkeProposal& a, const ike::IkeProposal& b) {
  return a.cipher == b.cipher && a.key_bits == b.key_bits &&
         a.integrity == b.integrity && a.prfs == b.prfs && a.groups == b.groups;
}

bool SameProposal(const ike::ChildProposal& a, const ike::ChildProposal& b) {
  return a.cipher == b.cipher && a.key_bits == b.key_bits &&
         a.integrity == b.integrity && a.groups == b.groups && a.esn == b.esn &&
         a.protocol == b.protocol;
}

template <typename T>
bool SameProposals(const std::vector<T>& a, const std::vector<T>& b) {
  return std::ranges::equal(
      a, b, [](const T& x, const T& y) { return SameProposal(x, y); });
}

bool SameCredential(const PeerSpec& a, const PeerSpec& b) {
  if (a.credential.index() != b.credential.index()) return false;
  if (const auto* keys = std::get_if<PublicKeys>(&a.credential)) {
    return std::ranges::equal(
        *keys, std::get<PublicKeys>(b.credential),
        [](const auto& x, const auto& y) { return *x == *y; });
  }
  using Psk = std::shared_ptr<const base::SecretBytes>;
  const Psk& x = std::get<Psk>(a.credential);
  const Psk& y = std::get<Psk>(b.credential);
  return x == y || (x != nullptr && y != nullptr &&
                    base::ConstantTimeEqual(x->span(), y->span()));
}

}  // namespace

bool operator==(const PeerSpec& a, const PeerSpec& b) {
  return a.name == b.name && a.identity == b.identity &&
         a.addresses == b.addresses && a.pod_cidrs == b.pod_cidrs &&
         a.plaintext_blocks == b.plaintext_blocks && SameCredential(a, b) &&
         SameProposals(a.ike_proposals, b.ike_proposals) &&
         SameProposals(a.child_proposals, b.child_proposals) &&
         a.force_encapsulation == b.force_encapsulation &&
         a.initiate == b.initiate && a.probe == b.probe &&
         a.transport_mode == b.transport_mode;
}

absl::StatusOr<Cluster> ClusterFromConfig(const Config& config) {
  Cluster cluster;
  cluster.node = {.name = config.node.name,
                  .identity = config.node.identity,
                  .addresses = config.node.addresses,
                  .pod_cidrs = config.node.pod_cidrs,
                  .uplink_mtu = config.node.uplink_mtu};
  cluster.cluster_pod_cidrs = config.cluster_pod_cidrs;
  cluster.node_cidrs = config.node_cidrs;
  cluster.plaintext_path = config.plaintext_path;
  cluster.vxlan = config.vxlan;
  cluster.grace = config.timers.grace;
  cluster.drain_time = config.timers.drain_time;
  cluster.on_demand = config.on_demand;
  cluster.idle_time = config.timers.idle;
  cluster.node_traffic = config.node_traffic;
  for (const NodeTrafficException& exception : config.node_traffic_exceptions) {
    cluster.node_traffic_exceptions.push_back(
        {.ip_protocol = exception.ip_protocol, .port = exception.port});
  }
  cluster.per_cpu_sas = config.per_cpu_sas;
  for (const Peer& peer : config.peers) {
    if (config.datapath_driver == DatapathDriver::kUser &&
        NeedsKernelDatapath(peer)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "peer ", peer.name, " asks for ",
          peer.transport_mode ? "transport mode" : "AH",
          ", which espalier-espd has not, and this kernel has no ESP of its "
          "own: use ESP in tunnel mode, or a kernel with ESP"));
    }
    PeerSpec spec{.name = peer.name,
                  .identity = peer.identity,
                  .addresses = peer.addresses,
                  .pod_cidrs = peer.pod_cidrs,
                  .plaintext_blocks = peer.plaintext_blocks,
                  .credential = {},
                  .ike_proposals = peer.ike_proposals,
                  .child_proposals = peer.child_proposals,
                  .force_encapsulation = peer.force_encapsulation.value_or(
                      config.datapath_driver != DatapathDriver::kKernel),
                  .initiate = peer.initiate,
                  .probe = peer.probe,
                  .transport_mode = peer.transport_mode};
    if (const auto* psk = std::get_if<PskCredential>(&peer.credential)) {
      spec.credential = psk->secret;
    } else {
      PublicKeys keys;
      for (const base::Bytes& der :
           std::get<PublicKeyCredential>(peer.credential).keys) {
        absl::StatusOr<std::shared_ptr<const crypto::PublicKey>> key =
            crypto::PublicKey::FromDer(der);
        if (!key.ok()) {
          return base::Annotate(
              key.status(), absl::StrCat("peer ", peer.name, ": public key"));
        }
        keys.push_back(*std::move(key));
      }
      spec.credential = std::move(keys);
    }
    cluster.peers.push_back(std::move(spec));
  }
  return cluster;
}

}  // namespace espalier::mesh
