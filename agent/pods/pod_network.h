// What the kernel holds of one attachment: the interface pair, addresses,
// routes, neighbours and settings.
//
// The pod has its address alone (/32, /128) and a default route by a gateway
// that no interface carries: 169.254.1.1 and fe80::1, whose link address, the
// host end's, stands as a permanent neighbour. So a pod's subnet has no other
// member, every packet comes to the host to be routed, the gateway takes no
// address of the pod CIDR, and neither ARP, neighbour discovery nor a proxy
// for them is needed. The host end has no address either; the way back is a
// host route and a permanent neighbour.
#ifndef ESPALIER_AGENT_PODS_POD_NETWORK_H_
#define ESPALIER_AGENT_PODS_POD_NETWORK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"
#include "agent/netlink/channel.h"
#include "agent/netlink/route_types.h"
#include "agent/network/sysctl.h"

namespace espalier::pods {

base::IpAddress Gateway(base::Family family);

struct PodNetworkSpec {
  std::string network;            // its name
  std::string owner;              // names.h
  std::string network_namespace;  // path
  std::string interface_name;     // inside
  uint32_t mtu = 0;
  std::vector<base::IpAddress> addresses;  // at most one a family
};

// A host interface that carries Espalier's alias.
struct OwnedInterface {
  std::string host_interface;
  std::string network;
  std::string owner;
  uint32_t mtu = 0;
  std::vector<base::IpAddress> addresses;  // by its host routes
};

class PodNetwork {
 public:
  virtual ~PodNetwork() = default;

  // Device and inode: tells a namespace from another that came to lie at the
  // same path. NotFound when nothing lies there, FailedPrecondition when it is
  // no network namespace.
  virtual absl::StatusOr<std::string> NamespaceId(const std::string& path) = 0;

  // All or nothing: after an error nothing of it is left. AlreadyExists when
  // the pod has an interface of that name, FailedPrecondition when the
  // namespace is the node's own. `before_up` runs when the pair is there and
  // the host's end is still down, so that no packet has passed; its error is
  // Attach's.
  virtual absl::Status Attach(
      const PodNetworkSpec& spec,
      const std::function<absl::Status()>& before_up) = 0;

  // OK when all that Attach made is as it made it; else what is not.
  virtual absl::Status Verify(const PodNetworkSpec& spec) = 0;

  // Takes the way to the pod; the interfaces stay. Quick.
  virtual absl::Status CutOff(const PodNetworkSpec& spec) = 0;

  // Deletes the pair of that owner, OK when it is gone. The kernel takes some
  // 20 ms for it (it waits for RCU). FailedPrecondition when an interface of
  // that name is not Espalier's.
  virtual absl::Status Destroy(const std::string& owner) = 0;

  virtual absl::StatusOr<std::vector<OwnedInterface>> List() = 0;
};

// The real one, in the network namespace of the calling thread. Its calls
// block; any thread, several at once.
class KernelPodNetwork : public PodNetwork {
 public:
  // Where it gets at the kernel. Virtual for tests.
  class Kernel {
   public:
    virtual ~Kernel() = default;
    // In the calling thread's namespace.
    virtual absl::StatusOr<std::unique_ptr<netlink::Channel>> OpenChannel();
    virtual network::Sysctl* sysctl() { return &sysctl_; }

   private:
    network::Sysctl sysctl_;
  };

  // Borrowed; outlives this.
  explicit KernelPodNetwork(Kernel* kernel) : kernel_(kernel) {}

  absl::StatusOr<std::string> NamespaceId(const std::string& path) override;
  absl::Status Attach(const PodNetworkSpec& spec,
                      const std::function<absl::Status()>& before_up) override;
  absl::Status Verify(const PodNetworkSpec& spec) override;
  absl::Status CutOff(const PodNetworkSpec& spec) override;
  absl::Status Destroy(const std::string& owner) override;
  absl::StatusOr<std::vector<OwnedInterface>> List() override;

 private:
  absl::Status MakePair(netlink::Channel* host, const PodNetworkSpec& spec,
                        int netns_fd);
  absl::Status SetUpPod(netlink::Channel* pod, const PodNetworkSpec& spec);
  absl::Status SetUpHost(netlink::Channel* host, const PodNetworkSpec& spec,
                         const std::function<absl::Status()>& before_up);
  static absl::Status AwaitActive(netlink::Channel* pod,
                                  const PodNetworkSpec& spec);

  Kernel* kernel_;
};

}  // namespace espalier::pods

#endif  // ESPALIER_AGENT_PODS_POD_NETWORK_H_
