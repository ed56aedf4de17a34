#include "agent/mesh/config/tunnel_kinds.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace espalier::mesh {
namespace {

bool IsAh(const ike::ChildProposal& proposal) {
  return proposal.protocol == base::IpsecProtocol::kAh;
}

void CheckPeer(const Config& config, const Peer& peer, ErrorList* errors) {
  const auto wrong = [&](const std::string& what) {
    errors->Add(peer.line, peer.column,
                absl::StrCat("peer '", peer.name, "' ", what));
  };
  const bool ah = std::ranges::any_of(peer.child_proposals, IsAh);
  if (ah && !std::ranges::all_of(peer.child_proposals, IsAh)) {
    wrong("has proposals for AH and for ESP: expected one protocol");
  }
  if (peer.transport_mode && !peer.pod_cidrs.empty()) {
    wrong(
        "has mode 'transport' and podCIDRs: expected none, transport mode is "
        "between the nodes' own addresses");
  }
  if (ah && peer.force_encapsulation.value_or(false)) {
    wrong("has AH and forceEncapsulation: expected one, AH cannot go in UDP");
  }
  if (!ah && !peer.transport_mode) return;
  const std::string kind = peer.transport_mode ? "mode 'transport'" : "AH";
  if (config.datapath_driver == DatapathDriver::kUser) {
    wrong(
        absl::StrCat("has ", kind,
                     ", which espalier-espd has not: expected datapath.driver "
                     "'kernel' with it"));
  }
  if (!peer.transport_mode &&
      config.kernel_routing == KernelRouting::kPolicyBased) {
    wrong(
        "has AH in tunnel mode, which only the tunnel's interface keeps pods "
        "out of: expected datapath.kernel.routing 'route-based' with it");
  }
}

}  // namespace

bool NeedsKernelDatapath(const Peer& peer) {
  return peer.transport_mode || std::ranges::any_of(peer.child_proposals, IsAh);
}

void ReadTunnelKind(const MapReader& map, Peer* peer) {
  std::string mode;
  if (map.OneOf("mode", {"tunnel", "transport"}, &mode)) {
    peer->transport_mode = mode == "transport";
  }
}

void RefuseAh(const MapReader& file,
              const std::vector<ike::ChildProposal>& proposals) {
  if (!std::ranges::any_of(proposals, IsAh)) return;
  file.Wrong("proposals", *file.Get("proposals"),
             "no AH here: it leaves packets readable, and is for single peers "
             "(peers[].proposals.child)");
}

void CheckTunnelKinds(const Config& config, ErrorList* errors) {
  for (const Peer& peer : config.peers) CheckPeer(config, peer, errors);
}

void CheckNodeTraffic(const Config& config, const YamlNode& at,
                      ErrorList* errors) {
  if (config.node_traffic == NodeTraffic::kOff) return;
  if (config.node_traffic != NodeTraffic::kSend && !config.guard.nftables) {
    errors->Add(at,
                "encryptNodeTraffic drops forged plaintext by the nftables "
                "guard: expected guard.nftables 'on' with it");
  }
  if (config.kernel_routing == KernelRouting::kPolicyBased) {
    errors->Add(at,
                "encryptNodeTraffic is not 'off' with datapath.kernel.routing "
                "'policy-based': expected 'route-based' with it, there a route "
                "of its own keeps IKE and the exceptions out of the tunnel");
  }
}

}  // namespace espalier::mesh
