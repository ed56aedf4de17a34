// What the guards have to say for themselves.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/main/backend.h"

namespace espalier::agent {
namespace {

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t nanos = absl::ToUnixNanos(time);
  out->set_seconds(nanos / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

void FillDrop(const guard::DropEvent& drop, v1::Drop* out) {
  SetTime(drop.time, out->mutable_time());
  out->set_guard(drop.guard);
  out->set_hook(drop.hook);
  out->set_verdict(drop.verdict);
  out->set_reason(drop.text);
  out->set_interface(drop.interface);
  out->set_input_interface(drop.input_interface);
  out->set_pod(drop.pod);
  if (drop.source) out->set_source(drop.source->ToString());
  if (drop.destination) out->set_destination(drop.destination->ToString());
  out->set_protocol(drop.protocol);
  out->set_source_port(drop.source_port);
  out->set_destination_port(drop.destination_port);
  out->set_length(drop.length);
  out->set_suppressed(drop.suppressed);
}

// Plaintext between nodes, as against forged sources and traffic with the
// outside.
bool IsLeak(const std::string& verdict) {
  return absl::StartsWith(verdict, "leak_") || verdict == "plaintext_to_pod" ||
         verdict == "wire_plaintext" || verdict == "unencrypted_tunnel";
}

void ProvePod(const pods::PodInfo& pod, v1::PodProof* out) {
  out->set_namespace_(pod.pod_namespace);
  out->set_name(pod.pod_name);
  out->set_mode(base::ModeName(pod.policy.encryption));
  if (pod.policy.encryption != base::Mode::kRequired) {
    out->add_findings(absl::StrCat("its mode is ", out->mode(),
                                   ", which does not rule plaintext out"));
  }
  if (pod.settling) {
    out->add_findings(
        "it was strengthened a moment ago: peers may still go by the block "
        "that allowed plaintext to its address");
  }
  out->set_proven(out->findings().empty());
}

void ProveUnprotected(const UnprotectedPod& pod, v1::PodProof* out) {
  out->set_namespace_(pod.pod_namespace);
  out->set_name(pod.pod_name);
  out->set_mode(base::ModeName(pod.mode));
  std::vector<std::string> addresses;
  for (const base::IpAddress& address : pod.addresses) {
    addresses.push_back(address.ToString());
  }
  out->add_findings(absl::StrCat(
      "another CNI plugin attached it (", absl::StrJoin(addresses, ", "),
      "): nothing here protects its traffic; delete it, so that it is made "
      "anew"));
}

void AddCniConfigs(const std::vector<ForeignCniConfig>& configs,
                   v1::VerifyResponse* out) {
  for (const ForeignCniConfig& config : configs) {
    if (config.before_ours) {
      out->add_findings(absl::StrCat(
          "the runtime takes ", config.file, " before ", kConflistName,
          ": pods that are made now are not protected; remove it"));
    } else {
      out->add_warnings(absl::StrCat(
          config.file, " lies beside ", kConflistName,
          ": were that away for a moment, the runtime would take this"));
    }
  }
}

}  // namespace

std::vector<v1::GuardState> Backend::GuardStates() const {
  const std::vector<std::string> on = parts_.guard->names();
  const std::vector<guard::GuardProblem> problems =
      parts_.guard->GuardProblems();
  std::vector<v1::GuardState> states;
  for (const std::string name : {"bpf", "nftables"}) {
    v1::GuardState state;
    state.set_name(name);
    bool asked_for = std::ranges::find(on, name) != on.end();
    for (const guard::GuardProblem& problem : problems) {
      if (problem.guard != name) continue;
      asked_for = true;
      state.add_problems(
          absl::StrCat(problem.item, ": ", problem.status.message()));
    }
    state.set_on(asked_for);
    state.set_stands(asked_for && state.problems().empty());
    for (const auto& [key, times] : parts_.guard->repairs()) {
      if (key.first == name) state.set_repairs(state.repairs() + times);
    }
    states.push_back(std::move(state));
  }
  return states;
}

void Backend::ListDrops(Done<v1::ListDropsResponse> done) {
  v1::ListDropsResponse response;
  for (const guard::DropEvent& drop : parts_.guard->drops()) {
    FillDrop(drop, response.add_drops());
  }
  for (const auto& [name, count] : parts_.guard->Counters()) {
    v1::VerdictCount* out = response.add_counters();
    out->set_guard(name);
    out->set_pod(count.pod);
    out->set_verdict(count.verdict);
    out->set_text(count.text);
    out->set_drop(count.drop);
    out->set_packets(count.packets);
  }
  done(response);
}

void Backend::Verify(const v1::VerifyRequest& request,
                     Done<v1::VerifyResponse> done) {
  parts_.mesh->RefreshCounters([this, request, done](absl::Status) {
    TakePods([this, request, done](const pods::Snapshot& snapshot) {
      v1::VerifyResponse response;
      const bool all = request.namespace_().empty() && request.name().empty();
      for (const pods::PodInfo& pod : snapshot.pods) {
        if (all ? pod.policy.encryption == base::Mode::kRequired
                : pod.pod_namespace == request.namespace_() &&
                      pod.pod_name == request.name()) {
          ProvePod(pod, response.add_pods());
        }
      }
      for (const UnprotectedPod& pod : parts_.surroundings->pods()) {
        if (all ? pod.mode == base::Mode::kRequired
                : pod.pod_namespace == request.namespace_() &&
                      pod.pod_name == request.name()) {
          ProveUnprotected(pod, response.add_pods());
        }
      }
      // Of pods that are made from now on.
      if (all) {
        AddCniConfigs(parts_.surroundings->cni_configs().foreign, &response);
      }
      if (!all && response.pods().empty()) {
        done(absl::NotFoundError(absl::StrCat("this node has no pod ",
                                              request.namespace_(), "/",
                                              request.name())));
        return;
      }
      for (const v1::GuardState& guard : GuardStates()) {
        *response.add_guards() = guard;
        if (!guard.on()) {
          response.add_findings(
              absl::StrCat("the ", guard.name(), " guard is switched off"));
        } else if (!guard.stands()) {
          response.add_findings(
              absl::StrCat("the ", guard.name(), " guard does not stand: ",
                           absl::StrJoin(guard.problems(), "; ")));
        }
      }
      for (const auto& [name, count] : parts_.guard->Counters()) {
        if (!count.drop || !IsLeak(count.verdict)) continue;
        for (v1::PodProof& pod : *response.mutable_pods()) {
          if (count.pod == absl::StrCat(pod.namespace_(), "/", pod.name())) {
            pod.set_stopped(pod.stopped() + count.packets);
          }
        }
      }
      for (const mesh::PeerStatus& peer : parts_.mesh->Peers()) {
        response.set_esp_out(response.esp_out() + peer.outbound.packets);
        response.set_esp_in(response.esp_in() + peer.inbound.packets);
      }
      response.set_proven(
          response.findings().empty() &&
          std::ranges::all_of(response.pods(), [](const v1::PodProof& pod) {
            return pod.proven();
          }));
      done(response);
    });
  });
}

}  // namespace espalier::agent
