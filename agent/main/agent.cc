#include "agent/main/agent.h"

#include <signal.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "agent/base/log.h"
#include "agent/base/marks.h"
#include "agent/base/status_macros.h"
#include "agent/crypto/keys.h"
#include "agent/guard/bpf_guard.h"
#include "agent/guard/nftables_guard.h"
#include "agent/main/reload.h"
#include "agent/mesh/cluster.h"

namespace espalier::agent {
namespace {

using base::LogLevel;

// Waiting key exchanges beyond this are refused: each half-open IKE_SA has at
// most one, and the core bounds those at this number, too.
constexpr size_t kMaxWaitingJobs = 4096;
constexpr uint16_t kIkePort = 500;
// How soon the runtime is told once the datapath answers.
constexpr absl::Duration kReadinessLooks = absl::Milliseconds(200);
constexpr absl::Duration kReadinessTold = absl::Seconds(10);
constexpr absl::Duration kFilesChangeTogether = absl::Milliseconds(100);

ike::CoreConfig CoreConfigOf(
    const mesh::Config& config,
    std::shared_ptr<const crypto::PrivateKey> node_key) {
  ike::CoreConfig core;
  core.identity = config.node.identity;
  core.private_key = std::move(node_key);
  core.ike_soft_lifetime = config.lifetimes.ike_soft;
  core.ike_hard_lifetime = config.lifetimes.ike_hard;
  core.child_limits = config.lifetimes.child;
  core.replay_window = config.replay_window;
  core.drain_time = config.timers.drain_time;
  core.liveness_interval = config.timers.liveness_interval;
  core.nat_keepalive_interval = config.timers.nat_keepalive_interval;
  core.retransmit_base = config.timers.retransmit_base;
  core.retransmit_max = config.timers.retransmit_max;
  core.retransmit_tries = config.timers.retransmit_tries;
  core.cookie_threshold = config.cookie_threshold;
  core.fragment_size = config.fragment_size;
  core.key_log = !config.key_log_directory.empty();
  return core;
}

void LogWarnings(const mesh::Config& config) {
  for (const std::string& warning : config.warnings) {
    base::Log(LogLevel::kWarning, "configuration taken as something stronger",
              {{"at", warning}});
  }
}

}  // namespace

Agent::Agent(ConfigSource source, mesh::Config config,
             std::shared_ptr<const crypto::PrivateKey> node_key)
    : source_(std::move(source)),
      config_(std::move(config)),
      node_key_(std::move(node_key)),
      workers_(config_.crypto_threads, kMaxWaitingJobs),
      driver_(CoreConfigOf(config_, node_key_), &random_, &clock_, &loop_,
              &loop_, &workers_),
      ike_(&driver_) {}

Agent::~Agent() {
  if (stopper_.joinable()) stopper_.join();
  events_.End();
}

absl::Status Agent::Start() {
  LogWarnings(config_);
  ESPALIER_ASSIGN_OR_RETURN(datapath_,
                            NodeDatapath::Choose(&loop_, &random_, config_));
  ESPALIER_ASSIGN_OR_RETURN(mesh::Cluster cluster, ClusterOf(config_));
  if (!config_.key_log_directory.empty()) {
    ESPALIER_ASSIGN_OR_RETURN(key_log_,
                              KeyLog::Open(config_.key_log_directory));
  }
  ESPALIER_RETURN_IF_ERROR(MakeMesh());
  ESPALIER_RETURN_IF_ERROR(OpenIkeSockets());
  SetHooks();
  mesh_->DistrustLeftOvers(source_.distrusted);
  mesh_->SetCluster(std::move(cluster));
  ESPALIER_RETURN_IF_ERROR(StartServers());
  ESPALIER_RETURN_IF_ERROR(loop_.OnSignal(SIGTERM, [this] { Stop(); }));
  ESPALIER_RETURN_IF_ERROR(loop_.OnSignal(SIGINT, [this] { Stop(); }));
  ESPALIER_RETURN_IF_ERROR(loop_.OnSignal(SIGHUP, [this] { Reload(); }));
  ESPALIER_RETURN_IF_ERROR(WatchFiles(config_));
  ESPALIER_RETURN_IF_ERROR(datapath_->Start([this](const base::Endpoint& local,
                                                   const base::Endpoint& remote,
                                                   base::ByteSpan bytes) {
    driver_.HandleDatagram({local, remote}, bytes);
  }));
  not_ready_told_ = clock_.Now();
  WatchReadiness();
  base::Log(LogLevel::kInfo, "agent started",
            {{"version", ESPALIER_VERSION},
             {"node", config_.node.name},
             {"peers", config_.peers.size()},
             {"config", source_.path}});
  return absl::OkStatus();
}

absl::StatusOr<mesh::Cluster> Agent::ClusterOf(mesh::Config config) const {
  // `auto` was decided at the start, for good.
  config.datapath_driver = datapath_->kind();
  config.per_cpu_sas = datapath_->per_cpu_sas();
  return mesh::ClusterFromConfig(config);
}

absl::Status Agent::MakeMesh() {
  ESPALIER_ASSIGN_OR_RETURN(network_,
                            network::KernelNodeNetwork::Open(&loop_, &clock_));
  ESPALIER_RETURN_IF_ERROR(MakeGuards());
  probes_ = std::make_unique<ProbeAdapter>(
      &loop_, [this] { return datapath_->driver()->tunnel_interface(); },
      runtime::ProbeSockets::Handlers{
          .received =
              [this](const base::IpAddress& local,
                     const base::IpAddress& remote, base::ByteSpan bytes) {
                mesh_->HandleProbe(local, remote, bytes);
              },
          .unreachable =
              [this](const base::IpAddress& local,
                     const base::IpAddress& remote, base::ByteSpan bytes) {
                mesh_->HandleProbeUnreachable(local, remote, bytes);
              }});
  mesh_ =
      std::make_unique<mesh::Mesh>(&loop_, &clock_, &ike_, datapath_->driver(),
                                   guard_.get(), probes_.get(), &random_);
  const std::string key_file =
      config_.private_key ? config_.private_key->file.path : "";
  backend_ =
      std::make_unique<Backend>(Backend::Parts{.loop = &loop_,
                                               .clock = &clock_,
                                               .driver = &driver_,
                                               .mesh = mesh_.get(),
                                               .datapath = datapath_.get(),
                                               .guard = guard_.get(),
                                               .surroundings = &surroundings_,
                                               .events = &events_,
                                               .key_file = key_file});
  service_ =
      std::make_unique<service::AgentService>(&loop_, backend_.get(), &events_);
  return absl::OkStatus();
}

absl::Status Agent::MakeGuards() {
  const bool policy_based =
      datapath_->kind() == mesh::DatapathDriver::kKernel &&
      config_.kernel_routing == mesh::KernelRouting::kPolicyBased;
  guard_ = std::make_unique<GuardControl>(
      &loop_, network_.get(), config_.node.addresses,
      GuardedDatapath{
          .needs_mark = datapath_->kind() == mesh::DatapathDriver::kKernel &&
                        !policy_based,
          .policy_based = policy_based});
  guard_->OnRepair([this](const guard::GuardProblem& problem) {
    backend_->NoteRepair(problem);
  });
  if (config_.guard.bpf != mesh::GuardBpf::kOff) {
    ESPALIER_RETURN_IF_ERROR(AddBpfGuard());
  }
  if (config_.guard.nftables) {
    ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<guard::Guard> nftables,
                              guard::NftablesGuard::Open(&loop_, &clock_));
    guard_->Add("nftables", std::move(nftables));
  }
  if (guard_->names().size() < 2) {
    base::Log(LogLevel::kWarning, "not every guard stands",
              {{"guards", absl::StrJoin(guard_->names(), ", ")}});
  }
  return absl::OkStatus();
}

