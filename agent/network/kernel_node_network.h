// NodeNetwork on the kernel, over rtnetlink, /proc/sys and nftables.
#ifndef ESPALIER_AGENT_NETWORK_KERNEL_NODE_NETWORK_H_
#define ESPALIER_AGENT_NETWORK_KERNEL_NODE_NETWORK_H_

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/base/clock.h"
#include "agent/base/event_loop.h"
#include "agent/base/reconciliation.h"
#include "agent/netlink/nftables.h"
#include "agent/netlink/route_client.h"
#include "agent/netlink/socket.h"
#include "agent/network/desired_items.h"
#include "agent/network/node_network.h"
#include "agent/network/sysctl.h"
#include "agent/network/vxlan_device.h"

namespace espalier::network {

using netlink::Nftables;

struct KernelNodeNetworkOptions {
  absl::Duration first_retry = absl::Milliseconds(200);
  absl::Duration longest_retry = absl::Seconds(30);
  // What is changed behind its back without a notification (a lost one, an
  // nftables table) is noticed this often.
  absl::Duration resync = absl::Seconds(30);
  // Notifications come in swarms: one look for all within this time.
  absl::Duration settle = absl::Milliseconds(20);
};

// Compares with what the kernel has, changes only the difference, and only
// what carries the marks of network/ownership.h; a route of somebody else in a
// place that is wanted is left there and reported. Looks again when the kernel
// tells of a change, at intervals, and when a change failed. One thread, the
// loop's; its netlink calls are synchronous.
class KernelNodeNetwork : public NodeNetwork {
 public:
  using Options = KernelNodeNetworkOptions;

  // On the network namespace of the calling thread.
  static absl::StatusOr<std::unique_ptr<KernelNodeNetwork>> Open(
      base::EventLoop* loop, base::Clock* clock, Options options = Options());
  // Over what a test brings. `notifications` may be null.
  KernelNodeNetwork(base::EventLoop* loop, base::Clock* clock,
                    std::unique_ptr<netlink::Channel> channel,
                    std::unique_ptr<netlink::Socket> notifications,
                    std::unique_ptr<Sysctl> sysctl,
                    std::unique_ptr<Nftables> nftables, Options options);
  ~KernelNodeNetwork() override;

  void SetDesired(DesiredNetwork desired) override;
  std::vector<NetworkProblem> Problems() const override;

  // Reads what is there and changes what differs. Unavailable and the like
  // when it could not be read; it is tried again by itself.
  absl::Status Resync();

 private:
  template <typename Key, typename Value>
  void Change(base::Reconciliation<Key, Value>* items, bool may_delete);
  // Before the datapath has named its interface the routes that an earlier
  // agent left over it are not known to be wrong, and traffic flows there.
  bool may_delete() const {
    return desired_.has_value() && !desired_->tunnel_interface.empty();
  }
  absl::Status Read();
  void Apply();
  void ApplySettings();
  void ApplyVxlan();
  absl::Status LoosenUplinks();
  void SetSysctl(const std::string& name, const std::string& value);
  absl::Status EnableIpv6Forwarding();
  void ApplyMasquerade();
  void HandleNotification(const netlink::Reply& reply);
  void ResyncSoon(absl::Duration delay);
  // After what cannot be put on a single item, with a growing delay.
  void RetrySoon();
  void ArmTimer();

  base::EventLoop* loop_;
  base::Clock* clock_;
  std::unique_ptr<netlink::Channel> channel_;
  std::unique_ptr<netlink::Socket> notifications_;
  std::unique_ptr<Sysctl> sysctl_;
  std::unique_ptr<Nftables> nftables_;
  Options options_;
  netlink::RouteClient client_;
  VxlanDevice vxlan_;
  std::optional<DesiredNetwork> desired_;
  int32_t tunnel_index_ = 0;
  // Of the plaintext path's device; 0: not there. Unset: an earlier agent may
  // have left one.
  std::optional<int32_t> vxlan_index_;
  // Of the interface that has the tunnel's addresses.
  int32_t address_index_ = 0;
  // Routes that lead nowhere, and those that lead somewhere.
  base::Reconciliation<RouteKey, netlink::Route> barriers_;
  base::Reconciliation<RouteKey, netlink::Route> routes_;
  base::Reconciliation<std::string, netlink::Rule> rules_;
  base::Reconciliation<std::pair<base::IpAddress, uint8_t>, netlink::Address>
      addresses_;
  // Settings and masquerading: what failed last, by name.
  std::map<std::string, absl::Status> failed_;
  // nft's own text of our table after it was made.
  std::string masquerade_commands_, masquerade_listed_;
  absl::Duration retry_;
  base::Instant next_resync_ = absl::InfiniteFuture();
  base::EventLoop::TimerId timer_ = 0;
};

}  // namespace espalier::network

#endif  // ESPALIER_AGENT_NETWORK_KERNEL_NODE_NETWORK_H_
