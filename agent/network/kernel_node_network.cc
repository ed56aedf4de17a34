#include "agent/network/kernel_node_network.h"

#include <linux/rtnetlink.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/network/ownership.h"

namespace espalier::network {
namespace {

using netlink::Verb;

constexpr char kMasquerade[] = "masquerading";

netlink::Request RequestFor(Verb verb, const netlink::Route& route) {
  return netlink::RouteRequest(verb, route);
}
netlink::Request RequestFor(Verb verb, const netlink::Rule& rule) {
  return netlink::RuleRequest(verb, rule);
}
netlink::Request RequestFor(Verb verb, netlink::Address address) {
  // Nobody else has an address of our own pod CIDR: no need to wait and see.
  if (address.address.is_v6()) address.flags = IFA_F_NODAD;
  return netlink::AddressRequest(verb, address);
}

// Of those on the interface that has the tunnel's addresses.
bool OurAddress(const DesiredNetwork& desired,
                const netlink::Address& address) {
  // The tunnel's own interface is ours, its link-local address the kernel's.
  if (!desired.tunnel_is_uplink) return !address.address.IsLinkLocal();
  return std::ranges::any_of(
      desired.own_pod_cidrs, [&](const base::IpPrefix& cidr) {
        return cidr.Contains(base::IpPrefix::Host(address.address));
      });
}

template <typename Map>
void AddProblems(const Map& items, const char* kind,
                 std::vector<NetworkProblem>* problems) {
  for (const auto& problem : items.Problems()) {
    problems->push_back({kind, problem.status});
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<KernelNodeNetwork>> KernelNodeNetwork::Open(
    base::EventLoop* loop, base::Clock* clock, Options options) {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Socket> requests,
                            netlink::Socket::Open());
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Socket> notifications,
                            netlink::Socket::Open());
  auto network = std::make_unique<KernelNodeNetwork>(
      loop, clock, std::move(requests), std::move(notifications),
      std::make_unique<Sysctl>(), std::make_unique<Nftables>(), options);
  KernelNodeNetwork* const raw = network.get();
  ESPALIER_RETURN_IF_ERROR(raw->notifications_->Subscribe(
      {RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR,
       RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_RULE,
       RTNLGRP_IPV6_RULE},
      [raw](const netlink::Reply& reply) { raw->HandleNotification(reply); },
      [raw] { raw->ResyncSoon(raw->options_.settle); }));
  loop->Watch(raw->notifications_->fd(), /*readable=*/true,
              /*writable=*/false,
              [raw](bool, bool) { raw->notifications_->HandleReadable(); });
  return network;
}

KernelNodeNetwork::KernelNodeNetwork(
    base::EventLoop* loop, base::Clock* clock,
    std::unique_ptr<netlink::Channel> channel,
    std::unique_ptr<netlink::Socket> notifications,
    std::unique_ptr<Sysctl> sysctl, std::unique_ptr<Nftables> nftables,
    Options options)
    : loop_(loop),
      clock_(clock),
      channel_(std::move(channel)),
      notifications_(std::move(notifications)),
      sysctl_(std::move(sysctl)),
      nftables_(std::move(nftables)),
      options_(options),
      client_(channel_.get()),
      vxlan_(&client_, sysctl_.get()),
      barriers_(options.first_retry, options.longest_retry),
      routes_(options.first_retry, options.longest_retry),
      rules_(options.first_retry, options.longest_retry),
      addresses_(options.first_retry, options.longest_retry) {}

KernelNodeNetwork::~KernelNodeNetwork() {
  loop_->CancelTimer(timer_);
  if (notifications_ != nullptr) loop_->Unwatch(notifications_->fd());
}

void KernelNodeNetwork::SetDesired(DesiredNetwork desired) {
  if (desired_ == desired) return;
  // The settings of an interface are made when it is first seen; the rest of
  // the kernel's state is known from the last look.
  const bool look = !desired_ ||
                    desired_->tunnel_interface != desired.tunnel_interface ||
                    tunnel_index_ == 0;
  desired_ = std::move(desired);
  if (look) {
    // Not a word of the status: it is in Problems(), and tried again.
    Resync().IgnoreError();
  } else {
    Apply();
  }
}

absl::Status KernelNodeNetwork::Resync() {
  if (!desired_) return absl::OkStatus();
  absl::Status status = Read();
  failed_["reading the kernel's state"] = status;
  next_resync_ = clock_->Now() + options_.resync;
  if (!status.ok()) {
    base::Log(base::LogLevel::kWarning, "network state not read",
              {{"error", status}});
    RetrySoon();
    return status;
  }
  Apply();
  return absl::OkStatus();
}

absl::Status KernelNodeNetwork::Read() {
  int32_t index = 0;
  if (!desired_->tunnel_interface.empty()) {
    const absl::StatusOr<netlink::Link> link =
        client_.GetLink(desired_->tunnel_interface);
    if (link.ok()) {
      index = link->index;
    } else if (!absl::IsNotFound(link.status())) {
      return link.status();
    }
  }
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Route> routes,
                            client_.ListRoutes({.protocol = kRouteProtocol}));
  RouteMap actual_barriers, actual_routes;
  for (const netlink::Route& route : routes) {
    (LeadsNowhere(route) ? actual_barriers : actual_routes)[KeyOf(route)] =
        Normalized(route);
  }
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Rule> rules,
                            client_.ListRules());
  RuleMap actual_rules;
  for (const netlink::Rule& rule : rules) {
    if (rule.protocol == kRouteProtocol) actual_rules[rule.ToString()] = rule;
  }
  int32_t address_index = index;
  if (index != 0 && desired_->tunnel_is_uplink) {
    ESPALIER_ASSIGN_OR_RETURN(const netlink::Link loopback,
                              client_.GetLink("lo"));
    address_index = loopback.index;
  }
  AddressMap actual_addresses;
  if (index != 0) {
    ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Address> addresses,
                              client_.ListAddresses(address_index));
    for (const netlink::Address& address : addresses) {
      if (!OurAddress(*desired_, address)) continue;
      actual_addresses[{address.address, address.prefix_length}] =
          Normalized(address);
    }
  }
  tunnel_index_ = index;
  address_index_ = address_index;
  barriers_.SetActual(actual_barriers);
  routes_.SetActual(actual_routes);
  rules_.SetActual(actual_rules);
  addresses_.SetActual(actual_addresses);
  // Somebody may have deleted the table: nothing tells of that.
  if (!masquerade_commands_.empty()) {
    const absl::StatusOr<std::string> listed =
        nftables_->Run(absl::StrCat("list table inet ", kNatTable));
    if (!listed.ok() || *listed != masquerade_listed_) {
      masquerade_commands_.clear();
    }
  }
  return absl::OkStatus();
}