absl::Status Agent::AddBpfGuard() {
  absl::StatusOr<std::unique_ptr<guard::BpfGuard>> bpf =
      guard::BpfGuard::Open(&loop_, &clock_);
  if (bpf.ok()) {
    guard_->Add("bpf", *std::move(bpf));
    return absl::OkStatus();
  }
  absl::Status status = base::Annotate(
      bpf.status(), "the eBPF guard (guard.bpf) cannot stand here");
  if (config_.guard.bpf == mesh::GuardBpf::kOn) return status;
  guard_->Lacks("bpf", status);
  return absl::OkStatus();
}

pods::Settings Agent::PodSettings() const {
  return {config_.node.pod_cidrs, pod_mtu_, config_.modes, plaintext_settle_};
}

absl::Status Agent::OpenIkeSockets() {
  for (const base::IpAddress& address : config_.node.addresses) {
    ESPALIER_ASSIGN_OR_RETURN(
        sockets_[address],
        runtime::IkeSocket::Open(
            &loop_, {address, kIkePort},
            [this](const base::Endpoint& local, const base::Endpoint& remote,
                   base::ByteSpan bytes) {
              driver_.HandleDatagram({local, remote}, bytes);
            },
            base::MarkValue(base::kDefaultMarkMask, base::Mark::kBypass)));
  }
  return absl::OkStatus();
}

void Agent::SetHooks() {
  runtime::IkeDriver::Hooks hooks;
  hooks.send = [this](const ike::Path& path, base::ByteSpan bytes) {
    SendIke(path, bytes);
  };
  hooks.send_keepalive = [this](const ike::Path& path) {
    datapath_->SendKeepalive(path.local, path.remote);
  };
  hooks.mesh = [this](ike::Action& action) { HandleMeshAction(action); };
  hooks.log_keys = [this](const ike::LogIkeKeys& keys) {
    if (key_log_ != nullptr) key_log_->Write(keys);
  };
  driver_.SetHooks(std::move(hooks));
}

