#include "agent/main/guard_control.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/network/ownership.h"

namespace espalier::agent {

using guard::InsideBlock;

guard::DesiredGuard GuardOf(const network::DesiredNetwork& network,
                            const std::vector<base::IpAddress>& own_addresses,
                            const GuardedDatapath& datapath) {
  guard::DesiredGuard out;
  if (!datapath.policy_based) out.tunnel_interface = network.tunnel_interface;
  if (network.vxlan) out.vxlan_interface = network::kVxlanDevice;
  out.tunnel_needs_mark = datapath.needs_mark;
  out.policy_based = datapath.policy_based;
  out.mark_mask = network.mark_mask;
  out.own_addresses = own_addresses;
  for (const auto* cidrs :
       {&network.cluster_pod_cidrs, &network.own_pod_cidrs}) {
    for (const base::IpPrefix& cidr : *cidrs) {
      out.inside.push_back(InsideBlock::Pods(cidr));
    }
  }
  for (const base::IpPrefix& cidr : network.node_cidrs) {
    out.inside.push_back(InsideBlock::OtherNodes(cidr));
  }
  out.sealed_nodes = network.sealed_nodes;
  for (const network::DesiredNetwork::Port& port : network.node_exceptions) {
    out.open_ports.push_back({port.ip_protocol, port.port});
  }
  std::vector<base::IpPrefix> tunnelled;
  for (const network::TunnelRoute& route : network.routes) {
    if (!route.pods_only && !route.node_only) {
      out.inside.push_back(InsideBlock::Pods(route.destination));
      continue;
    }
    tunnelled.push_back(route.destination);
    out.inside.push_back(InsideBlock::AgentNode(route.destination));
  }
  for (const base::IpAddress& address : network.node_addresses) {
    const base::IpPrefix host = base::IpPrefix::Host(address);
    if (std::ranges::find(own_addresses, address) != own_addresses.end() ||
        std::ranges::find(tunnelled, host) != tunnelled.end()) {
      continue;
    }
    // A gateway that does not protect its own address.
    out.inside.push_back(InsideBlock::OtherNodes(host));
  }
  for (const network::PlainRoute& plain : network.plain_routes) {
    out.inside.push_back(InsideBlock::PlaintextPods(plain.destination));
  }
  std::ranges::sort(out.inside);
  const auto same = std::ranges::unique(out.inside);
  out.inside.erase(same.begin(), same.end());
  return out;
}

guard::GuardedPod GuardedPodOf(const pods::PodInfo& pod) {
  return {.host_interface = pod.host_interface,
          .addresses = pod.addresses,
          .mac = pod.mac,
          .mode = pod.policy.encryption,
          .outside_denied = pod.policy.outside_denied,
          .outside_in = pod.policy.outside_in_allowed,
          .name = pod.pod_namespace.empty() && pod.pod_name.empty()
                      ? pod.container_id
                      : absl::StrCat(pod.pod_namespace, "/", pod.pod_name)};
}

GuardControl::GuardControl(base::Executor* loop, network::NodeNetwork* network,
                           std::vector<base::IpAddress> own_addresses,
                           GuardedDatapath datapath)
    : loop_(loop),
      network_(network),
      own_addresses_(std::move(own_addresses)),
      datapath_(datapath) {}

GuardControl::~GuardControl() { *alive_ = false; }

void GuardControl::Add(std::string name, std::unique_ptr<guard::Guard> guard) {
  guard->OnDrop([this](const guard::DropEvent& drop) {
    if (drops_.size() >= kMaxDrops) drops_.pop_front();
    drops_.push_back(drop);
  });
  guard->OnRepair([this](const guard::GuardProblem& problem) {
    ++repairs_[{problem.guard, problem.item}];
    if (repaired_) repaired_(problem);
  });
  guards_.emplace_back(std::move(name), std::move(guard));
}

void GuardControl::Lacks(std::string name, absl::Status why) {
  base::Log(base::LogLevel::kError, "a guard does not stand",
            {{"guard", name}, {"why", why}});
  lacking_.push_back({.guard = std::move(name),
                      .item = "the whole guard",
                      .status = std::move(why)});
}

void GuardControl::SetDesired(network::DesiredNetwork desired) {
  if (!desired.tunnel_interface.empty()) {
    tunnel_interface_ = desired.tunnel_interface;
  }
  desired.tunnel_is_uplink = datapath_.policy_based;
  desired_ = desired;
  Apply();
  network_->SetDesired(std::move(desired));
}

std::vector<network::NetworkProblem> GuardControl::Problems() const {
  return network_->Problems();
}

void GuardControl::Apply() {
  guard::DesiredGuard desired;
  if (desired_) desired = GuardOf(*desired_, own_addresses_, datapath_);
  if (!datapath_.policy_based) desired.tunnel_interface = tunnel_interface_;
  {
    const std::lock_guard lock(mutex_);
    if (pods_) desired.pods = *pods_;
    // An earlier agent's guard knows the tunnel: better than one that doesn't.
    desired.in_sync =
        desired_.has_value() && pods_.has_value() && tunnel_known();
  }
  for (const auto& [name, guard] : guards_) guard->SetDesired(desired);
}

absl::Status GuardControl::Protect(const pods::PodInfo& pod) {
  const guard::GuardedPod guarded = GuardedPodOf(pod);
  if (guards_.empty() && !lacking_.empty() &&
      guarded.mode == base::Mode::kRequired) {
    return absl::UnavailableError(absl::StrCat(
        "no guard stands, and a required pod is not attached without one: ",
        lacking_.front().status.message()));
  }
  {
    // What the loop applies meanwhile has it too.
    const std::lock_guard lock(mutex_);
    if (!pods_) return absl::UnavailableError("the guards are starting");
    std::erase_if(*pods_, [&](const guard::GuardedPod& other) {
      return other.host_interface == guarded.host_interface;
    });
    pods_->push_back(guarded);
  }
  for (const auto& [name, guard] : guards_) {
    ESPALIER_RETURN_IF_ERROR(base::Annotate(guard->Protect(guarded), name));
  }
  return absl::OkStatus();
}

void GuardControl::SetPods(std::vector<pods::PodInfo> pods) {
  std::vector<guard::GuardedPod> guarded;
  for (const pods::PodInfo& pod : pods) guarded.push_back(GuardedPodOf(pod));
  {
    const std::lock_guard lock(mutex_);
    if (pods_ == guarded) return;
    pods_ = std::move(guarded);
  }
  loop_->Post([this, alive = alive_] {
    if (*alive) Apply();
  });
}

absl::Status GuardControl::Ready() const {
  {
    const std::lock_guard lock(mutex_);
    if (!pods_) {
      return absl::UnavailableError("the attached pods are not known yet");
    }
  }
  if (!desired_) {
    return absl::UnavailableError("the cluster is not known yet");
  }
  if (!tunnel_known()) {
    return absl::UnavailableError("the tunnel's interface is not known yet");
  }
  return absl::OkStatus();
}

std::vector<std::string> GuardControl::names() const {
  std::vector<std::string> names;
  for (const auto& [name, guard] : guards_) names.push_back(name);
  return names;
}

std::vector<guard::GuardProblem> GuardControl::GuardProblems() const {
  std::vector<guard::GuardProblem> problems = lacking_;
  for (const auto& [name, guard] : guards_) {
    for (guard::GuardProblem& problem : guard->Problems()) {
      problems.push_back(std::move(problem));
    }
  }
  return problems;
}

std::vector<std::pair<std::string, guard::VerdictCount>>
GuardControl::Counters() const {
  std::vector<std::pair<std::string, guard::VerdictCount>> counters;
  for (const auto& [name, guard] : guards_) {
    for (guard::VerdictCount& count : guard->Counters()) {
      counters.emplace_back(name, std::move(count));
    }
  }
  return counters;
}

}  // namespace espalier::agent
