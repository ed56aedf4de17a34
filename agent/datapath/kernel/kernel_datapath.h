// The datapath driver for the kernel's own ESP: XFRM over netlink.
#ifndef ESPALIER_AGENT_DATAPATH_KERNEL_KERNEL_DATAPATH_H_
#define ESPALIER_AGENT_DATAPATH_KERNEL_KERNEL_DATAPATH_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/event_loop.h"
#include "agent/base/marks.h"
#include "agent/base/random.h"
#include "agent/datapath/datapath.h"
#include "agent/netlink/async_channel.h"
#include "agent/netlink/socket.h"
#include "agent/netlink/xfrm_types.h"

namespace espalier::datapath {

// What the running kernel stores of a state's younger attributes; older ones
// ignore them without a word, so each was read back before it counts.
struct KernelFeatures {
  bool direction = false;      // XFRMA_SA_DIR
  bool nat_keepalive = false;  // XFRMA_NAT_KEEPALIVE_INTERVAL
  bool per_cpu = false;        // XFRMA_SA_PCPU (RFC 9611)
};

// SAs and policies stay when the agent goes: they are the kernel's. So is the
// xfrm interface, through which all tunnelled traffic is routed and whose if_id
// every SA and policy carries. One thread, the loop's; `done` may run inside
// the call.
class KernelDatapath : public Datapath {
 public:
  struct Options {
    // Route-based tunnels: made when it is not there. Must not be taken by an
    // interface of another kind or if_id.
    std::string interface = "espalier0";
    uint32_t if_id = 0x45500001;  // of Espalier's range
    // Policy-based tunnels instead: no interface of their own and no if_id;
    // traffic is routed to this uplink, where the policies catch it.
    std::string policy_based_uplink;
    uint32_t mtu = 1500;  // of the interface; routes carry the exact ones
    // This node's addresses: an SA towards one of them is inbound.
    std::vector<base::IpAddress> local_addresses;
    absl::Duration nat_keepalive = absl::Seconds(20);
    // The bits of skb->mark that are Espalier's (base/marks.h): what came out
    // of ESP is marked so, and the outer packets may pass every guard. 0: none.
    uint32_t mark_mask = base::kDefaultMarkMask;
    // How soon watched inbound SAs are asked for their first packet; then less
    // and less often.
    absl::Duration watch_interval = absl::Milliseconds(100);
  };

  // `random` makes the keys of probes. Both outlive the driver.
  KernelDatapath(base::EventLoop* loop, base::RandomSource* random,
                 Options options);
  ~KernelDatapath() override;

  // Opens sockets, probes the kernel, makes the interface, then Events::ready.
  // Unimplemented when this kernel has no ESP; the datapath is then of no use.
  absl::Status Start();
  // For tests and for Start(): the same over a channel that is given.
  void StartWith(netlink::AsyncChannel* channel, KernelFeatures features);

  // Notifications of XFRMNLGRP_EXPIRE, _ACQUIRE and _POLICY.
  void HandleNotification(const netlink::Reply& notification);
  // Notifications were lost: whoever listens lists anew.
  void HandleOverrun();

  const KernelFeatures& features() const { return features_; }

  void SetEvents(Events events) override { events_ = std::move(events); }
  void InstallSa(base::EspSa sa, Done done) override;
  void RemoveSa(const SaKey& key, Done done) override;
  void WatchInbound(const SaKey& key) override;
  void SetPolicy(const Policy& policy, Done done) override;
  void RemovePolicy(base::Reqid reqid, Done done) override;
  void ListSas(std::function<void(absl::StatusOr<std::vector<InstalledSa>>)>
                   done) override;
  void ListPolicies(
      std::function<void(absl::StatusOr<std::vector<Policy>>)> done) override;
  std::string tunnel_interface() const override;
  std::string name() const override { return "kernel"; }

  // Adds an ESP SA with a random key to the kernel behind `channel`, reads it
  // back and removes it. Unimplemented: no ESP or no AES-GCM there.
  static absl::StatusOr<KernelFeatures> Probe(netlink::Channel* channel,
                                              base::RandomSource* random);

 private:
  bool route_based() const { return options_.policy_based_uplink.empty(); }
  uint32_t if_id() const { return route_based() ? options_.if_id : 0; }
  std::vector<netlink::XfrmPolicy> Expanded(const Policy& policy) const;
  base::Direction DirectionOf(const netlink::XfrmState& state) const;
  base::IpsecProtocol ProtocolOf(const SaKey& key) const;
  absl::Status MakeInterface();
  void HandleLink(const netlink::Reply& notification);
  void RepairInterface();
  void HandleStates(const std::vector<netlink::XfrmState>& states);
  absl::Status OpenSockets();
  // Runs them one after the other; the first error ends it.
  void RunInOrder(std::vector<netlink::Request> requests, Done done);
  void DumpSas(
      std::function<void(absl::StatusOr<std::vector<InstalledSa>>)> done,
      int tries);
  void ArmWatch();
  void PollWatched();

  base::EventLoop* loop_;
  base::RandomSource* random_;
  Options options_;
  Events events_;
  KernelFeatures features_;
  std::unique_ptr<netlink::Socket> requests_;
  std::unique_ptr<netlink::Socket> notifications_;
  std::unique_ptr<netlink::Socket> links_;
  base::EventLoop::TimerId repair_timer_ = 0;
  netlink::AsyncChannel* channel_ = nullptr;
  // What the SPD holds of ours, by reqid, as last listed or set.
  std::map<base::Reqid, std::vector<netlink::XfrmPolicy>> policies_;
  std::map<base::Reqid, Policy> desired_;
  std::set<SaKey> watched_;
  // SAs of AH: a key does not tell, and ESP is what it usually names.
  std::set<SaKey> ah_;
  // Soft limits that were reached then may not have been told.
  bool notifications_lost_ = false;
  base::EventLoop::TimerId watch_timer_ = 0;
  absl::Duration watch_delay_;
  // Answers that come after the driver's end find it gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace espalier::datapath

#endif  // ESPALIER_AGENT_DATAPATH_KERNEL_KERNEL_DATAPATH_H_
