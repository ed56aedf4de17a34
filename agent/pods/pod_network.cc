#include "agent/pods/pod_network.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "agent/base/status_macros.h"
#include "agent/netlink/network_namespace.h"
#include "agent/netlink/route_client.h"
#include "agent/netlink/socket.h"
#include "agent/network/ownership.h"
#include "agent/pods/names.h"

// <linux/nsfs.h> defines it; its name clashes with nothing here.
#include <linux/nsfs.h>

namespace espalier::pods {
namespace {

// A super-packet that is larger than espalier-espd's TUN takes (61,000, so
// that one fits into one UDP send) would be cut into single packets by the
// kernel, at a quarter of the speed.
constexpr uint32_t kPodGsoMaxSize = 60'000;

constexpr absl::Duration kActivationTimeout = absl::Seconds(3);
constexpr absl::Duration kActivationPoll = absl::Milliseconds(1);

using base::Annotate;
using base::Family;
using base::IpAddress;
using base::IpPrefix;
using netlink::RouteClient;
using netlink::Verb;

// A descriptor that closes itself.
class OwnedFd {
 public:
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&&) = delete;
  ~OwnedFd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

struct OpenNamespace {
  OwnedFd fd;
  std::string id;
};

std::string IdOf(const struct stat& info) {
  return absl::StrCat(info.st_dev, ":", info.st_ino);
}

absl::StatusOr<OpenNamespace> Open(const std::string& path) {
  // Not blocking: a FIFO at the path would hang the agent.
  OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) {
    return absl::ErrnoToStatus(errno,
                               absl::StrCat("open network namespace ", path));
  }
  struct statfs fs{};
  if (fstatfs(fd.get(), &fs) != 0 || fs.f_type != NSFS_MAGIC ||
      ioctl(fd.get(), NS_GET_NSTYPE) != CLONE_NEWNET) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is no network namespace"));
  }
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("stat ", path));
  }
  return OpenNamespace{std::move(fd), IdOf(info)};
}

absl::Status FirstError(const std::vector<absl::Status>& statuses) {
  for (const absl::Status& status : statuses) {
    ESPALIER_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

bool Has(const PodNetworkSpec& spec, Family family) {
  for (const IpAddress& address : spec.addresses) {
    if (address.family() == family) return true;
  }
  return false;
}

// --- what stands, as values; made by Attach, compared by Verify ---

netlink::Address PodAddress(const IpAddress& address, int32_t index) {
  netlink::Address out;
  out.interface_index = index;
  out.address = address;
  out.prefix_length = static_cast<uint8_t>(address.bits());
  // The allocator knows that nobody else has it; detection would only keep the
  // address unusable for a second.
  if (address.is_v6()) out.flags = IFA_F_NODAD;
  return out;
}

netlink::Neighbour GatewayNeighbour(Family family, const std::string& owner,
                                    int32_t index) {
  netlink::Neighbour out;
  out.interface_index = index;
  out.address = Gateway(family);
  out.mac = HostMac(owner);
  return out;
}

netlink::Route DefaultRoute(Family family, int32_t index) {
  netlink::Route out;
  out.destination = *IpPrefix::Make(IpAddress::Any(family), 0);
  out.protocol = RTPROT_BOOT;  // as `ip route add` has it
  out.interface_index = index;
  out.gateway = Gateway(family);
  // No route covers the gateway.
  out.onlink = true;
  return out;
}

netlink::Neighbour PodNeighbour(const IpAddress& address,
                                const std::string& owner, int32_t index) {
  netlink::Neighbour out;
  out.interface_index = index;
  out.address = address;
  out.mac = PodMac(owner);
  return out;
}

netlink::Route PodRoute(const IpAddress& address, int32_t index) {
  netlink::Route out;
  out.destination = IpPrefix::Host(address);
  out.interface_index = index;
  out.protocol = network::kPodRouteProtocol;
  return out;
}

// --- settings ---

using Settings = std::vector<std::pair<std::string, std::string>>;

Settings PodSettings(const PodNetworkSpec& spec) {
  if (!Has(spec, Family::kIpv6)) return {};
  const std::string base =
      absl::StrCat("net/ipv6/conf/", spec.interface_name, "/");
  // Runtimes may turn IPv6 off in a sandbox; routes come from here only.
  return {{base + "disable_ipv6", "0"}, {base + "accept_ra", "0"}};
}

Settings HostSettings(const PodNetworkSpec& spec) {
  const std::string name = HostInterfaceName(spec.owner);
  Settings out;
  if (Has(spec, Family::kIpv4)) {
    const std::string base = absl::StrCat("net/ipv4/conf/", name, "/");
    out.push_back({base + "forwarding", "1"});
    // Strict: what the pod sends with another's source address stops here.
    out.push_back({base + "rp_filter", "1"});
    // With one gateway and one pod on the link, a redirect is never right.
    out.push_back({base + "send_redirects", "0"});
  }
  if (Has(spec, Family::kIpv6)) {
    const std::string base = absl::StrCat("net/ipv6/conf/", name, "/");
    out.push_back({base + "disable_ipv6", "0"});
    out.push_back({base + "forwarding", "1"});
    // Never learn routes from a pod.
    out.push_back({base + "accept_ra", "0"});
    out.push_back({base + "accept_redirects", "0"});
  }
  return out;
}

absl::Status ApplySettings(network::Sysctl* sysctl, const Settings& settings) {
  for (const auto& [name, value] : settings) {
    ESPALIER_RETURN_IF_ERROR(sysctl->Ensure(name, value));
  }
  return absl::OkStatus();
}

absl::Status CompareSettings(network::Sysctl* sysctl,
                             const Settings& settings) {
  for (const auto& [name, value] : settings) {
    ESPALIER_ASSIGN_OR_RETURN(const std::string actual, sysctl->Read(name));
    if (actual != value) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, " is ", actual, ", expected ", value));
    }
  }
  return absl::OkStatus();
}