void KernelNodeNetwork::ApplyVxlan() {
  if (!desired_->vxlan && vxlan_index_ == 0) return;
  const absl::StatusOr<int32_t> index = vxlan_.Ensure(desired_->vxlan);
  absl::Status& before = failed_["the VXLAN device"];
  if (!index.ok() && index.status() != before) {
    base::Log(base::LogLevel::kWarning, "the plaintext path is not there",
              {{"error", index.status()}});
  }
  before = index.status();
  vxlan_index_.reset();
  if (index.ok()) vxlan_index_ = *index;
}

void KernelNodeNetwork::Apply() {
  ApplyVxlan();
  ApplySettings();
  addresses_.SetDesired(DesiredAddresses(*desired_, address_index_));
  RouteMap barriers, routes;
  for (const auto& [key, route] :
       DesiredRoutes(*desired_, tunnel_index_, vxlan_index_.value_or(0))) {
    (LeadsNowhere(route) ? barriers : routes)[key] = route;
  }
  barriers_.SetDesired(barriers);
  routes_.SetDesired(routes);
  rules_.SetDesired(DesiredRules(*desired_));
  // What leads nowhere stands before the rules that lead to it, and goes last:
  // there is no moment in which inside traffic finds the uplink. Addresses
  // before routes, they are their sources.
  Change(&barriers_, /*may_delete=*/false);
  Change(&addresses_, may_delete());
  Change(&rules_, may_delete());
  Change(&routes_, may_delete());
  Change(&barriers_, may_delete());
  ApplyMasquerade();
  if (std::ranges::any_of(failed_,
                          [](const auto& item) { return !item.second.ok(); })) {
    RetrySoon();
  } else {
    retry_ = absl::ZeroDuration();
    ArmTimer();
  }
}

