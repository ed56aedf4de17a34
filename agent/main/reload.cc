#include "agent/main/reload.h"

namespace espalier::agent {

std::vector<std::string> StartOnlyChanges(const mesh::Config& running,
                                          const mesh::Config& wanted) {
  std::vector<std::string> changed;
  const auto compare = [&](const char* field, const auto& a, const auto& b) {
    if (!(a == b)) changed.push_back(field);
  };
  const mesh::Config& a = running;
  const mesh::Config& b = wanted;
  compare("cluster.source", a.source, b.source);
  compare("kubernetes.kubeconfig", a.kubeconfig, b.kubeconfig);
  compare("node.name", a.node.name, b.node.name);
  compare("node.identity", a.node.identity, b.node.identity);
  compare("node.addresses", a.node.addresses, b.node.addresses);
  compare("node.podCIDRs", a.node.pod_cidrs, b.node.pod_cidrs);
  compare("node.uplinkMTU", a.node.uplink_mtu, b.node.uplink_mtu);
  compare("guard.bpf", a.guard.bpf, b.guard.bpf);
  compare("guard.nftables", a.guard.nftables, b.guard.nftables);
  const auto key = [](const mesh::Config& c) {
    return c.private_key ? c.private_key->file.path : "";
  };
  compare("auth.privateKeyFile", key(a), key(b));
  compare("lifetimes.ike.rekeyAfter", a.lifetimes.ike_soft,
          b.lifetimes.ike_soft);
  compare("lifetimes.ike.expireAfter", a.lifetimes.ike_hard,
          b.lifetimes.ike_hard);
  const base::SaLimits& la = a.lifetimes.child;
  const base::SaLimits& lb = b.lifetimes.child;
  compare("lifetimes.child.rekeyAfter", la.soft_time, lb.soft_time);
  compare("lifetimes.child.expireAfter", la.hard_time, lb.hard_time);
  compare("lifetimes.child.rekeyAfterBytes", la.soft_bytes, lb.soft_bytes);
  compare("lifetimes.child.expireAfterBytes", la.hard_bytes, lb.hard_bytes);
  compare("lifetimes.child.rekeyAfterPackets", la.soft_packets,
          lb.soft_packets);
  compare("lifetimes.child.expireAfterPackets", la.hard_packets,
          lb.hard_packets);
  compare("timers.liveness", a.timers.liveness_interval,
          b.timers.liveness_interval);
  compare("timers.natKeepalive", a.timers.nat_keepalive_interval,
          b.timers.nat_keepalive_interval);
  compare("timers.drain", a.timers.drain_time, b.timers.drain_time);
  compare("timers.retransmitFirst", a.timers.retransmit_base,
          b.timers.retransmit_base);
  compare("timers.retransmitMax", a.timers.retransmit_max,
          b.timers.retransmit_max);
  compare("timers.retransmitTries", a.timers.retransmit_tries,
          b.timers.retransmit_tries);
  compare("ike.fragmentSize", a.fragment_size, b.fragment_size);
  compare("ike.cookieThreshold", a.cookie_threshold, b.cookie_threshold);
  compare("ike.cryptoThreads", a.crypto_threads, b.crypto_threads);
  compare("datapath.driver", a.datapath_driver, b.datapath_driver);
  compare("datapath.kernel.routing", a.kernel_routing, b.kernel_routing);
  compare("datapath.kernel.perCpuSas", a.per_cpu_sas, b.per_cpu_sas);
  compare("datapath.espdSocket", a.espd_socket, b.espd_socket);
  compare("datapath.replayWindow", a.replay_window, b.replay_window);
  compare("sockets.metrics", a.metrics_listen, b.metrics_listen);
  const auto secure_a = a.secure_metrics.value_or(mesh::SecureMetricsSocket());
  const auto secure_b = b.secure_metrics.value_or(mesh::SecureMetricsSocket());
  compare("sockets.secureMetrics.listen", secure_a.listen, secure_b.listen);
  compare("sockets.secureMetrics.certificateFile", secure_a.certificate_file,
          secure_b.certificate_file);
  compare("sockets.secureMetrics.keyFile", secure_a.key_file,
          secure_b.key_file);
  compare("runDirectory", a.run_directory, b.run_directory);
  compare("stateDirectory", a.state_directory, b.state_directory);
  compare("keyLogDirectory", a.key_log_directory, b.key_log_directory);
  return changed;
}

}  // namespace espalier::agent