// --- comparing ---

absl::Status Missing(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(what, " is missing"));
}

absl::Status CompareLink(const netlink::Link& link, const std::string& name,
                         uint32_t mtu, const netlink::MacAddress& mac) {
  if (!link.up()) {
    return absl::FailedPreconditionError(
        absl::StrCat("interface ", name, " is down"));
  }
  if (link.mtu != mtu) {
    return absl::FailedPreconditionError(absl::StrCat(
        "interface ", name, " has MTU ", link.mtu, ", expected ", mtu));
  }
  if (link.mac != mac) {
    return absl::FailedPreconditionError(absl::StrCat(
        "interface ", name, " has MAC ",
        link.mac.has_value() ? netlink::MacToString(*link.mac) : "(none)",
        ", expected ", netlink::MacToString(mac)));
  }
  return absl::OkStatus();
}

bool Contains(const std::vector<netlink::Route>& routes,
              const netlink::Route& wanted) {
  for (const netlink::Route& route : routes) {
    if (route.destination == wanted.destination &&
        route.interface_index == wanted.interface_index &&
        route.gateway == wanted.gateway && route.type == wanted.type &&
        route.table == wanted.table) {
      return true;
    }
  }
  return false;
}

bool Contains(const std::vector<netlink::Neighbour>& neighbours,
              const netlink::Neighbour& wanted) {
  for (const netlink::Neighbour& neighbour : neighbours) {
    if (neighbour.address == wanted.address && neighbour.mac == wanted.mac &&
        (neighbour.state & NUD_PERMANENT) != 0) {
      return true;
    }
  }
  return false;
}

absl::Status VerifyPod(netlink::Channel* channel, const PodNetworkSpec& spec) {
  RouteClient client(channel);
  ESPALIER_ASSIGN_OR_RETURN(const netlink::Link link,
                            client.GetLink(spec.interface_name));
  ESPALIER_RETURN_IF_ERROR(
      CompareLink(link, spec.interface_name, spec.mtu, PodMac(spec.owner)));
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Address> addresses,
                            client.ListAddresses(link.index));
  RouteClient::RouteFilter filter;
  filter.interface_index = link.index;
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Route> routes,
                            client.ListRoutes(filter));
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Neighbour> neighbours,
                            client.ListNeighbours(link.index));
  for (const IpAddress& address : spec.addresses) {
    bool found = false;
    for (const netlink::Address& actual : addresses) {
      found = found || (actual.address == address &&
                        actual.prefix_length == address.bits());
    }
    if (!found) return Missing(absl::StrCat("address ", address.ToString()));
    const Family family = address.family();
    if (!Contains(routes, DefaultRoute(family, link.index))) {
      return Missing(
          absl::StrCat("the default route by ", Gateway(family).ToString()));
    }
    if (!Contains(neighbours,
                  GatewayNeighbour(family, spec.owner, link.index))) {
      return Missing(
          absl::StrCat("the neighbour entry of ", Gateway(family).ToString()));
    }
  }
  return absl::OkStatus();
}