template <typename Key, typename Value>
void KernelNodeNetwork::Change(base::Reconciliation<Key, Value>* items,
                               bool may_delete) {
  const auto changes = items->Begin(clock_->Now(), may_delete);
  if (changes.empty()) return;
  std::vector<netlink::Request> requests;
  // Which change each request is of: a change of a value that the kernel
  // cannot replace takes two.
  std::vector<size_t> of;
  for (size_t i = 0; i < changes.size(); ++i) {
    const auto& change = changes[i];
    if (!change.value) {
      // Uncertain ones too: what was asked for last is not known any more, and
      // the next look finds it.
      if (!change.actual) continue;
      requests.push_back(RequestFor(Verb::kDelete, *change.actual));
    } else {
      // Never in the place of a foreign one: replacing is for what is ours.
      requests.push_back(RequestFor(change.actual ? Verb::kReplace : Verb::kAdd,
                                    *change.value));
    }
    of.push_back(i);
  }
  std::vector<std::string> names;
  for (const netlink::Request& request : requests) {
    names.push_back(request.what());
  }
  const std::vector<absl::Status> results =
      channel_->ExecuteBatch(std::move(requests));
  std::vector<absl::Status> outcome(changes.size());
  for (size_t i = 0; i < results.size(); ++i) {
    absl::Status status = results[i];
    const bool deletion = !changes[of[i]].value.has_value();
    if (deletion && absl::IsNotFound(status)) status = absl::OkStatus();
    if (!status.ok()) {
      base::Log(base::LogLevel::kWarning, "network change failed",
                {{"change", names[i]}, {"error", status}});
      // What is there is not what was thought to be.
      ResyncSoon(options_.first_retry);
    }
    outcome[of[i]] = std::move(status);
  }
  for (size_t i = 0; i < changes.size(); ++i) {
    items->End(changes[i].key, outcome[i], clock_->Now());
  }
}

void KernelNodeNetwork::SetSysctl(const std::string& name,
                                  const std::string& value) {
  const absl::Status status = sysctl_->Ensure(name, value);
  const auto before = failed_.find(name);
  if (!status.ok() && (before == failed_.end() || before->second.ok())) {
    base::Log(base::LogLevel::kWarning, "kernel setting not made",
              {{"name", name}, {"value", value}, {"error", status}});
  }
  failed_[name] = status;
}

void KernelNodeNetwork::ApplySettings() {
  bool v4 = false, v6 = false;
  for (const base::IpPrefix& cidr : desired_->own_pod_cidrs) {
    (cidr.family() == base::Family::kIpv4 ? v4 : v6) = true;
  }
  if (v4) SetSysctl("net/ipv4/ip_forward", "1");
  if (v6) failed_["IPv6 forwarding"] = EnableIpv6Forwarding();
  if (tunnel_index_ != 0 && v4 && !desired_->tunnel_is_uplink) {
    // Loose: what comes out of the tunnel may have the address of a node,
    // whose own route is the uplink's.
    SetSysctl(absl::StrCat("net/ipv4/conf/", desired_->tunnel_interface,
                           "/rp_filter"),
              "2");
  }
  if (v4 && !desired_->plain_routes.empty() && !desired_->vxlan) {
    failed_["loose reverse-path filter of uplinks"] = LoosenUplinks();
  }
}

// What `disabled` pods of peers send comes in by the uplink, while the way back
// to their addresses is the tunnel's: strict filtering would drop it.
absl::Status KernelNodeNetwork::LoosenUplinks() {
  ESPALIER_ASSIGN_OR_RETURN(const std::string all,
                            sysctl_->Read("net/ipv4/conf/all/rp_filter"));
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Address> addresses,
                            client_.ListAddresses());
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Link> links,
                            client_.ListLinks());
  for (const netlink::Address& address : addresses) {
    if (std::ranges::find(desired_->node_addresses, address.address) ==
        desired_->node_addresses.end()) {
      continue;
    }
    for (const netlink::Link& link : links) {
      if (link.index != address.interface_index) continue;
      const std::string name =
          absl::StrCat("net/ipv4/conf/", link.name, "/rp_filter");
      ESPALIER_ASSIGN_OR_RETURN(const std::string own, sysctl_->Read(name));
      // The stricter word of the two is not what counts: the larger number is.
      if (std::max(all, own) == "1") {
        ESPALIER_RETURN_IF_ERROR(sysctl_->Write(name, "2"));
      }
    }
  }
  return absl::OkStatus();
}

