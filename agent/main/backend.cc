#include "agent/main/backend.h"

#include <chrono>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "agent/base/status_macros.h"
#include "agent/main/node_key.h"
#include "agent/mesh/config/proposals.h"

namespace espalier::agent {
namespace {

// A loop that does not answer a scrape in this time hangs.
constexpr std::chrono::seconds kLoopAnswers(5);

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t nanos = absl::ToUnixNanos(time);
  out->set_seconds(nanos / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

void SetDuration(absl::Duration duration, google::protobuf::Duration* out) {
  const int64_t nanos =
      absl::ToInt64Nanoseconds(std::max(duration, absl::ZeroDuration()));
  out->set_seconds(nanos / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

void SetCounters(const base::SaCounters& from, v1::Counters* out) {
  out->set_packets(from.packets);
  out->set_bytes(from.bytes);
  out->set_replayed(from.replayed);
  out->set_bad_icv(from.bad_icv);
  out->set_selector_mismatch(from.selector_mismatch);
  out->set_send_errors(from.send_errors);
}

std::string SpiText(base::Spi spi) {
  return absl::StrFormat("%08x", spi.value());
}

const char* KindName(ike::Event::Kind kind) {
  using Kind = ike::Event::Kind;
  switch (kind) {
    case Kind::kIkeSaUp:
      return "ike-sa-up";
    case Kind::kIkeSaDown:
      return "ike-sa-down";
    case Kind::kIkeSaRekeyed:
      return "ike-sa-rekeyed";
    case Kind::kChildSaUp:
      return "child-sa-up";
    case Kind::kChildSaDown:
      return "child-sa-down";
    case Kind::kChildSaRekeyed:
      return "child-sa-rekeyed";
    case Kind::kAuthenticationFailed:
      return "authentication-failed";
    case Kind::kNoProposalChosen:
      return "no-proposal-chosen";
    case Kind::kTsUnacceptable:
      return "ts-unacceptable";
    case Kind::kPeerUnreachable:
      return "peer-unreachable";
    case Kind::kProtocolError:
      return "protocol-error";
  }
  return "unknown";
}

bool Flows(mesh::TunnelState state) {
  return state == mesh::TunnelState::kUp ||
         state == mesh::TunnelState::kAdopted;
}

v1::Tunnel ToTunnel(const mesh::PeerStatus& peer,
                    const std::vector<base::IpPrefix>& own_cidrs,
                    base::Instant now) {
  v1::Tunnel tunnel;
  tunnel.set_peer(peer.name);
  tunnel.set_state(mesh::TunnelStateName(peer.state));
  SetDuration(now - peer.state_since, tunnel.mutable_state_age());
  tunnel.set_problem(peer.last_problem);
  tunnel.set_identity(peer.identity.ToString());
  for (const base::IpAddress& address : peer.addresses) {
    tunnel.add_addresses(address.ToString());
  }
  for (const base::IpPrefix& prefix : peer.pod_cidrs) {
    tunnel.add_pod_cidrs(prefix.ToString());
  }
  for (const auto& [lacks, has] :
       {std::pair("the peer", FamiliesLacking(own_cidrs, peer.pod_cidrs)),
        std::pair("this node", FamiliesLacking(peer.pod_cidrs, own_cidrs))}) {
    for (const std::string& family : has) {
      tunnel.add_missing_families(absl::StrCat(family, " (", lacks, ")"));
    }
  }
  for (const mesh::SaStatus& sa : peer.sas) {
    // The newest of those that send is what the peer's traffic takes.
    if (sa.key.direction != base::Direction::kOutbound || sa.left_over)
      continue;
    tunnel.set_suite(sa.suite.ToString());
    tunnel.set_encapsulated(sa.encapsulated);
  }
  if (tunnel.suite().empty() && !peer.sas.empty()) {
    tunnel.set_suite(peer.sas.back().suite.ToString());
    tunnel.set_encapsulated(peer.sas.back().encapsulated);
  }
  tunnel.set_inbound_seen(peer.inbound_seen);
  tunnel.set_fell_back(peer.fell_back);
  tunnel.set_node_traffic_confirmed(peer.probe.node_traffic);
  tunnel.set_node_traffic_required(peer.sealed);
  tunnel.set_probe(mesh::ProbeVerdictName(peer.probe.verdict));
  if (peer.probe.last_answer) {
    SetDuration(now - *peer.probe.last_answer,
                tunnel.mutable_probe_answer_age());
    SetDuration(peer.probe.round_trip, tunnel.mutable_probe_round_trip());
    tunnel.set_probe_answered_by_node(peer.probe.by_node);
  }
  tunnel.set_probes_sent(peer.probe.sent);
  tunnel.set_probes_answered(peer.probe.answered);
  tunnel.set_mtu(peer.mtu);
  SetCounters(peer.inbound, tunnel.mutable_inbound());
  SetCounters(peer.outbound, tunnel.mutable_outbound());
  return tunnel;
}

void AddSelectors(const std::vector<base::TrafficSelector>& from,
                  google::protobuf::RepeatedPtrField<std::string>* out) {
  for (const base::TrafficSelector& selector : from) {
    *out->Add() = selector.ToString();
  }
}

void FillChild(const ike::ChildSaInfo& child, base::Instant now,
               v1::ChildSa* out) {
  out->set_inbound_spi(SpiText(child.inbound_spi));
  out->set_outbound_spi(SpiText(child.outbound_spi));
  out->set_suite(child.suite.ToString());
  out->set_encapsulated(child.encapsulated);
  out->set_state(child.state);
  SetDuration(now - child.established, out->mutable_age());
  if (child.rekey_at) {
    SetDuration(*child.rekey_at - now, out->mutable_rekey_in());
  }
  AddSelectors(child.local_selectors, out->mutable_local_selectors());
  AddSelectors(child.remote_selectors, out->mutable_remote_selectors());
}

void FillIkeSa(const ike::IkeSaInfo& ike, base::Instant now, v1::IkeSa* out) {
  out->set_initiator_spi(absl::StrFormat("%016x", ike.initiator_spi));
  out->set_responder_spi(absl::StrFormat("%016x", ike.responder_spi));
  out->set_initiator(ike.initiator);
  out->set_state(ike.state);
  out->set_local(ike.path.local.ToString());
  out->set_remote(ike.path.remote.ToString());
  out->set_nat_local(ike.nat_local);
  out->set_nat_remote(ike.nat_remote);
  // Before its IKE_SA_INIT is done it uses nothing yet.
  if (ike.key_bits != 0) {
    out->set_suite(
        mesh::IkeSuiteText(ike.cipher, ike.key_bits, ike.prf, ike.group));
    if (ike.established != base::Instant()) {
      SetDuration(now - ike.established, out->mutable_age());
    }
  }
  if (ike.rekey_at) SetDuration(*ike.rekey_at - now, out->mutable_rekey_in());
  for (const ike::ChildSaInfo& child : ike.children) {
    FillChild(child, now, out->add_children());
  }
}

void FillEspSa(const mesh::SaStatus& sa, v1::EspSa* out) {
  out->set_direction(sa.key.direction == base::Direction::kInbound ? "in"
                                                                   : "out");
  out->set_spi(SpiText(sa.key.spi));
  out->set_destination(sa.key.outer_destination.ToString());
  out->set_suite(sa.suite.ToString());
  out->set_encapsulated(sa.encapsulated);
  out->set_left_over(sa.left_over);
  if (sa.cpu) out->set_cpu(*sa.cpu);
  SetCounters(sa.counters, out->mutable_counters());
}

// Runs `ask` on the loop and waits for what it hands to its argument.
template <typename T>
std::optional<T> AskLoop(base::Executor* loop,
                         std::function<void(std::function<void(T)>)> ask) {
  auto answer = std::make_shared<std::promise<T>>();
  std::future<T> future = answer->get_future();
  loop->Post([ask = std::move(ask), answer] {
    ask([answer](T value) { answer->set_value(std::move(value)); });
  });
  if (future.wait_for(kLoopAnswers) != std::future_status::ready) {
    return std::nullopt;
  }
  return future.get();
}

const service::HttpAnswer kNoAnswer = {
    .status = 503, .body = "the agent's loop does not answer\n"};

}  // namespace

Backend::Backend(Parts parts) : parts_(parts) {}

std::string Backend::PeerName(ike::PeerId id) {
  const auto known = peer_names_.find(id);
  if (known != peer_names_.end()) return known->second;
  peer_names_.clear();
  for (const mesh::PeerStatus& peer : parts_.mesh->Peers()) {
    peer_names_[peer.id] = peer.name;
  }
  return peer_names_[id];
}

void Backend::Note(const ike::Event& event) {
  ike_rekeys_ += event.kind == ike::Event::Kind::kIkeSaRekeyed;
  child_rekeys_ += event.kind == ike::Event::Kind::kChildSaRekeyed;
  v1::Event out;
  SetTime(absl::Now(), out.mutable_time());
  out.set_peer(PeerName(event.peer));
  out.set_kind(KindName(event.kind));
  out.set_detail(event.detail);
  parts_.events->Publish(out);
}

void Backend::NoteReload(const absl::Status& status) {
  config_error_ = status;
  ++(status.ok() ? reloads_ : reload_failures_);
  if (status.ok()) {
    config_loaded_ = absl::Now();
    peer_names_.clear();
  }
  v1::Event out;
  SetTime(absl::Now(), out.mutable_time());
  out.set_kind(status.ok() ? "config-reloaded" : "config-refused");
  out.set_detail(std::string(status.message()));
  parts_.events->Publish(out);
}

void Backend::NoteRepair(const guard::GuardProblem& problem) {
  v1::Event out;
  SetTime(absl::Now(), out.mutable_time());
  out.set_kind("guard-repaired");
  out.set_detail(absl::StrCat(problem.guard, ": ", problem.item, ": ",
                              problem.status.message()));
  parts_.events->Publish(out);
}

absl::Status Backend::Ready() const {
  ESPALIER_RETURN_IF_ERROR(parts_.datapath->Ready());
  return parts_.guard->Ready();
}

absl::Status Backend::AttachesPods() const {
  ESPALIER_RETURN_IF_ERROR(Ready());
  return parts_.surroundings->Refusal();
}

void Backend::TakePods(std::function<void(pods::Snapshot)> done) {
  if (cni_ == nullptr) {
    done({});
    return;
  }
  cni_->TakeSnapshot(
      [loop = parts_.loop, done = std::move(done)](pods::Snapshot snapshot) {
        loop->Post([done, snapshot = std::move(snapshot)] { done(snapshot); });
      });
}

void Backend::GetStatus(Done<v1::AgentStatus> done) {
  TakePods([this, done = std::move(done)](const pods::Snapshot& pods) {
    v1::AgentStatus status;
    const mesh::LocalNode& node = parts_.mesh->node();
    status.set_node(node.name);
    status.set_identity(node.identity.ToString());
    status.set_version(ESPALIER_VERSION);
    SetTime(started_, status.mutable_started());
    const absl::Status ready = AttachesPods();
    status.set_ready(ready.ok());
    status.set_not_ready_reason(std::string(ready.message()));
    status.set_datapath(parts_.datapath->driver()->name());
    status.set_tunnel_interface(parts_.datapath->driver()->tunnel_interface());
    for (const mesh::PeerStatus& peer : parts_.mesh->Peers()) {
      if (peer.state == mesh::TunnelState::kIdle) continue;
      status.set_tunnels_wanted(status.tunnels_wanted() + 1);
      if (Flows(peer.state)) status.set_tunnels_up(status.tunnels_up() + 1);
    }
    status.set_pods(static_cast<uint32_t>(pods.pods.size()));
    for (const base::IpPrefix& block : pods.plaintext_blocks) {
      status.add_plaintext_blocks(block.ToString());
    }
    for (const v1::GuardState& guard : GuardStates()) {
      *status.add_guards() = guard;
    }
    status.set_pod_mtu(parts_.mesh->pod_mtu());
    SetTime(config_loaded_, status.mutable_config_loaded());
    status.set_config_error(std::string(config_error_.message()));
    for (const std::string& problem : parts_.surroundings->Problems()) {
      status.add_problems(problem);
    }
    done(status);
  });
}

void Backend::ListTunnels(Done<v1::ListTunnelsResponse> done) {
  // Without a datapath the counters are those of the last time.
  parts_.mesh->RefreshCounters([this, done = std::move(done)](absl::Status) {
    v1::ListTunnelsResponse response;
    for (const mesh::PeerStatus& peer : parts_.mesh->Peers()) {
      *response.add_tunnels() =
          ToTunnel(peer, parts_.mesh->node().pod_cidrs, parts_.clock->Now());
    }
    done(response);
  });
}

absl::StatusOr<mesh::PeerStatus> Backend::FindPeer(
    const std::string& name) const {
  std::vector<std::string> names;
  for (mesh::PeerStatus& peer : parts_.mesh->Peers()) {
    if (peer.name == name) return std::move(peer);
    if (names.size() < 20) names.push_back(peer.name);
  }
  return absl::NotFoundError(absl::StrCat(
      "there is no peer '", name,
      "'; there are: ", names.empty() ? "none" : absl::StrJoin(names, ", ")));
}

void Backend::ShowTunnel(const std::string& peer, Done<v1::Tunnel> done) {
  parts_.mesh->RefreshCounters([this, peer,
                                done = std::move(done)](absl::Status) {
    absl::StatusOr<mesh::PeerStatus> status = FindPeer(peer);
    if (!status.ok()) {
      done(status.status());
      return;
    }
    const base::Instant now = parts_.clock->Now();
    v1::Tunnel tunnel = ToTunnel(*status, parts_.mesh->node().pod_cidrs, now);
    for (const ike::IkeSaInfo& ike : parts_.driver->core().IkeSas()) {
      if (ike.peer == status->id) FillIkeSa(ike, now, tunnel.add_ike_sas());
    }
    for (const mesh::SaStatus& sa : status->sas) {
      FillEspSa(sa, tunnel.add_esp_sas());
    }
    done(tunnel);
  });
}

void Backend::ListPods(Done<v1::ListPodsResponse> done) {
  TakePods([this, done = std::move(done)](const pods::Snapshot& snapshot) {
    v1::ListPodsResponse response;
    const std::vector<v1::GuardState> guards = GuardStates();
    for (const pods::PodInfo& pod : snapshot.pods) {
      v1::Pod* out = response.add_pods();
      out->set_namespace_(pod.pod_namespace);
      out->set_name(pod.pod_name);
      out->set_uid(pod.pod_uid);
      out->set_container_id(pod.container_id);
      out->set_interface(pod.interface_name);
      out->set_host_interface(pod.host_interface);
      for (const base::IpAddress& address : pod.addresses) {
        out->add_addresses(address.ToString());
      }
      out->set_mtu(pod.mtu);
      out->set_mode(base::ModeName(pod.policy.encryption));
      for (const v1::GuardState& guard : guards) {
        if (guard.stands()) out->add_protected_by(guard.name());
      }
      out->set_settling(pod.settling);
      out->set_outside_denied(pod.policy.outside_denied);
      out->set_outside_in_allowed(pod.policy.outside_in_allowed);
      out->set_problem(pod.policy.problem);
    }
    done(response);
  });
}

void Backend::Rekey(const v1::RekeyRequest& request,
                    Done<v1::RekeyResponse> done) {
  absl::StatusOr<mesh::PeerStatus> peer = FindPeer(request.peer());
  if (!peer.ok()) {
    done(peer.status());
    return;
  }
  if (request.what() == v1::RekeyRequest::WHAT_PROTOCOL50) {
    const absl::Status status = parts_.mesh->ReturnToProtocol50(peer->id);
    if (!status.ok()) {
      done(status);
    } else {
      done(v1::RekeyResponse());
    }
    return;
  }
  if (peer->state == mesh::TunnelState::kDown ||
      peer->state == mesh::TunnelState::kIdle ||
      peer->state == mesh::TunnelState::kAdopted) {
    done(absl::FailedPreconditionError(
        absl::StrCat("the tunnel with ", peer->name, " is ",
                     mesh::TunnelStateName(peer->state),
                     ": only one with an IKE_SA can be rekeyed")));
    return;
  }
  runtime::IkeDriver* driver = parts_.driver;
  if (request.what() == v1::RekeyRequest::WHAT_IKE) {
    driver->core().RekeyIkeSa(driver->Now(), peer->id);
  } else {
    driver->core().RekeyChildSa(driver->Now(), peer->id);
  }
  driver->WakeSoon();
  done(v1::RekeyResponse());
}

void Backend::TakeMetrics(std::function<void(service::MetricsSnapshot)> done) {
  auto snapshot = std::make_shared<service::MetricsSnapshot>();
  const auto finish = [this, snapshot,
                       done = std::move(done)](const pods::Snapshot& pods) {
    snapshot->version = ESPALIER_VERSION;
    snapshot->node = parts_.mesh->node().name;
    for (const mesh::PeerStatus& peer : parts_.mesh->Peers()) {
      snapshot->tunnels.push_back(
          {peer.name, Flows(peer.state), peer.inbound, peer.outbound,
           peer.probe.sent, peer.probe.answered, peer.probe.round_trip,
           peer.state == mesh::TunnelState::kNoPackets,
           peer.state != mesh::TunnelState::kIdle, peer.fell_back});
    }
    snapshot->fallbacks = parts_.mesh->fallbacks();
    snapshot->ike = parts_.driver->core().counters();
    snapshot->ike_rekeys = ike_rekeys_;
    snapshot->child_rekeys = child_rekeys_;
    snapshot->refused_crypto_jobs = parts_.driver->refused_jobs();
    snapshot->config_reloads = reloads_;
    snapshot->config_reload_failures = reload_failures_;
    snapshot->config_stale = !config_error_.ok();
    snapshot->datapath_connected = parts_.datapath->Ready().ok();
    snapshot->pods = pods.pods.size();
    std::map<std::string, std::string> modes;
    for (const pods::PodInfo& pod : pods.pods) {
      const std::string mode = base::ModeName(pod.policy.encryption);
      ++snapshot->pods_by_mode[mode];
      modes[absl::StrCat(pod.pod_namespace, "/", pod.pod_name)] = mode;
    }
    for (const UnprotectedPod& pod : parts_.surroundings->pods()) {
      ++snapshot->unprotected_pods[base::ModeName(pod.mode)];
    }
    for (const ForeignCniConfig& config :
         parts_.surroundings->cni_configs().foreign) {
      ++(config.before_ours ? snapshot->foreign_cni_configs_before
                            : snapshot->foreign_cni_configs_after);
    }
    snapshot->kube_proxy_unsupported =
        parts_.surroundings->kube_proxy().support ==
        KubeProxyVerdict::Support::kNo;
    for (const std::string& name : parts_.guard->names()) {
      snapshot->guards[name] = true;
    }
    for (const guard::GuardProblem& problem : parts_.guard->GuardProblems()) {
      snapshot->guards[problem.guard] = false;
    }
    for (const auto& [key, times] : parts_.guard->repairs()) {
      snapshot->guard_repairs[key.first] += times;
    }
    for (const auto& [name, count] : parts_.guard->Counters()) {
      const auto mode = modes.find(count.pod);
      snapshot->guard_packets.push_back(
          {name, count.pod, mode == modes.end() ? "" : mode->second,
           count.verdict, count.drop, count.packets});
    }
    snapshot->key_age = KeyAge(parts_.key_file, absl::Now());
    if (source_) snapshot->source = source_();
    done(std::move(*snapshot));
  };
  parts_.mesh->RefreshCounters([this, snapshot, finish](absl::Status) {
    parts_.datapath->GetStatistics(
        [this, snapshot,
         finish](absl::StatusOr<std::vector<std::pair<std::string, uint64_t>>>
                     statistics) {
          if (statistics.ok()) snapshot->datapath = *std::move(statistics);
          TakePods(finish);
        });
  });
}

service::HttpAnswer Backend::Metrics() {
  const std::optional<service::MetricsSnapshot> snapshot =
      AskLoop<service::MetricsSnapshot>(
          parts_.loop,
          [this](std::function<void(service::MetricsSnapshot)> done) {
            TakeMetrics(std::move(done));
          });
  if (!snapshot) return kNoAnswer;
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = service::RenderMetrics(*snapshot)};
}

service::HttpAnswer Backend::Health() {
  const std::optional<bool> alive = AskLoop<bool>(
      parts_.loop, [](const std::function<void(bool)>& done) { done(true); });
  return alive ? service::HttpAnswer{.body = "ok\n"} : kNoAnswer;
}

service::HttpAnswer Backend::Readiness() {
  const std::optional<absl::Status> ready = AskLoop<absl::Status>(
      parts_.loop, [this](const std::function<void(absl::Status)>& done) {
        done(AttachesPods());
      });
  if (!ready) return kNoAnswer;
  if (ready->ok()) return {.body = "ready\n"};
  return {.status = 503, .body = absl::StrCat(ready->message(), "\n")};
}

}  // namespace espalier::agent