absl::Status VerifyHost(netlink::Channel* channel, const PodNetworkSpec& spec) {
  RouteClient client(channel);
  const std::string name = HostInterfaceName(spec.owner);
  ESPALIER_ASSIGN_OR_RETURN(const netlink::Link link, client.GetLink(name));
  if (link.alias != FormatAlias(spec.network, spec.owner)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "interface ", name, " has the alias \"", link.alias, "\""));
  }
  ESPALIER_RETURN_IF_ERROR(
      CompareLink(link, name, spec.mtu, HostMac(spec.owner)));
  RouteClient::RouteFilter filter;
  filter.interface_index = link.index;
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Route> routes,
                            client.ListRoutes(filter));
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Neighbour> neighbours,
                            client.ListNeighbours(link.index));
  for (const IpAddress& address : spec.addresses) {
    if (!Contains(routes, PodRoute(address, link.index))) {
      return Missing(absl::StrCat("the route to ", address.ToString()));
    }
    if (!Contains(neighbours, PodNeighbour(address, spec.owner, link.index))) {
      return Missing(
          absl::StrCat("the neighbour entry of ", address.ToString()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

IpAddress Gateway(Family family) {
  return family == Family::kIpv4 ? IpAddress::V4({169, 254, 1, 1})
                                 : IpAddress::V6({0xfe, 0x80, 0, 0, 0, 0, 0, 0,
                                                  0, 0, 0, 0, 0, 0, 0, 1});
}

absl::StatusOr<std::unique_ptr<netlink::Channel>>
KernelPodNetwork::Kernel::OpenChannel() {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Channel> channel,
                            netlink::Socket::Open());
  return channel;
}

absl::StatusOr<std::string> KernelPodNetwork::NamespaceId(
    const std::string& path) {
  ESPALIER_ASSIGN_OR_RETURN(const OpenNamespace opened, Open(path));
  return opened.id;
}

absl::Status KernelPodNetwork::MakePair(netlink::Channel* host,
                                        const PodNetworkSpec& spec,
                                        int netns_fd) {
  netlink::LinkSpec local;
  local.name = HostInterfaceName(spec.owner);
  local.mtu = spec.mtu;
  local.mac = HostMac(spec.owner);
  netlink::LinkSpec peer;
  peer.name = spec.interface_name;
  peer.mtu = spec.mtu;
  peer.mac = PodMac(spec.owner);
  peer.netns_fd = netns_fd;
  return RouteClient(host).AddVeth(local, peer);
}

absl::Status KernelPodNetwork::SetUpPod(netlink::Channel* pod,
                                        const PodNetworkSpec& spec) {
  ESPALIER_ASSIGN_OR_RETURN(const netlink::Link link,
                            RouteClient(pod).GetLink(spec.interface_name));
  ESPALIER_RETURN_IF_ERROR(ApplySettings(kernel_->sysctl(), PodSettings(spec)));
  std::vector<netlink::Request> requests;
  netlink::LinkChange up;
  up.up = true;
  up.gso_max_size = kPodGsoMaxSize;
  requests.push_back(netlink::ChangeLinkRequest(link.index, up));
  for (const IpAddress& address : spec.addresses) {
    const Family family = address.family();
    requests.push_back(
        AddressRequest(Verb::kAdd, PodAddress(address, link.index)));
    requests.push_back(NeighbourRequest(
        Verb::kReplace, GatewayNeighbour(family, spec.owner, link.index)));
    requests.push_back(
        RouteRequest(Verb::kAdd, DefaultRoute(family, link.index)));
  }
  absl::Status status = FirstError(pod->ExecuteBatch(std::move(requests)));
  // The interface is new and bare, so only a default route can be there.
  if (!absl::IsAlreadyExists(status)) return status;
  return absl::AlreadyExistsError(absl::StrCat(
      "the pod has a default route by another interface, and Espalier "
      "attaches a pod by one interface only: ",
      status.message()));
}

absl::Status KernelPodNetwork::SetUpHost(
    netlink::Channel* host, const PodNetworkSpec& spec,
    const std::function<absl::Status()>& before_up) {
  ESPALIER_ASSIGN_OR_RETURN(
      const netlink::Link link,
      RouteClient(host).GetLink(HostInterfaceName(spec.owner)));
  // The mark of ownership first: what follows may fail, or the agent end.
  netlink::LinkChange mark;
  mark.alias = FormatAlias(spec.network, spec.owner);
  mark.no_ipv6_link_local = true;
  ESPALIER_RETURN_IF_ERROR(RouteClient(host).ChangeLink(link.index, mark));
  ESPALIER_RETURN_IF_ERROR(
      ApplySettings(kernel_->sysctl(), HostSettings(spec)));
  ESPALIER_RETURN_IF_ERROR(before_up());
  std::vector<netlink::Request> requests;
  netlink::LinkChange up;
  up.up = true;
  requests.push_back(netlink::ChangeLinkRequest(link.index, up));
  for (const IpAddress& address : spec.addresses) {
    requests.push_back(NeighbourRequest(
        Verb::kReplace, PodNeighbour(address, spec.owner, link.index)));
    // Replace: the address is this pod's now, whatever an earlier life left.
    requests.push_back(
        RouteRequest(Verb::kReplace, PodRoute(address, link.index)));
  }
  return FirstError(host->ExecuteBatch(std::move(requests)));
}

absl::Status KernelPodNetwork::AwaitActive(netlink::Channel* pod,
                                           const PodNetworkSpec& spec) {
  // A worker of the kernel activates the end that came up first. On a busy
  // node that takes long enough for the pod's first packets to be lost.
  const absl::Time deadline = absl::Now() + kActivationTimeout;
  for (;;) {
    ESPALIER_ASSIGN_OR_RETURN(const netlink::Link link,
                              RouteClient(pod).GetLink(spec.interface_name));
    if (link.qdisc != "noop") return absl::OkStatus();
    if (absl::Now() > deadline) {
      return absl::UnavailableError(
          absl::StrCat("the kernel did not activate ", spec.interface_name,
                       " within ", absl::FormatDuration(kActivationTimeout)));
    }
    absl::SleepFor(kActivationPoll);
  }
}

absl::Status KernelPodNetwork::Attach(
    const PodNetworkSpec& spec,
    const std::function<absl::Status()>& before_up) {
  ESPALIER_ASSIGN_OR_RETURN(const OpenNamespace target,
                            Open(spec.network_namespace));
  ESPALIER_ASSIGN_OR_RETURN(const OpenNamespace own,
                            Open("/proc/thread-self/ns/net"));
  if (target.id == own.id) {
    return absl::FailedPreconditionError(absl::StrCat(
        spec.network_namespace, " is the node's own network namespace"));
  }
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Channel> host,
                            kernel_->OpenChannel());
  std::unique_ptr<netlink::Channel> pod;
  bool made = false;
  absl::Status status =
      netlink::RunInNetworkNamespace(target.fd.get(), [&]() -> absl::Status {
        ESPALIER_ASSIGN_OR_RETURN(pod, kernel_->OpenChannel());
        const auto existing =
            RouteClient(pod.get()).GetLink(spec.interface_name);
        if (existing.ok()) {
          return absl::AlreadyExistsError(
              absl::StrCat("interface ", spec.interface_name, " exists in ",
                           spec.network_namespace));
        }
        if (!absl::IsNotFound(existing.status())) return existing.status();
        // The host's channel works on the host from here too.
        ESPALIER_RETURN_IF_ERROR(MakePair(host.get(), spec, target.fd.get()));
        made = true;
        return Annotate(SetUpPod(pod.get(), spec), "set up the pod's end");
      });
  if (status.ok()) {
    status = Annotate(SetUpHost(host.get(), spec, before_up),
                      "set up the host's end");
  }
  if (status.ok()) {
    status = Annotate(AwaitActive(pod.get(), spec), "wait for the pod's end");
  }
  if (status.ok() || !made) return status;
  // Deleting one end deletes both and all that hangs on them.
  absl::Status undone =
      RouteClient(host.get()).DeleteLink(HostInterfaceName(spec.owner));
  if (!undone.ok() && !absl::IsNotFound(undone)) {
    return absl::Status(status.code(), absl::StrCat(status.message(),
                                                    "; and undoing it failed: ",
                                                    undone.message()));
  }
  return status;
}

absl::Status KernelPodNetwork::Verify(const PodNetworkSpec& spec) {
  ESPALIER_ASSIGN_OR_RETURN(const OpenNamespace target,
                            Open(spec.network_namespace));
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Channel> host,
                            kernel_->OpenChannel());
  ESPALIER_RETURN_IF_ERROR(
      Annotate(VerifyHost(host.get(), spec), "on the node"));
  ESPALIER_RETURN_IF_ERROR(Annotate(
      CompareSettings(kernel_->sysctl(), HostSettings(spec)), "on the node"));
  return Annotate(
      netlink::RunInNetworkNamespace(
          target.fd.get(),
          [&]() -> absl::Status {
            ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Channel> pod,
                                      kernel_->OpenChannel());
            ESPALIER_RETURN_IF_ERROR(VerifyPod(pod.get(), spec));
            return CompareSettings(kernel_->sysctl(), PodSettings(spec));
          }),
      "in the pod");
}