// Forwarding turns router advertisements off on interfaces with accept_ra 1,
// which would cost the node its default route a while later.
absl::Status KernelNodeNetwork::EnableIpv6Forwarding() {
  constexpr char kForwarding[] = "net/ipv6/conf/all/forwarding";
  ESPALIER_ASSIGN_OR_RETURN(const std::string current,
                            sysctl_->Read(kForwarding));
  if (current == "1") return absl::OkStatus();
  // Only uplinks: those with a node's address or an advertised default route.
  // A pod's interface must not begin to believe advertisements.
  std::set<int32_t> uplinks;
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Address> addresses,
                            client_.ListAddresses());
  for (const netlink::Address& address : addresses) {
    if (std::ranges::find(desired_->node_addresses, address.address) !=
        desired_->node_addresses.end()) {
      uplinks.insert(address.interface_index);
    }
  }
  ESPALIER_ASSIGN_OR_RETURN(
      const std::vector<netlink::Route> advertised,
      client_.ListRoutes(
          {.family = base::Family::kIpv6, .protocol = uint8_t{RTPROT_RA}}));
  for (const netlink::Route& route : advertised) {
    uplinks.insert(route.interface_index);
  }
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Link> links,
                            client_.ListLinks());
  for (const netlink::Link& link : links) {
    if (!uplinks.contains(link.index)) continue;
    const std::string name =
        absl::StrCat("net/ipv6/conf/", link.name, "/accept_ra");
    const absl::StatusOr<std::string> accept = sysctl_->Read(name);
    if (accept.ok() && *accept == "1") {
      ESPALIER_RETURN_IF_ERROR(sysctl_->Write(name, "2"));
    }
  }
  return sysctl_->Write(kForwarding, "1");
}

void KernelNodeNetwork::ApplyMasquerade() {
  std::string commands = MasqueradeCommands(*desired_);
  if (commands.empty()) {
    commands = absl::StrCat("table inet ", kNatTable,
                            " {\n}\ndelete table inet ", kNatTable, "\n");
  }
  if (commands == masquerade_commands_) return;
  absl::StatusOr<std::string> result = nftables_->Run(commands);
  failed_[kMasquerade] = result.status();
  if (!result.ok()) {
    base::Log(base::LogLevel::kWarning, "masquerading not set up",
              {{"error", result.status()}});
    return;
  }
  masquerade_commands_ = std::move(commands);
  masquerade_listed_ =
      nftables_->Run(absl::StrCat("list table inet ", kNatTable)).value_or("");
}

void KernelNodeNetwork::HandleNotification(const netlink::Reply& reply) {
  if (!desired_) return;
  bool ours = false;
  switch (reply.type) {
    case RTM_NEWLINK:
    case RTM_DELLINK: {
      const auto link = netlink::DecodeLink(reply.payload);
      ours =
          link.ok() && (link->name == desired_->tunnel_interface ||
                        (tunnel_index_ != 0 && link->index == tunnel_index_) ||
                        (desired_->vxlan && link->name == kVxlanDevice));
      break;
    }
    case RTM_NEWADDR:
    case RTM_DELADDR: {
      const auto address = netlink::DecodeAddress(reply.payload);
      ours = address.ok() && address->interface_index == address_index_;
      break;
    }
    case RTM_NEWROUTE:
    case RTM_DELROUTE: {
      const auto route = netlink::DecodeRoute(reply.payload);
      ours = route.ok() && route->protocol == kRouteProtocol;
      break;
    }
    case RTM_NEWRULE:
    case RTM_DELRULE: {
      const auto rule = netlink::DecodeRule(reply.payload);
      ours = rule.ok() && rule->protocol == kRouteProtocol;
      break;
    }
    default:
      break;
  }
  if (ours) ResyncSoon(options_.settle);
}

void KernelNodeNetwork::ResyncSoon(absl::Duration delay) {
  next_resync_ = std::min(next_resync_, clock_->Now() + delay);
  ArmTimer();
}

void KernelNodeNetwork::RetrySoon() {
  retry_ = retry_ == absl::ZeroDuration()
               ? options_.first_retry
               : std::min(2 * retry_, options_.longest_retry);
  ResyncSoon(retry_);
}

void KernelNodeNetwork::ArmTimer() {
  loop_->CancelTimer(std::exchange(timer_, 0));
  base::Instant next = next_resync_;
  for (const std::optional<base::Instant>& due :
       {barriers_.NextDue(may_delete()), routes_.NextDue(may_delete()),
        rules_.NextDue(may_delete()), addresses_.NextDue(may_delete())}) {
    if (due) next = std::min(next, *due);
  }
  if (next == absl::InfiniteFuture()) return;
  timer_ = loop_->RunAfter(std::max(next - clock_->Now(), absl::ZeroDuration()),
                           [this] {
                             timer_ = 0;
                             // Also for a retry: a look costs little, and says
                             // what is still due.
                             Resync().IgnoreError();
                           });
}

std::vector<NetworkProblem> KernelNodeNetwork::Problems() const {
  std::vector<NetworkProblem> problems;
  for (const auto& [name, status] : failed_) {
    if (!status.ok()) problems.push_back({name, status});
  }
  AddProblems(barriers_, "route", &problems);
  AddProblems(routes_, "route", &problems);
  AddProblems(rules_, "rule", &problems);
  AddProblems(addresses_, "address", &problems);
  return problems;
}

}  // namespace espalier::network
