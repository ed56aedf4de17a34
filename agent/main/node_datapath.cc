#include "agent/main/node_datapath.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/base/log.h"
#include "agent/base/security_association.h"
#include "agent/base/status_macros.h"
#include "agent/datapath/kernel/kernel_datapath.h"
#include "agent/datapath/user/user_datapath.h"
#include "agent/netlink/route_client.h"
#include "agent/netlink/socket.h"
#include "agent/runtime/held_port.h"

namespace espalier::agent {
namespace {

using base::LogLevel;

// Below it an interface loses IPv6 (RFC 8200 5).
constexpr size_t kLeastMtu = 1280;

class User : public NodeDatapath {
 public:
  User(base::EventLoop* loop, const mesh::Config& config)
      : driver_(loop, {.socket_path = config.espd_socket}) {}

  mesh::DatapathDriver kind() const override {
    return mesh::DatapathDriver::kUser;
  }
  datapath::Datapath* driver() override { return &driver_; }
  absl::Status Start(IkeHandler handler) override {
    driver_.SetIkeHandler(std::move(handler));
    driver_.Start();
    return absl::OkStatus();
  }
  void SendIke(const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes) override {
    driver_.SendIke(local, remote, bytes);
  }
  void SendKeepalive(const base::Endpoint& local,
                     const base::Endpoint& remote) override {
    driver_.SendKeepalive(local, remote);
  }
  absl::Status Ready() const override {
    if (driver_.connected()) return absl::OkStatus();
    return absl::UnavailableError(
        "espalier-espd does not answer on its socket (datapath.espdSocket)");
  }
  void GetStatistics(StatisticsDone done) override {
    driver_.GetStatistics(std::move(done));
  }

 private:
  datapath::UserDatapath driver_;
};

class Kernel : public NodeDatapath {
 public:
  Kernel(base::EventLoop* loop, base::RandomSource* random,
         const mesh::Config& config, const std::string& uplink,
         uint32_t per_cpu_sas)
      : per_cpu_sas_(per_cpu_sas),
        driver_(loop, random, OptionsOf(config, uplink)),
        port_(loop, {.socket_path = config.espd_socket},
              [this](const base::Endpoint& local, const base::Endpoint& remote,
                     base::ByteSpan bytes) {
                if (handler_) handler_(local, remote, bytes);
              }) {}

  mesh::DatapathDriver kind() const override {
    return mesh::DatapathDriver::kKernel;
  }
  datapath::Datapath* driver() override { return &driver_; }
  uint32_t per_cpu_sas() const override { return per_cpu_sas_; }
  absl::Status Start(IkeHandler handler) override {
    handler_ = std::move(handler);
    ESPALIER_RETURN_IF_ERROR(
        base::Annotate(driver_.Start(), "kernel datapath"));
    port_.Start([] {});
    return absl::OkStatus();
  }
  void SendIke(const base::Endpoint& local, const base::Endpoint& remote,
               base::ByteSpan bytes) override {
    const absl::Status sent = port_.SendIke(local, remote, bytes);
    // A retransmission follows; a network that is down would fill the log.
    if (!sent.ok()) {
      base::Log(LogLevel::kDebug, "IKE message not sent", {{"error", sent}});
    }
  }
  void SendKeepalive(const base::Endpoint& local,
                     const base::Endpoint& remote) override {
    // Otherwise the kernel sends them, by the SA's own attribute.
    if (!driver_.features().nat_keepalive) port_.SendKeepalive(local, remote);
  }
  absl::Status Ready() const override { return port_.status(); }
  void GetStatistics(StatisticsDone done) override {
    std::ifstream stream("/proc/net/xfrm_stat");
    std::ostringstream text;
    text << stream.rdbuf();
    done(ParseXfrmStatistics(text.str()));
  }

 private:
  static datapath::KernelDatapath::Options OptionsOf(
      const mesh::Config& config, const std::string& uplink) {
    datapath::KernelDatapath::Options options;
    options.policy_based_uplink = uplink;
    // Fits the largest encapsulation that a pair may come to use; the routes
    // are exact.
    options.mtu = static_cast<uint32_t>(std::max(
        kLeastMtu, base::InnerMtu({}, base::Family::kIpv6, /*udp=*/true,
                                  config.node.uplink_mtu)));
    options.local_addresses = config.node.addresses;
    options.nat_keepalive = config.timers.nat_keepalive_interval;
    return options;
  }