absl::Status KernelPodNetwork::CutOff(const PodNetworkSpec& spec) {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Channel> host,
                            kernel_->OpenChannel());
  const auto link =
      RouteClient(host.get()).GetLink(HostInterfaceName(spec.owner));
  if (absl::IsNotFound(link.status())) return absl::OkStatus();
  ESPALIER_RETURN_IF_ERROR(link.status());
  std::vector<netlink::Request> requests;
  for (const IpAddress& address : spec.addresses) {
    requests.push_back(
        RouteRequest(Verb::kDelete, PodRoute(address, link->index)));
  }
  for (const absl::Status& status : host->ExecuteBatch(std::move(requests))) {
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status KernelPodNetwork::Destroy(const std::string& owner) {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Channel> host,
                            kernel_->OpenChannel());
  RouteClient client(host.get());
  const std::string name = HostInterfaceName(owner);
  const auto link = client.GetLink(name);
  if (absl::IsNotFound(link.status())) return absl::OkStatus();
  ESPALIER_RETURN_IF_ERROR(link.status());
  // Without an alias it is a pair whose making was cut short.
  const auto alias = ParseAlias(link->alias);
  if (link->kind != "veth" ||
      (!link->alias.empty() && (!alias.has_value() || alias->owner != owner))) {
    return absl::FailedPreconditionError(
        absl::StrCat("interface ", name, " is not Espalier's: it is a ",
                     link->kind, " with the alias \"", link->alias, "\""));
  }
  // By index: the name may have gone to another meanwhile.
  const absl::Status status = client.DeleteLink(link->index);
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::StatusOr<std::vector<OwnedInterface>> KernelPodNetwork::List() {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Channel> host,
                            kernel_->OpenChannel());
  RouteClient client(host.get());
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Link> links,
                            client.ListLinks());
  RouteClient::RouteFilter filter;
  filter.protocol = network::kPodRouteProtocol;
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Route> routes,
                            client.ListRoutes(filter));
  std::map<int32_t, std::vector<IpAddress>> addresses;
  for (const netlink::Route& route : routes) {
    if (route.destination.length() == route.destination.address().bits()) {
      addresses[route.interface_index].push_back(route.destination.address());
    }
  }
  std::vector<OwnedInterface> out;
  for (const netlink::Link& link : links) {
    auto alias = ParseAlias(link.alias);
    if (link.kind != "veth" || !alias.has_value() ||
        link.name != HostInterfaceName(alias->owner)) {
      continue;
    }
    out.push_back({link.name, std::move(alias->network),
                   std::move(alias->owner), link.mtu, addresses[link.index]});
  }
  return out;
}

}  // namespace espalier::pods
