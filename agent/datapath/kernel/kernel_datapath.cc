#include "agent/datapath/kernel/kernel_datapath.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/xfrm.h>
#include <netinet/in.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/base/log.h"
#include "agent/base/proc_sys.h"
#include "agent/base/status_macros.h"
#include "agent/datapath/kernel/policy_set.h"
#include "agent/netlink/route_client.h"

namespace espalier::datapath {
namespace {

using netlink::Reply;
using netlink::XfrmPolicy;
using netlink::XfrmState;

bool Owned(base::Reqid reqid) {
  return reqid.value() >= base::kOwnedReqidFirst &&
         reqid.value() <= base::kOwnedReqidLast;
}

// Keys that the kernel read back go at once.
void WipeReplies(std::vector<Reply>* replies) {
  for (Reply& reply : *replies) base::Wipe(reply.payload);
}

// A larval state lives so long; while it does, traffic asks for no SA again.
constexpr char kAcquireSeconds[] = "5";
constexpr absl::Duration kLongestWatch = absl::Seconds(5);
constexpr int kDumpTries = 5;
constexpr absl::Duration kRepairRetry = absl::Seconds(1);

void WriteSysctl(const std::string& path, const char* value) {
  std::ofstream stream(path);
  stream << value << std::flush;
  if (!stream.good()) {
    base::Log(base::LogLevel::kWarning, "setting not written",
              {{"path", path}, {"value", value}});
  }
}

bool SoftLimitReached(const XfrmState& state, uint64_t now) {
  const base::SaLimits& limits = state.limits;
  return (limits.soft_packets != 0 && state.packets >= limits.soft_packets) ||
         (limits.soft_bytes != 0 && state.bytes >= limits.soft_bytes) ||
         (limits.soft_time > absl::ZeroDuration() &&
          absl::Seconds(now - std::min(now, state.added)) >= limits.soft_time);
}

// Owned SAs of a dump. SPI 0: a larval state, which an acquire left.
absl::StatusOr<std::vector<XfrmState>> DecodeStates(
    std::vector<Reply>* replies) {
  std::vector<XfrmState> states;
  absl::Status error;
  for (const Reply& reply : *replies) {
    if (reply.type != XFRM_MSG_NEWSA) continue;
    absl::StatusOr<XfrmState> state = netlink::DecodeState(reply.payload);
    if (!state.ok()) {
      error = state.status();
      break;
    }
    if ((state->protocol != IPPROTO_ESP && state->protocol != IPPROTO_AH) ||
        !Owned(state->reqid)) {
      continue;
    }
    states.push_back(*std::move(state));
  }
  WipeReplies(replies);
  if (!error.ok()) return error;
  return states;
}

}  // namespace

KernelDatapath::KernelDatapath(base::EventLoop* loop,
                               base::RandomSource* random, Options options)
    : loop_(loop), random_(random), options_(std::move(options)) {}

KernelDatapath::~KernelDatapath() {
  *alive_ = false;
  loop_->CancelTimer(watch_timer_);
  loop_->CancelTimer(repair_timer_);
  for (const auto* socket :
       {requests_.get(), notifications_.get(), links_.get()}) {
    if (socket != nullptr) loop_->Unwatch(socket->fd());
  }
}

absl::StatusOr<KernelFeatures> KernelDatapath::Probe(
    netlink::Channel* channel, base::RandomSource* random) {
  base::EspSa sa;
  sa.direction = base::Direction::kOutbound;
  sa.spi = base::Spi(random->U32() | 0x80000000u);
  // Of the documentation's block (RFC 5737): no packet can meet it.
  sa.outer_source = base::IpAddress::V4({192, 0, 2, 1});
  sa.outer_destination = base::IpAddress::V4({192, 0, 2, 2});
  sa.encapsulation = base::EspSa::Encapsulation{};
  // With ESN a kernel that knows the direction wants other attributes than one
  // that doesn't.
  sa.suite.esn = false;
  sa.encryption_key = base::SecretBytes(sa.suite.encryption_key_size());
  random->Fill(sa.encryption_key.mutable_span());
  sa.reqid = base::Reqid(base::kOwnedReqidLast);
  sa.cpu = 0;
  const SaKey key{sa.direction, sa.outer_destination, sa.spi};
  // The shortest interval: the kernel's timer outlives this SA by it, and the
  // keepalives of SAs that come meanwhile wait for that (seen on 6.12, 6.18).
  ESPALIER_ASSIGN_OR_RETURN(
      netlink::Request add,
      netlink::AddStateRequest(sa, {.direction = true, .nat_keepalive = 1}));
  if (absl::Status added = channel->Execute(std::move(add)); !added.ok()) {
    return absl::Status(
        absl::IsPermissionDenied(added) ? added.code()
                                        : absl::StatusCode::kUnimplemented,
        absl::StrCat("this kernel's ESP cannot be used: ", added.message()));
  }
  absl::StatusOr<std::vector<Reply>> replies =
      channel->Query(netlink::GetStateRequest(key));
  const absl::Status removed =
      channel->Execute(netlink::DeleteStateRequest(key));
  if (!replies.ok()) return replies.status();
  absl::StatusOr<std::vector<XfrmState>> states = DecodeStates(&*replies);
  if (!states.ok()) return states.status();
  ESPALIER_RETURN_IF_ERROR(removed);
  if (states->size() != 1) {
    return absl::InternalError("the probe's SA could not be read back");
  }
  return KernelFeatures{
      .direction = states->front().direction.has_value(),
      .nat_keepalive = states->front().nat_keepalive != 0,
      .per_cpu = states->front().cpu == uint32_t{0},
  };
}

absl::Status KernelDatapath::OpenSockets() {
  netlink::Socket::Options xfrm{.protocol = NETLINK_XFRM};
  ESPALIER_ASSIGN_OR_RETURN(requests_, netlink::Socket::Open(xfrm));
  ESPALIER_ASSIGN_OR_RETURN(notifications_, netlink::Socket::Open(xfrm));
  ESPALIER_RETURN_IF_ERROR(notifications_->Subscribe(
      {XFRMNLGRP_EXPIRE, XFRMNLGRP_ACQUIRE, XFRMNLGRP_POLICY},
      [this](const Reply& notification) { HandleNotification(notification); },
      [this] { HandleOverrun(); }));
  if (route_based()) {
    ESPALIER_ASSIGN_OR_RETURN(links_, netlink::Socket::Open());
    ESPALIER_RETURN_IF_ERROR(links_->Subscribe(
        {RTNLGRP_LINK},
        [this](const Reply& notification) { HandleLink(notification); },
        [this] { RepairInterface(); }));
    loop_->Watch(links_->fd(), true, false,
                 [this](bool, bool) { links_->HandleReadable(); });
  }
  for (netlink::Socket* socket : {requests_.get(), notifications_.get()}) {
    loop_->Watch(socket->fd(), true, false,
                 [socket](bool, bool) { socket->HandleReadable(); });
  }
  return absl::OkStatus();
}

absl::Status KernelDatapath::MakeInterface() {
  if (!route_based()) return absl::OkStatus();
  ESPALIER_ASSIGN_OR_RETURN(const auto socket, netlink::Socket::Open());
  netlink::RouteClient route(socket.get());
  absl::Status added = socket->Execute(netlink::AddXfrmInterfaceRequest(
      options_.interface, options_.if_id, options_.mtu));
  if (added.ok()) return absl::OkStatus();
  const absl::StatusOr<netlink::Link> link = route.GetLink(options_.interface);
  if (!link.ok()) return added;
  if (link->kind != "xfrm") {
    return absl::FailedPreconditionError(absl::StrCat(
        "interface ", options_.interface, " is of kind '", link->kind,
        "', not xfrm: remove it or configure another name"));
  }
  // Left by an earlier agent; its SAs and policies go through it.
  return route.ChangeLink(link->index, {.up = true, .mtu = options_.mtu});
}

void KernelDatapath::HandleLink(const Reply& notification) {
  if (notification.type != RTM_DELLINK && notification.type != RTM_NEWLINK) {
    return;
  }
  const absl::StatusOr<netlink::Link> link =
      netlink::DecodeLink(notification.payload);
  if (!link.ok() || link->name != options_.interface) return;
  if (notification.type == RTM_NEWLINK && link->up()) return;
  base::Log(base::LogLevel::kError,
            "somebody removed the tunnel's interface or set it down",
            {{"interface", options_.interface}});
  RepairInterface();
}

void KernelDatapath::RepairInterface() {
  const absl::Status made = MakeInterface();
  if (made.ok()) return;
  base::Log(base::LogLevel::kError, "tunnel's interface not made",
            {{"interface", options_.interface}, {"error", made}});
  loop_->CancelTimer(repair_timer_);
  repair_timer_ = loop_->RunAfter(kRepairRetry, [this] { RepairInterface(); });
}

absl::Status KernelDatapath::Start() {
  ESPALIER_RETURN_IF_ERROR(OpenSockets());
  ESPALIER_ASSIGN_OR_RETURN(const KernelFeatures features,
                            Probe(requests_.get(), random_));
  ESPALIER_RETURN_IF_ERROR(MakeInterface());
  // No ICMP error tells a pod that its peer cannot be reached while the tunnel
  // is being negotiated: its first packets are queued (policy-based they also
  // go out then; behind an xfrm interface the kernel finds no policy for them).
  WriteSysctl(base::ProcSysPath("net/core/xfrm_larval_drop"), "0");
  WriteSysctl(base::ProcSysPath("net/core/xfrm_acq_expires"), kAcquireSeconds);
  base::Log(base::LogLevel::kInfo, "kernel datapath ready",
            {{"interface", tunnel_interface()},
             {"route_based", route_based()},
             {"sa_direction", features.direction},
             {"nat_keepalive", features.nat_keepalive},
             {"per_cpu", features.per_cpu}});
  StartWith(requests_.get(), features);
  return absl::OkStatus();
}

void KernelDatapath::StartWith(netlink::AsyncChannel* channel,
                               KernelFeatures features) {
  channel_ = channel;
  features_ = features;
  // Not inside the call: the owner may still be wiring.
  loop_->RunAfter(absl::ZeroDuration(), [this, alive = alive_] {
    if (!*alive) return;
    // The cache of policies first, so that SetPolicy knows what is there.
    ListPolicies([this](absl::StatusOr<std::vector<Policy>> policies) {
      if (!policies.ok()) {
        base::Log(base::LogLevel::kError, "policies cannot be listed",
                  {{"error", policies.status()}});
      }
      if (events_.ready) events_.ready();
    });
  });
}

std::string KernelDatapath::tunnel_interface() const {
  return route_based() ? options_.interface : options_.policy_based_uplink;
}

void KernelDatapath::InstallSa(base::EspSa sa, Done done) {
  const bool outbound = sa.direction == base::Direction::kOutbound;
  const SaKey key{sa.direction, sa.outer_destination, sa.spi};
  if (sa.cpu && outbound && !features_.per_cpu) {
    // Without the attribute it would be every CPU's, the newest of all.
    done(absl::UnimplementedError(absl::StrCat(
        "install SA ", key.ToString(), " for CPU ", *sa.cpu,
        ": this kernel has no SAs per CPU (RFC 9611; Linux 6.13)")));
    return;
  }
  const bool transport = sa.mode == base::SaMode::kTransport;
  netlink::XfrmStateOptions options{.if_id = transport ? 0 : if_id(),
                                    .direction = features_.direction};
  // AH hides nothing: the guards must not take what it carries for encrypted,
  // nor its outer packets for what may pass them.
  if (options_.mark_mask != 0 && !sa.suite.ah()) {
    options.set_mark =
        base::MarkValue(options_.mark_mask,
                        outbound ? base::Mark::kBypass : base::Mark::kFromEsp);
    options.set_mark_mask = options_.mark_mask;
  }
  if (sa.suite.ah()) ah_.insert(key);
  if (features_.nat_keepalive && outbound) {
    options.nat_keepalive =
        static_cast<uint32_t>(absl::ToInt64Seconds(options_.nat_keepalive));
  }
  absl::StatusOr<netlink::Request> request =
      netlink::AddStateRequest(sa, options);
  if (!request.ok()) {
    done(request.status());
    return;
  }
  channel_->Start(
      *std::move(request),
      [done = std::move(done)](const absl::Status& status,
                               const std::vector<Reply>&) { done(status); });
}

void KernelDatapath::RemoveSa(const SaKey& key, Done done) {
  watched_.erase(key);
  channel_->Start(netlink::DeleteStateRequest(key, ProtocolOf(key)),
                  [this, key, done = std::move(done), alive = alive_](
                      const absl::Status& status, const std::vector<Reply>&) {
                    const bool gone = status.ok() || absl::IsNotFound(status);
                    if (gone && *alive) ah_.erase(key);
                    done(gone ? absl::OkStatus() : status);
                  });
}

base::IpsecProtocol KernelDatapath::ProtocolOf(const SaKey& key) const {
  return ah_.contains(key) ? base::IpsecProtocol::kAh
                           : base::IpsecProtocol::kEsp;
}

void KernelDatapath::WatchInbound(const SaKey& key) {
  watched_.insert(key);
  watch_delay_ = options_.watch_interval;
  loop_->CancelTimer(std::exchange(watch_timer_, 0));
  ArmWatch();
}

void KernelDatapath::ArmWatch() {
  if (watch_timer_ != 0 || watched_.empty()) return;
  watch_timer_ = loop_->RunAfter(watch_delay_, [this] { PollWatched(); });
  // An idle tunnel may wait for ever.
  watch_delay_ = std::min(2 * watch_delay_, kLongestWatch);
}

void KernelDatapath::PollWatched() {
  watch_timer_ = 0;
  const std::set<SaKey> watched = watched_;
  for (const SaKey& key : watched) {
    channel_->Start(
        netlink::GetStateRequest(key, ProtocolOf(key)),
        [this, key, alive = alive_](const absl::Status& status,
                                    std::vector<Reply> replies) {
          absl::StatusOr<std::vector<XfrmState>> states =
              DecodeStates(&replies);
          if (!*alive) return;
          if (absl::IsNotFound(status)) watched_.erase(key);
          if (!status.ok() || !states.ok() || states->empty()) return;
          if (states->front().packets == 0 || watched_.erase(key) == 0) return;
          if (events_.inbound_seen) events_.inbound_seen(key);
        });
  }
  ArmWatch();
}

void KernelDatapath::RunInOrder(std::vector<netlink::Request> requests,
                                Done done) {
  if (requests.empty()) {
    done(absl::OkStatus());
    return;
  }
  netlink::Request next = std::move(requests.front());
  requests.erase(requests.begin());
  const bool removal = next.type() == XFRM_MSG_DELPOLICY;
  auto rest =
      std::make_shared<std::vector<netlink::Request>>(std::move(requests));
  channel_->Start(std::move(next), [this, removal, rest, done = std::move(done),
                                    alive = alive_](
                                       const absl::Status& status,
                                       const std::vector<Reply>&) mutable {
    const bool passed = status.ok() || (removal && absl::IsNotFound(status));
    if (!passed || !*alive) {
      done(passed ? absl::CancelledError("the datapath was closed") : status);
      return;
    }
    RunInOrder(std::move(*rest), std::move(done));
  });
}

std::vector<XfrmPolicy> KernelDatapath::Expanded(const Policy& policy) const {
  // An interface cannot have transport mode: it protects the packets of the
  // uplink itself.
  const bool transport = policy.mode == base::SaMode::kTransport;
  std::vector<XfrmPolicy> all = Expand(policy, transport ? 0 : if_id());
  if (!route_based() && !transport) {
    // What is between the nodes themselves is not the tunnel's (IKE, the API
    // server); without an interface of its own the policies alone decide.
    std::erase_if(all, [&](const XfrmPolicy& one) {
      const bool out = one.way == XfrmPolicy::Way::kOut;
      const base::IpPrefix& local = out ? one.source : one.destination;
      const base::IpPrefix& remote = out ? one.destination : one.source;
      return local.length() == local.address().bits() &&
             remote.length() == remote.address().bits() &&
             std::ranges::find(options_.local_addresses, local.address()) !=
                 options_.local_addresses.end();
    });
  }
  return all;
}

void KernelDatapath::SetPolicy(const Policy& policy, Done done) {
  const std::vector<XfrmPolicy> wanted = Expanded(policy);
  std::vector<XfrmPolicy>& known = policies_[policy.reqid];
  std::vector<netlink::Request> requests;
  for (const XfrmPolicy& one : wanted) {
    requests.push_back(netlink::SetPolicyRequest(one));
  }
  // What is no longer wanted goes last: traffic never meets a gap.
  for (const XfrmPolicy& one : known) {
    const bool kept = std::ranges::any_of(wanted, [&](const XfrmPolicy& w) {
      return w.way == one.way && w.source == one.source &&
             w.destination == one.destination && w.if_id == one.if_id;
    });
    if (!kept) requests.push_back(netlink::DeletePolicyRequest(one));
  }
  // Until it is done either may be there, and a later change must know both.
  known.insert(known.end(), wanted.begin(), wanted.end());
  RunInOrder(std::move(requests), [this, policy, wanted, done = std::move(done),
                                   alive = alive_](const absl::Status& status) {
    if (*alive && status.ok()) {
      policies_[policy.reqid] = wanted;
      desired_[policy.reqid] = policy;
    }
    done(status);
  });
}

void KernelDatapath::RemovePolicy(base::Reqid reqid, Done done) {
  std::vector<netlink::Request> requests;
  for (const XfrmPolicy& one : policies_[reqid]) {
    requests.push_back(netlink::DeletePolicyRequest(one));
  }
  desired_.erase(reqid);
  RunInOrder(std::move(requests), [this, reqid, done = std::move(done),
                                   alive = alive_](const absl::Status& status) {
    if (*alive && status.ok()) policies_.erase(reqid);
    done(status);
  });
}

base::Direction KernelDatapath::DirectionOf(const XfrmState& state) const {
  if (state.direction) return *state.direction;
  return std::ranges::find(options_.local_addresses, state.destination) !=
                 options_.local_addresses.end()
             ? base::Direction::kInbound
             : base::Direction::kOutbound;
}

// What a list tells beyond the SAs themselves.
void KernelDatapath::HandleStates(const std::vector<XfrmState>& states) {
  const auto now = static_cast<uint64_t>(absl::ToUnixSeconds(absl::Now()));
  const bool lost = std::exchange(notifications_lost_, false);
  std::set<base::Reqid> asked;
  for (const XfrmState& state : states) {
    if (state.spi.value() == 0) {
      // Traffic waits for an SA, and its acquire may have come before us.
      if (asked.insert(state.reqid).second && events_.acquire) {
        events_.acquire(state.reqid);
      }
    } else if (lost && SoftLimitReached(state, now) && events_.expired) {
      events_.expired({DirectionOf(state), state.destination, state.spi},
                      /*hard=*/false);
    }
    if (state.protocol == IPPROTO_AH && state.spi.value() != 0) {
      ah_.insert({DirectionOf(state), state.destination, state.spi});
    }
  }
}

void KernelDatapath::ListSas(
    std::function<void(absl::StatusOr<std::vector<InstalledSa>>)> done) {
  DumpSas(std::move(done), kDumpTries);
}

void KernelDatapath::DumpSas(
    std::function<void(absl::StatusOr<std::vector<InstalledSa>>)> done,
    int tries) {
  channel_->Start(
      netlink::DumpStatesRequest(),
      [this, done = std::move(done), tries, alive = alive_](
          const absl::Status& status, std::vector<Reply> replies) {
        // Changes interrupted it.
        if (absl::IsAborted(status) && tries > 1 && *alive) {
          WipeReplies(&replies);
          DumpSas(done, tries - 1);
          return;
        }
        absl::StatusOr<std::vector<XfrmState>> states = DecodeStates(&replies);
        if (!status.ok() || !states.ok() || !*alive) {
          done(!status.ok() ? status
               : !states.ok()
                   ? states.status()
                   : absl::CancelledError("the datapath was closed"));
          return;
        }
        // Larger by the time that the wall clock jumped, if it did.
        const auto now =
            static_cast<uint64_t>(absl::ToUnixSeconds(absl::Now()));
        std::vector<InstalledSa> result;
        for (const XfrmState& state : *states) {
          if (state.spi.value() == 0) continue;
          InstalledSa sa;
          sa.key = {DirectionOf(state), state.destination, state.spi};
          sa.outer_source = state.source;
          sa.reqid = state.reqid;
          sa.counters.packets = state.packets;
          sa.counters.bytes = state.bytes;
          sa.counters.replayed = state.replayed;
          sa.counters.bad_icv = state.bad_icv;
          sa.suite = state.suite;
          sa.encapsulated = state.encapsulated;
          sa.age = absl::Seconds(now - std::min(now, state.added));
          result.push_back(sa);
        }
        done(std::move(result));
        // The lister knows the SAs by now, of which these events are.
        if (*alive) HandleStates(*states);
      });
}

void KernelDatapath::ListPolicies(
    std::function<void(absl::StatusOr<std::vector<Policy>>)> done) {
  channel_->Start(
      netlink::DumpPoliciesRequest(),
      [this, done = std::move(done), alive = alive_](
          const absl::Status& status, const std::vector<Reply>& replies) {
        if (!status.ok() || !*alive) {
          done(status.ok() ? absl::CancelledError("the datapath was closed")
                           : status);
          return;
        }
        std::map<base::Reqid, std::vector<XfrmPolicy>> found;
        for (const Reply& reply : replies) {
          if (reply.type != XFRM_MSG_NEWPOLICY) continue;
          absl::StatusOr<XfrmPolicy> policy =
              netlink::DecodePolicy(reply.payload);
          // A socket's own policy has a direction beyond forward; others may
          // be anybody's. Only what is whole and ours counts.
          if (policy.ok() && Owned(policy->reqid)) {
            found[policy->reqid].push_back(*std::move(policy));
          }
        }
        std::vector<Policy> result;
        for (const auto& [reqid, set] : found) {
          const auto wanted = desired_.find(reqid);
          Policy policy = wanted != desired_.end() &&
                                  SamePolicies(Expanded(wanted->second), set)
                              ? wanted->second
                              : Collapse(set);
          // Some of its parts are missing or changed: shown as what nobody can
          // want, so that it is set anew.
          if (!SamePolicies(Expanded(policy), set)) {
            policy.local.clear();
            policy.remote.clear();
          }
          result.push_back(std::move(policy));
        }
        policies_ = std::move(found);
        done(std::move(result));
      });
}

void KernelDatapath::HandleNotification(const Reply& notification) {
  if (notification.type == XFRM_MSG_EXPIRE) {
    const absl::StatusOr<netlink::XfrmExpire> expire =
        netlink::DecodeExpire(notification.payload);
    // SPI 0: a larval state that nobody made an SA of.
    if (!expire.ok() || !Owned(expire->reqid) || expire->spi.value() == 0 ||
        !events_.expired) {
      return;
    }
    XfrmState state;
    state.destination = expire->destination;
    // The notification names no direction on any kernel.
    events_.expired({DirectionOf(state), expire->destination, expire->spi},
                    expire->hard);
  } else if (notification.type == XFRM_MSG_ACQUIRE) {
    const absl::StatusOr<netlink::XfrmAcquire> acquire =
        netlink::DecodeAcquire(notification.payload);
    if (!acquire.ok() || !Owned(acquire->reqid)) return;
    if (events_.acquire) events_.acquire(acquire->reqid);
  } else if (notification.type == XFRM_MSG_DELPOLICY ||
             notification.type == XFRM_MSG_FLUSHPOLICY) {
    // Ours, or somebody else's hand: the list tells.
    if (events_.disturbed) events_.disturbed();
  }
}

void KernelDatapath::HandleOverrun() {
  base::Log(base::LogLevel::kWarning, "xfrm notifications were lost");
  // What expired or is waited for shows in the lists.
  notifications_lost_ = true;
  if (events_.ready) events_.ready();
}

}  // namespace espalier::datapath
