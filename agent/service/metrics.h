// The agent's metrics in Prometheus' text format.
#ifndef ESPALIER_AGENT_SERVICE_METRICS_H_
#define ESPALIER_AGENT_SERVICE_METRICS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/security_association.h"
#include "agent/ike/config.h"

namespace espalier::service {

// Everything that is counted, read at one moment on the loop's thread.
struct MetricsSnapshot {
  struct Tunnel {
    std::string peer;
    bool up = false;
    base::SaCounters inbound, outbound;
    uint64_t probes_sent = 0, probes_answered = 0;
    absl::Duration probe_round_trip;  // of the last answer
    bool no_packets = false;          // IKE is up, packets do not pass
    bool wanted = true;               // false: on demand, and idle
    bool fell_back = false;           // from protocol 50 to UDP 4500
  };
  std::string version;
  std::string node;
  std::vector<Tunnel> tunnels;
  ike::CoreCounters ike;
  uint64_t fallbacks = 0;
  uint64_t ike_rekeys = 0;
  uint64_t child_rekeys = 0;
  uint64_t refused_crypto_jobs = 0;
  uint64_t config_reloads = 0;
  uint64_t config_reload_failures = 0;
  bool config_stale = false;  // the file on disk is refused
  bool datapath_connected = false;
  uint64_t pods = 0;
  std::map<std::string, uint64_t> pods_by_mode;
  // Of another CNI plugin, by the mode that was asked for them.
  std::map<std::string, uint64_t> unprotected_pods;
  uint64_t foreign_cni_configs_before = 0;
  uint64_t foreign_cni_configs_after = 0;
  bool kube_proxy_unsupported = false;
  // By name; false while something of it does not stand.
  std::map<std::string, bool> guards;
  std::map<std::string, uint64_t> guard_repairs;
  struct GuardPackets {
    std::string guard;
    std::string pod;   // empty: of the node
    std::string mode;  // of the pod now; empty: not known
    std::string verdict;
    bool drop = false;
    uint64_t packets = 0;
  };
  std::vector<GuardPackets> guard_packets;
  // Since the key in use was made; absent where the node has none.
  std::optional<absl::Duration> key_age;
  // The API server, as far as this agent hears it; absent outside Kubernetes.
  struct Source {
    bool current = false;  // believed, published to, and watched
    struct Watch {
      std::string resource;
      // Since the server last said something; absent: it never did.
      std::optional<absl::Duration> silent;
      uint64_t lists = 0;
      // Of watches, by kind: object, bookmark, ignored (known already).
      std::map<std::string, uint64_t> events;
      uint64_t bytes = 0;  // of lists and watches, uncompressed
    };
    std::vector<Watch> watches;
  };
  std::optional<Source> source;
  // The datapath's own counters, by name.
  std::vector<std::pair<std::string, uint64_t>> datapath;
};

std::string RenderMetrics(const MetricsSnapshot& snapshot);

}  // namespace espalier::service

#endif  // ESPALIER_AGENT_SERVICE_METRICS_H_