void Agent::SendIke(const ike::Path& path, base::ByteSpan bytes) {
  if (path.local.port != kIkePort) {
    // Port 4500 goes with the datapath.
    datapath_->SendIke(path.local, path.remote, bytes);
    return;
  }
  const auto found = sockets_.find(path.local.address);
  const absl::Status status =
      found == sockets_.end() ? absl::NotFoundError(absl::StrCat(
                                    "no IKE socket on ", path.local.ToString()))
                              : found->second->Send(path.remote, bytes);
  // A retransmission follows; a network that is down would fill the log.
  if (!status.ok()) {
    base::Log(LogLevel::kDebug, "IKE message not sent", {{"error", status}});
  }
}

void Agent::HandleMeshAction(ike::Action& action) {
  if (const auto* event = std::get_if<ike::Event>(&action)) {
    backend_->Note(*event);
  } else if (const auto* install = std::get_if<ike::InstallSa>(&action);
             install != nullptr && key_log_ != nullptr) {
    key_log_->Write(install->sa);
  }
  mesh_->HandleIkeAction(action);
}

absl::Status Agent::StartServers() {
  pod_mtu_ = mesh_->pod_mtu();
  ESPALIER_ASSIGN_OR_RETURN(
      cni_,
      service::CniServer::Start({.run_directory = config_.run_directory,
                                 .state_directory = config_.state_directory,
                                 .settings = PodSettings(),
                                 .guard = guard_.get(),
                                 .modes = source_.modes}));
  backend_->SetCniServer(cni_.get());
  ESPALIER_ASSIGN_OR_RETURN(
      grpc_, service::GrpcServer::Start(config_.run_directory + "/agent.sock",
                                        {service_.get()}));
  if (!config_.metrics_listen) return absl::OkStatus();
  ESPALIER_ASSIGN_OR_RETURN(
      http_, service::HttpServer::Start(
                 *config_.metrics_listen,
                 {{"/metrics", [this] { return backend_->Metrics(); }},
                  {"/healthz", [this] { return backend_->Health(); }},
                  {"/readyz", [this] { return backend_->Readiness(); }}}));
  return absl::OkStatus();
}

absl::Status Agent::ServeSecureMetrics(kube::Transport* transport) {
  if (!config_.secure_metrics) return absl::OkStatus();
  const mesh::SecureMetricsSocket& socket = *config_.secure_metrics;
  ESPALIER_ASSIGN_OR_RETURN(
      secure_metrics_,
      service::SecureMetrics::Start(
          {socket.listen, socket.certificate_file, socket.key_file}, transport,
          &clock_, [this] { return backend_->Metrics(); }));
  for (const std::string& path : {socket.certificate_file, socket.key_file}) {
    ESPALIER_RETURN_IF_ERROR(loop_.WatchFile(path, [this] {
      if (!stopping_) secure_metrics_->Reload();
    }));
  }
  return absl::OkStatus();
}

// Pods can be attached as soon as the datapath has answered once: a datapath
// that is away for a moment makes no node NotReady (DESIGN 1.3).
void Agent::WatchReadiness() {
  if (stopping_) return;
  const absl::Status ready = backend_->Ready();
  if (ready.ok()) {
    was_ready_ = true;
    cni_->SetReady(absl::OkStatus());
    base::Log(LogLevel::kInfo, "ready for pods",
              {{"datapath", datapath_->driver()->name()},
               {"interface", datapath_->driver()->tunnel_interface()}});
    return;
  }
  cni_->SetReady(ready);
  if (not_ready_told_ + kReadinessTold < clock_.Now()) {
    not_ready_told_ = clock_.Now();
    base::Log(LogLevel::kWarning, "not ready for pods yet",
              {{"why", ready.message()}});
  }
  loop_.RunAfter(kReadinessLooks, [this] { WatchReadiness(); });
}

absl::Status Agent::WatchFiles(const mesh::Config& config) {
  absl::Status all;
  for (const auto& [path, stamp] : config.files) {
    if (watched_files_.contains(path)) continue;
    const absl::Status watched =
        loop_.WatchFile(path, [this] { ReloadSoon(); }, stamp);
    if (watched.ok()) watched_files_.insert(path);
    all.Update(watched);
  }
  return all;
}

void Agent::ReloadSoon() {
  if (std::exchange(reload_waits_, true)) return;
  loop_.RunAfter(kFilesChangeTogether, [this] {
    reload_waits_ = false;
    Reload();
  });
}