  const uint32_t per_cpu_sas_;
  datapath::KernelDatapath driver_;
  IkeHandler handler_;
  runtime::HeldPort port_;
};

// As many as this kernel can have of those that the configuration wants.
absl::StatusOr<uint32_t> PerCpuSas(base::RandomSource* random,
                                   const mesh::Config& config) {
  if (config.per_cpu_sas == 0) return 0;
  ESPALIER_ASSIGN_OR_RETURN(const auto socket,
                            netlink::Socket::Open({.protocol = NETLINK_XFRM}));
  ESPALIER_ASSIGN_OR_RETURN(
      const datapath::KernelFeatures features,
      datapath::KernelDatapath::Probe(socket.get(), random));
  if (!features.per_cpu) {
    base::Log(LogLevel::kWarning,
              "this kernel has no SAs per CPU (RFC 9611; Linux 6.13): "
              "datapath.kernel.perCpuSas changes nothing",
              {});
    return 0;
  }
  // The kernel refuses the number of a CPU that cannot come.
  return std::min(config.per_cpu_sas, static_cast<uint32_t>(std::max(
                                          1L, sysconf(_SC_NPROCESSORS_CONF))));
}

// The interface that has the node's first address.
absl::StatusOr<std::string> UplinkOf(const mesh::Config& config) {
  ESPALIER_ASSIGN_OR_RETURN(const auto socket, netlink::Socket::Open());
  netlink::RouteClient client(socket.get());
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Address> addresses,
                            client.ListAddresses());
  const base::IpAddress& wanted = config.node.addresses.front();
  for (const netlink::Address& address : addresses) {
    if (address.address != wanted) continue;
    ESPALIER_ASSIGN_OR_RETURN(const netlink::Link link,
                              client.GetLink(address.interface_index));
    return link.name;
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "no interface has ", wanted.ToString(),
      " (node.addresses): policy-based routing needs to know the uplink"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<NodeDatapath>> NodeDatapath::Choose(
    base::EventLoop* loop, base::RandomSource* random,
    const mesh::Config& config) {
  mesh::DatapathDriver kind = config.datapath_driver;
  if (kind == mesh::DatapathDriver::kAuto) {
    absl::Status probed;
    const auto socket = netlink::Socket::Open({.protocol = NETLINK_XFRM});
    probed =
        socket.ok()
            ? datapath::KernelDatapath::Probe(socket->get(), random).status()
            : socket.status();
    // What was not the kernel's lack must not silently become another datapath.
    if (absl::IsPermissionDenied(probed)) return probed;
    kind = probed.ok() ? mesh::DatapathDriver::kKernel
                       : mesh::DatapathDriver::kUser;
    base::Log(LogLevel::kInfo, "datapath chosen",
              {{"driver", probed.ok() ? "kernel" : "user"},
               {"why", probed.ok() ? "this kernel has ESP"
                                   : std::string(probed.message())}});
  }
  if (kind == mesh::DatapathDriver::kUser) {
    return std::make_unique<User>(loop, config);
  }
  std::string uplink;
  if (config.kernel_routing == mesh::KernelRouting::kPolicyBased) {
    ESPALIER_ASSIGN_OR_RETURN(uplink, UplinkOf(config));
  }
  ESPALIER_ASSIGN_OR_RETURN(const uint32_t per_cpu_sas,
                            PerCpuSas(random, config));
  return std::make_unique<Kernel>(loop, random, config, uplink, per_cpu_sas);
}

std::vector<std::pair<std::string, uint64_t>> ParseXfrmStatistics(
    const std::string& text) {
  std::vector<std::pair<std::string, uint64_t>> result;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    uint64_t value = 0;
    if (words.size() != 2 || !absl::SimpleAtoi(words[1], &value)) continue;
    result.emplace_back(std::string(words[0]), value);
  }
  return result;
}

}  // namespace espalier::agent
