// Brings together what the guards need to know, and drives each of them from
// one DesiredGuard.
#ifndef ESPALIER_AGENT_MAIN_GUARD_CONTROL_H_
#define ESPALIER_AGENT_MAIN_GUARD_CONTROL_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "agent/base/executor.h"
#include "agent/guard/guard.h"
#include "agent/network/node_network.h"
#include "agent/pods/manager.h"

namespace espalier::agent {

// How packets come out of the datapath.
struct GuardedDatapath {
  bool needs_mark = false;    // kernel, by an interface
  bool policy_based = false;  // kernel, by policies on the uplink
};

// What the guards have to hold, from what the mesh wants of the network.
guard::DesiredGuard GuardOf(const network::DesiredNetwork& network,
                            const std::vector<base::IpAddress>& own_addresses,
                            const GuardedDatapath& datapath);
guard::GuardedPod GuardedPodOf(const pods::PodInfo& pod);

// Lies between the mesh and the network: the guards change before the routes
// do. On the loop's thread, except PodGuard's calls.
class GuardControl : public network::NodeNetwork, public pods::PodGuard {
 public:
  static constexpr size_t kMaxDrops = 1000;

  // All outlive this.
  GuardControl(base::Executor* loop, network::NodeNetwork* network,
               std::vector<base::IpAddress> own_addresses,
               GuardedDatapath datapath);
  ~GuardControl() override;

  // Before the first SetDesired. The name is "bpf" or "nftables".
  void Add(std::string name, std::unique_ptr<guard::Guard> guard);
  // Why a guard that was to stand does not, until the next start.
  void Lacks(std::string name, absl::Status why);

  // --- NodeNetwork, for the mesh ---
  void SetDesired(network::DesiredNetwork desired) override;
  std::vector<network::NetworkProblem> Problems() const override;

  // --- PodGuard, on the pod manager's thread ---
  absl::Status Protect(const pods::PodInfo& pod) override;
  void SetPods(std::vector<pods::PodInfo> pods) override;

  // OK, or why no pod may be attached yet.
  absl::Status Ready() const;

  // --- to look in ---
  std::vector<std::string> names() const;
  std::vector<guard::GuardProblem> GuardProblems() const;
  // With the guard's name.
  std::vector<std::pair<std::string, guard::VerdictCount>> Counters() const;
  // The newest last.
  const std::deque<guard::DropEvent>& drops() const { return drops_; }
  // By guard's name and what was made good.
  const std::map<std::pair<std::string, std::string>, uint64_t>& repairs()
      const {
    return repairs_;
  }
  void OnRepair(std::function<void(const guard::GuardProblem&)> callback) {
    repaired_ = std::move(callback);
  }

 private:
  void Apply();
  bool tunnel_known() const {
    return datapath_.policy_based || !tunnel_interface_.empty();
  }

  base::Executor* const loop_;
  network::NodeNetwork* const network_;
  const std::vector<base::IpAddress> own_addresses_;
  const GuardedDatapath datapath_;
  std::vector<std::pair<std::string, std::unique_ptr<guard::Guard>>> guards_;
  std::vector<guard::GuardProblem> lacking_;
  std::optional<network::DesiredNetwork> desired_;
  // The last that was named: the datapath's process may be away for a moment,
  // and its interface is still the only one that ESP comes out of.
  std::string tunnel_interface_;
  std::deque<guard::DropEvent> drops_;
  std::map<std::pair<std::string, std::string>, uint64_t> repairs_;
  std::function<void(const guard::GuardProblem&)> repaired_;
  // Whether this still lives, for what was posted to the loop.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  mutable std::mutex mutex_;
  std::optional<std::vector<guard::GuardedPod>> pods_;  // under mutex_
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_GUARD_CONTROL_H_