void Agent::Reload() {
  if (stopping_) return;
  absl::StatusOr<mesh::Config> loaded = source_.load();
  absl::StatusOr<mesh::Cluster> cluster =
      loaded.ok() ? ClusterOf(*loaded)
                  : absl::StatusOr<mesh::Cluster>(loaded.status());
  backend_->NoteReload(cluster.status());
  if (!cluster.ok()) {
    for (absl::string_view line :
         absl::StrSplit(cluster.status().message(), '\n')) {
      base::Log(LogLevel::kError,
                "configuration refused, the one before goes on",
                {{"error", line}});
    }
    return;
  }
  const std::vector<std::string> later = StartOnlyChanges(config_, *loaded);
  if (!later.empty()) {
    base::Log(LogLevel::kWarning, "changed fields wait for the next start",
              {{"fields", absl::StrJoin(later, ", ")}});
  }
  LogWarnings(*loaded);
  if (const absl::Status watched = WatchFiles(*loaded); !watched.ok()) {
    base::Log(LogLevel::kWarning, "a key file's changes will need SIGHUP",
              {{"error", watched.message()}});
  }
  cluster->node = mesh_->node();
  cluster->drain_time = config_.timers.drain_time;
  config_.peers = std::move(loaded->peers);
  config_.modes = std::move(loaded->modes);
  base::SetLogLevel(loaded->log_level);
  mesh_->SetCluster(*std::move(cluster));
  UpdatePodSettings();
  base::Log(LogLevel::kInfo, "configuration reloaded",
            {{"peers", config_.peers.size()}});
  TakeNodeKey(*loaded);
}

void Agent::TakeNodeKey(const mesh::Config& loaded) {
  // In Kubernetes the key is rotated on request; another file waits for the
  // next start.
  if (config_.source != mesh::ClusterSource::kFile || !config_.private_key ||
      !loaded.private_key ||
      loaded.private_key->file.path != config_.private_key->file.path) {
    return;
  }
  const auto& key = loaded.private_key->key;
  // Taken away: what the agent has goes on.
  if (key == nullptr || node_key_ == nullptr ||
      *key->public_key() == *node_key_->public_key()) {
    return;
  }
  base::Log(LogLevel::kInfo, "node key replaced, IKE_SAs are made anew with it",
            {{"file", loaded.private_key->file.path},
             {"fingerprint", key->public_key()->Fingerprint()}});
  SetNodeKey(key);
}

void Agent::UpdatePodSettings() {
  pod_mtu_ = mesh_->pod_mtu();
  cni_->Reconfigure(PodSettings(), [](const absl::Status& status) {
    if (status.ok()) return;
    base::Log(LogLevel::kError, "pod settings not changed",
              {{"error", status}});
  });
}

void Agent::SetCniConfigs(CniConfigs configs) {
  if (stopping_ || configs == surroundings_.cni_configs()) return;
  surroundings_.SetCniConfigs(std::move(configs));
  cni_->SetRefusal(surroundings_.Refusal());
}

void Agent::SetModes(base::PodModes modes) {
  if (stopping_ || modes == config_.modes) return;
  config_.modes = std::move(modes);
  UpdatePodSettings();
}

void Agent::SetPlaintextSettle(absl::Duration settle) {
  if (stopping_ || settle == plaintext_settle_) return;
  plaintext_settle_ = settle;
  UpdatePodSettings();
}

void Agent::SetNodeKey(std::shared_ptr<const crypto::PrivateKey> key) {
  node_key_ = std::move(key);
  driver_.core().SetPrivateKey(node_key_);
  key_since_ = driver_.Now();
  std::set<std::string> others;
  for (const mesh::Peer& peer : config_.peers) {
    if (!std::holds_alternative<mesh::PublicKeyCredential>(peer.credential) ||
        peer.initiate == mesh::Initiate::kNever) {
      others.insert(peer.name);
    }
  }
  for (const mesh::PeerStatus& peer : mesh_->Peers()) {
    if (others.contains(peer.name)) continue;
    driver_.core().Reestablish(driver_.Now(), peer.id);
  }
  driver_.WakeSoon();
}

bool Agent::KeyInUse() {
  const std::vector<ike::IkeSaInfo> sas = driver_.core().IkeSas();
  return std::none_of(sas.begin(), sas.end(), [&](const ike::IkeSaInfo& sa) {
    return sa.established < key_since_;
  });
}

void Agent::Run() { loop_.Run(); }

void Agent::Stop() {
  if (stopping_) return;
  stopping_ = true;
  base::Log(LogLevel::kInfo, "agent stops; its tunnels go on");
  events_.End();
  // Calls under way wait for the loop, so it runs on while the servers end.
  stopper_ = std::thread([this] {
    http_.reset();
    secure_metrics_.reset();
    grpc_.reset();
    loop_.Post([this] {
      backend_->SetCniServer(nullptr);
      cni_.reset();
      loop_.Stop();
    });
  });
}

}  // namespace espalier::agent
