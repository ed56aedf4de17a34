// The schema: every field that the file may have. MapReader refuses what is
// not here, and a test holds docs/configuration.md against it.
#include "agent/mesh/config/config.h"

namespace espalier::mesh {

std::vector<std::string> ConfigFields() {
  return {
      "node.name",
      "node.identity",
      "node.addresses",
      "node.podCIDRs",
      "node.uplinkMTU",
      "cluster.podCIDRs",
      "auth.pskFile",
      "auth.privateKeyFile",
      "auth.generatePrivateKey",
      "peers[].name",
      "peers[].identity",
      "peers[].addresses",
      "peers[].podCIDRs",
      "peers[].auth.pskFile",
      "peers[].auth.publicKeys",
      "peers[].auth.publicKeyFiles",
      "peers[].proposals.ike",
      "peers[].proposals.child",
      "peers[].forceEncapsulation",
      "peers[].initiate",
      "proposals.ike",
      "proposals.child",
      "lifetimes.ike.rekeyAfter",
      "lifetimes.ike.expireAfter",
      "lifetimes.child.rekeyAfter",
      "lifetimes.child.expireAfter",
      "lifetimes.child.rekeyAfterBytes",
      "lifetimes.child.expireAfterBytes",
      "lifetimes.child.rekeyAfterPackets",
      "lifetimes.child.expireAfterPackets",
      "timers.liveness",
      "timers.natKeepalive",
      "timers.drain",
      "timers.grace",
      "timers.retransmitFirst",
      "timers.retransmitMax",
      "timers.retransmitTries",
      "ike.fragmentSize",
      "ike.cookieThreshold",
      "ike.cryptoThreads",
      "datapath.driver",
      "datapath.espdSocket",
      "datapath.replayWindow",
      "sockets.metrics",
      "runDirectory",
      "stateDirectory",
      "keyLogDirectory",
      "logLevel",
  };
}

}  // namespace espalier::mesh
