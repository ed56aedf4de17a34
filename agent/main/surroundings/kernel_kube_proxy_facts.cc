#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"
#include "agent/main/surroundings/kube_proxy.h"
#include "agent/netlink/route_client.h"
#include "agent/netlink/socket.h"

namespace espalier::agent {
namespace {

constexpr uint32_t kMostPrograms = 4096;
constexpr uint32_t kMostAttached = 64;  // the kernel's own limit

struct Family {
  uint8_t number;
  const char* name;
};
constexpr Family kFamilies[] = {{NFPROTO_IPV4, "ip"}, {NFPROTO_IPV6, "ip6"}};

// By name, instead of a list of all: iptables' tables may be very long.
absl::StatusOr<bool> Exists(netlink::Channel* channel, Family family,
                            const std::string& table,
                            const std::string& chain) {
  const uint16_t message = chain.empty() ? NFT_MSG_GETTABLE : NFT_MSG_GETCHAIN;
  netlink::Request request(
      static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | message), 0,
      absl::StrCat("look for table ", family.name, " ", table, " ", chain));
  request.PutStruct(nfgenmsg{
      .nfgen_family = family.number, .version = NFNETLINK_V0, .res_id = 0});
  if (chain.empty()) {
    request.PutString(NFTA_TABLE_NAME, table);
  } else {
    request.PutString(NFTA_CHAIN_TABLE, table);
    request.PutString(NFTA_CHAIN_NAME, chain);
  }
  absl::Status status = channel->Query(std::move(request)).status();
  if (status.ok()) return true;
  // EINVAL: a kernel without nftables.
  if (absl::IsNotFound(status) || absl::IsInvalidArgument(status)) return false;
  return status;
}

absl::Status ReadTables(KubeProxyFacts* facts) {
  ESPALIER_ASSIGN_OR_RETURN(
      const std::unique_ptr<netlink::Socket> socket,
      netlink::Socket::Open({.protocol = NETLINK_NETFILTER}));
  for (const Family family : kFamilies) {
    ESPALIER_ASSIGN_OR_RETURN(const bool table,
                              Exists(socket.get(), family, "kube-proxy", ""));
    if (table) {
      facts->tables.push_back(absl::StrCat(family.name, " kube-proxy"));
    }
    ESPALIER_ASSIGN_OR_RETURN(
        const bool chain, Exists(socket.get(), family, "nat", "KUBE-SERVICES"));
    if (chain) {
      facts->chains.push_back(absl::StrCat(family.name, " nat KUBE-SERVICES"));
    }
  }
  return absl::OkStatus();
}

// Asking the legacy iptables for a table would make it.
bool HasLegacyNat() {
  for (const char* path : {"/proc/thread-self/net/ip_tables_names",
                           "/proc/thread-self/net/ip6_tables_names"}) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      if (line == "nat") return true;
    }
  }
  return false;
}

std::optional<std::string> ProgramName(uint32_t id) {
  const int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) return std::nullopt;
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  const int failed = bpf_obj_get_info_by_fd(fd, &info, &size);
  close(fd);
  if (failed != 0) return std::nullopt;
  return std::string(info.name, strnlen(info.name, sizeof(info.name)));
}

std::vector<std::string> LoadedPrograms() {
  std::set<std::string> names;
  uint32_t id = 0;
  for (uint32_t i = 0; i < kMostPrograms && bpf_prog_get_next_id(id, &id) == 0;
       ++i) {
    if (auto name = ProgramName(id)) names.insert(*std::move(name));
  }
  return {names.begin(), names.end()};
}

// Of this process' cgroup and all above it: what holds for every process of
// the node holds for this one.
std::vector<std::string> ConnectPrograms() {
  const int cgroup = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (cgroup < 0) return {};
  std::set<std::string> names;
  for (const bpf_attach_type type :
       {BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT,
        BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_SENDMSG}) {
    uint32_t ids[kMostAttached] = {};
    uint32_t count = kMostAttached;
    uint32_t flags = 0;
    if (bpf_prog_query(cgroup, type, BPF_F_QUERY_EFFECTIVE, &flags, ids,
                       &count) != 0) {
      continue;
    }
    for (uint32_t i = 0; i < std::min(count, kMostAttached); ++i) {
      if (auto name = ProgramName(ids[i])) {
        names.insert(name->empty() ? "without a name" : *name);
      }
    }
  }
  close(cgroup);
  return {names.begin(), names.end()};
}

}  // namespace

absl::StatusOr<KubeProxyFacts> KernelKubeProxyFacts::Read() {
  KubeProxyFacts facts;
  ESPALIER_ASSIGN_OR_RETURN(const std::unique_ptr<netlink::Socket> socket,
                            netlink::Socket::Open());
  const absl::StatusOr<netlink::Link> ipvs =
      netlink::RouteClient(socket.get()).GetLink("kube-ipvs0");
  if (ipvs.ok()) {
    facts.links.push_back(ipvs->name);
  } else if (!absl::IsNotFound(ipvs.status())) {
    return ipvs.status();
  }
  ESPALIER_RETURN_IF_ERROR(ReadTables(&facts));
  facts.legacy_iptables = HasLegacyNat();
  facts.programs = LoadedPrograms();
  facts.connect_programs = ConnectPrograms();
  return facts;
}

}  // namespace espalier::agent
