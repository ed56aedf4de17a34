#include "agent/main/kubernetes_mode.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/ipam/file_system.h"
#include "agent/kube/curl_transport.h"
#include "agent/mesh/kubernetes/last_known.h"

namespace espalier::agent {
namespace {

using base::LogLevel;

constexpr absl::Duration kCallTime = absl::Seconds(10);
// A runtime waits for ADD, and DELs wait behind it.
constexpr absl::Duration kAskTime = absl::Seconds(2);
constexpr absl::Duration kTellEvery = absl::Seconds(10);
constexpr absl::Duration kTick = absl::Seconds(1);
constexpr absl::Duration kNodesTogether = absl::Milliseconds(100);
constexpr absl::Duration kModesTogether = absl::Milliseconds(10);
constexpr absl::Duration kSaveTogether = absl::Milliseconds(500);
constexpr absl::Duration kKubeProxyLooks = absl::Seconds(30);
// No peer has forgotten a block whose withdrawal could not be published.
constexpr absl::Duration kNotSettled = absl::Hours(24 * 365);
constexpr int kMostCallsWaiting = 20;
constexpr size_t kMaxLastKnown = size_t{256} << 20;

std::string LastKnownFile(const mesh::Config& config) {
  return config.state_directory + "/cluster.last-known";
}

template <typename T>
std::vector<T> Sorted(std::vector<T> values) {
  std::ranges::sort(values);
  return values;
}

// Whether a node may go on as `a` where `b` is asked for.
bool SamePlace(const mesh::Node& a, const mesh::Node& b) {
  return Sorted(a.addresses) == Sorted(b.addresses) &&
         Sorted(a.pod_cidrs) == Sorted(b.pod_cidrs);
}

}  // namespace

absl::StatusOr<ApiServer> ApiServer::Find(const std::string& kubeconfig) {
  ESPALIER_ASSIGN_OR_RETURN(kube::ClusterAccess::Parts parts,
                            kube::ClusterAccess::Find(kubeconfig));
  ApiServer server;
  server.access = std::make_unique<kube::ClusterAccess>(std::move(parts));
  server.transport = std::make_unique<kube::CurlTransport>(server.access.get());
  return server;
}

absl::StatusOr<std::unique_ptr<KubernetesMode>> KubernetesMode::Create(
    Options options, ApiServer server) {
  ipam::FileSystem files;
  ESPALIER_RETURN_IF_ERROR(files.MakeDirectory(options.base.state_directory));
  ESPALIER_ASSIGN_OR_RETURN(
      std::unique_ptr<KeyRotation> rotation,
      KeyRotation::Open(options.base.private_key->file.path));
  auto mode = std::unique_ptr<KubernetesMode>(new KubernetesMode(
      std::move(options), std::move(server), std::move(rotation)));
  mode->RestoreLastKnown();
  return mode;
}

KubernetesMode::KubernetesMode(Options options, ApiServer server,
                               std::unique_ptr<KeyRotation> rotation)
    : options_(std::move(options)),
      name_(options_.base.node.name),
      server_(std::move(server)),
      client_(server_.transport.get()),
      plaintext_(options_.base.plaintext_path != mesh::PlaintextPath::kNone),
      rotation_(std::move(rotation)) {}

KubernetesMode::~KubernetesMode() { End(); }

const kube::EspalierNode* KubernetesMode::own() const {
  return known_.Find(name_);
}

// --- the start ---

void KubernetesMode::RestoreLastKnown() {
  ipam::FileSystem files;
  const std::string path = LastKnownFile(options_.base);
  const absl::StatusOr<std::string> text = files.Read(path, kMaxLastKnown);
  if (absl::IsNotFound(text.status())) return;
  absl::StatusOr<mesh::LastKnown> known =
      text.ok() ? mesh::ParseLastKnown(*text)
                : absl::StatusOr<mesh::LastKnown>(text.status());
  if (!known.ok()) {
    base::Log(LogLevel::kWarning,
              "what was last known of the cluster is not used",
              {{"file", path}, {"error", known.status()}});
    return;
  }
  std::vector<mesh::KnownNodes::Node> nodes;
  for (auto& [name, node] : known->nodes) nodes.push_back(std::move(node));
  known_.Restore(std::move(nodes));
  restored_ = known_.nodes();
  namespaces_.Restore(std::move(known->namespaces));
  pods_.Restore(std::move(known->pods));
}

absl::StatusOr<kube::EspalierNode> KubernetesMode::PublishFirst() {
  const std::string path = kube::ObjectPath(kube::kEspalierNodes, name_);
  absl::StatusOr<kube::EspalierNode> own =
      client_.GetObject<kube::EspalierNode>(path, kCallTime, &cancellation_);
  if (!own.ok() && !absl::IsNotFound(own.status())) return own;
  kube::EspalierNode wanted;
  wanted.meta.name = name_;
  if (own.ok()) {
    // Until the datapath is chosen and the checkpoint read, what the agent
    // before this one said holds.
    wanted.spec.datapath = own->spec.datapath;
    wanted.spec.plaintext_blocks = own->spec.plaintext_blocks;
  }
  wanted.spec.public_keys = rotation_->public_keys();
  if (options_.base.datapath_driver == mesh::DatapathDriver::kKernel) {
    wanted.spec.datapath = "kernel";
  } else if (options_.base.datapath_driver == mesh::DatapathDriver::kUser ||
             wanted.spec.datapath.empty()) {
    wanted.spec.datapath = "user";
  }
  if (own.ok() && own->spec.public_keys == wanted.spec.public_keys &&
      own->spec.datapath == wanted.spec.datapath) {
    first_spec_ = wanted.spec;
    return own;
  }
  ESPALIER_ASSIGN_OR_RETURN(
      const std::string answer,
      client_.ServerSideApply(path, kube::EncodeSpec(wanted), kFieldManager,
                              /*force=*/true, kCallTime, &cancellation_));
  first_spec_ = wanted.spec;
  base::Log(LogLevel::kInfo, "public key published",
            {{"node", name_},
             {"fingerprint", rotation_->key()->public_key()->Fingerprint()}});
  return kube::Decode<kube::EspalierNode>(answer);
}

absl::Status KubernetesMode::TryBootstrap() {
  ESPALIER_ASSIGN_OR_RETURN(const kube::EspalierNode own, PublishFirst());
  mesh::Config config = options_.base;
  ESPALIER_RETURN_IF_ERROR(mesh::FillNode(&own, &config));
  using kube::Client;
  ESPALIER_ASSIGN_OR_RETURN(
      const std::vector<kube::EspalierNode> nodes,
      client_.List<kube::EspalierNode>(kube::kEspalierNodes, {}, kCallTime,
                                       &cancellation_));
  ESPALIER_ASSIGN_OR_RETURN(
      const std::vector<kube::NamespaceMeta> namespaces,
      client_.List<kube::NamespaceMeta>(kube::kNamespaces, {}, kCallTime,
                                        &cancellation_));
  ESPALIER_ASSIGN_OR_RETURN(
      const std::vector<kube::Pod> pods,
      client_.List<kube::Pod>(kube::kPods, {.fields = "spec.nodeName=" + name_},
                              kCallTime, &cancellation_));
  std::vector<mesh::KnownNodes::Node> shared;
  for (const kube::EspalierNode& node : nodes) {
    shared.push_back(std::make_shared<const kube::EspalierNode>(node));
  }
  known_.HandleRelist(clock_.Now(), shared, /*resource_version=*/"");
  for (const kube::NamespaceMeta& object : namespaces) {
    namespaces_.Handle(kube::Put<kube::NamespaceMeta>{
        std::make_shared<const kube::NamespaceMeta>(object)});
  }
  for (const kube::Pod& pod : pods) {
    pods_.Handle(kube::Put<kube::Pod>{std::make_shared<const kube::Pod>(pod)});
  }
  return absl::OkStatus();
}

absl::StatusOr<mesh::Config> KubernetesMode::Bootstrap() {
  const base::Instant began = clock_.Now();
  base::Instant told = absl::InfinitePast();
  while (!cancellation_.cancelled()) {
    const absl::Status status = TryBootstrap();
    absl::StatusOr<mesh::Config> config = Compose(options_.base);
    if (status.ok()) return config;
    const base::Instant now = clock_.Now();
    // Also where it answers and knows less than this node does: it may have
    // been set back.
    if (config.ok() && now - began >= options_.patience) {
      base::Log(LogLevel::kWarning,
                "the API server does not say what is needed: going on with "
                "what was last known of the cluster",
                {{"error", status}, {"peers", config->peers.size()}});
      return config;
    }
    if (now - told >= kTellEvery) {
      told = now;
      base::Log(LogLevel::kWarning, "waiting to join the mesh",
                {{"node", name_}, {"for", status.message()}});
    }
    absl::SleepFor(options_.look_every);
  }
  return absl::CancelledError("ended");
}

absl::StatusOr<mesh::Config> KubernetesMode::Compose(mesh::Config config) {
  if (running_) {
    config.node.addresses = running_->addresses;
    config.node.pod_cidrs = running_->pod_cidrs;
  } else {
    ESPALIER_RETURN_IF_ERROR(mesh::FillNode(own(), &config));
  }
  std::vector<std::string> problems = mesh::FillPeers(known_.nodes(), &config);
  for (const std::string& problem : problems) {
    if (std::ranges::find(told_problems_, problem) != told_problems_.end()) {
      continue;
    }
    base::Log(LogLevel::kWarning, "left out of the mesh", {{"node", problem}});
  }
  told_problems_ = std::move(problems);
  missing_families_ = MissingFamilies(config.node.pod_cidrs, config.peers);
  config.modes = mesh::ModesOf(config, namespaces_.objects(), pods_.objects());
  return config;
}

ConfigSource KubernetesMode::Source() {
  return {.path = options_.config_path,
          .load = [this]() -> absl::StatusOr<mesh::Config> {
            ESPALIER_ASSIGN_OR_RETURN(mesh::Config base,
                                      mesh::LoadConfig(options_.config_path));
            if (base.source != mesh::ClusterSource::kKubernetes ||
                base.node.name != name_) {
              return absl::FailedPreconditionError(absl::StrCat(
                  options_.config_path,
                  ": cluster.source and node.name change with a restart only"));
            }
            options_.base = base;
            plaintext_ = base.plaintext_path != mesh::PlaintextPath::kNone;
            return Compose(std::move(base));
          },
          .modes = this,
          .distrusted = mesh::LostKeys(restored_, known_.nodes())};
}

// --- while it runs ---

void KubernetesMode::Begin(Agent* agent) {
  agent_ = agent;
  mesh::Node node = options_.base.node;
  node.addresses = agent->mesh().node().addresses;
  node.pod_cidrs = agent->mesh().node().pod_cidrs;
  running_ = std::move(node);
  datapath_word_ = agent->datapath().kind() == mesh::DatapathDriver::kKernel
                       ? "kernel"
                       : "user";
  applied_revision_ = known_.revision();
  worker_ = std::make_unique<service::SerialWorker>();
  disk_ = std::make_unique<service::SerialWorker>();
  kernel_ = std::make_unique<service::SerialWorker>();
  reporter_ = std::make_unique<NodeReporter>(name_, &random_);
  publisher_ = std::make_unique<NodePublisher>(
      name_, first_spec_, clock_.Now(), [this](const kube::EspalierNode& node) {
        Call(
            [this, body = kube::EncodeSpec(node)] {
              return client_
                  .ServerSideApply(
                      kube::ObjectPath(kube::kEspalierNodes, name_), body,
                      kFieldManager, /*force=*/true, kCallTime, &cancellation_)
                  .status();
            },
            [this](const absl::Status& status) {
              publisher_->HandleWritten(clock_.Now(), status);
            });
      });
  kube::Transport* const transport = server_.transport.get();
  node_informer_ = std::make_unique<kube::Informer<kube::EspalierNode>>(
      transport, kube::Resource{kube::kEspalierNodes, {}}, &agent->loop(),
      &random_, [this](auto updates) { HandleNodes(std::move(updates)); });
  namespace_informer_ = std::make_unique<kube::Informer<kube::NamespaceMeta>>(
      transport, kube::Resource{kube::kNamespaces, {}}, &agent->loop(),
      &random_, [this](auto updates) { HandleObjects(updates, &namespaces_); });
  pod_informer_ = std::make_unique<kube::Informer<kube::Pod>>(
      transport,
      kube::Resource{kube::kPods, {.fields = "spec.nodeName=" + name_}},
      &agent->loop(), &random_,
      [this](auto updates) { HandleObjects(updates, &pods_); });
  node_informer_->Start();
  namespace_informer_->Start();
  pod_informer_->Start();
  agent->backend().SetSource(
      [this] { return SourceMetrics(clock_.Now(), State()); });
  // Tunnels and pods never wait for it.
  if (const absl::Status status = agent->ServeSecureMetrics(transport);
      !status.ok()) {
    base::Log(LogLevel::kError, "metrics are not served as they should be",
              {{"error", status}});
  }
  ArmRemoval();
  SaveLastKnownSoon();
  Tick();
}

void KubernetesMode::End() {
  cancellation_.Cancel();
  if (agent_ != nullptr) agent_->backend().SetSource(nullptr);
  node_informer_.reset();
  namespace_informer_.reset();
  pod_informer_.reset();
  worker_.reset();
  disk_.reset();
  kernel_.reset();
  agent_ = nullptr;
}

void KubernetesMode::HandleNodes(
    std::vector<kube::Update<kube::EspalierNode>> updates) {
  const base::Instant now = clock_.Now();
  for (auto& update : updates) {
    if (auto* relist = std::get_if<kube::Relist<kube::EspalierNode>>(&update)) {
      known_.HandleRelist(now, relist->objects, relist->resource_version);
    } else if (auto* put =
                   std::get_if<kube::Put<kube::EspalierNode>>(&update)) {
      known_.HandlePut(now, put->object);
    } else {
      const auto& meta =
          std::get<kube::Deleted<kube::EspalierNode>>(update).object->meta;
      known_.HandleDeleted(now, meta.name, meta.resource_version);
    }
  }
  AfterNodes();
}

void KubernetesMode::AfterNodes() {
  if (known_.alarm() != told_alarm_) {
    told_alarm_ = known_.alarm();
    if (told_alarm_.empty()) {
      base::Log(LogLevel::kInfo, "the API server is believed again");
    } else {
      base::Log(LogLevel::kError,
                "the API server is not believed, nothing is removed",
                {{"why", told_alarm_},
                 {"if it is right",
                  absl::StrCat("remove ", LastKnownFile(options_.base),
                               " and restart this agent")}});
    }
  }
  ArmRemoval();
  if (known_.revision() == applied_revision_) return;
  applied_revision_ = known_.revision();
  SaveLastKnownSoon();
  ApplyNodesSoon();
  CheckOwnNode();
}

void KubernetesMode::ArmRemoval() {
  if (removal_timer_ != 0) agent_->loop().CancelTimer(removal_timer_);
  removal_timer_ = 0;
  const std::optional<base::Instant> next = known_.NextTimeout();
  if (!next) return;
  removal_timer_ = agent_->loop().RunAfter(
      std::max(*next - clock_.Now(), absl::ZeroDuration()), [this] {
        removal_timer_ = 0;
        known_.HandleTimeout(clock_.Now());
        AfterNodes();
      });
}

void KubernetesMode::CheckOwnNode() {
  mesh::Config config = options_.base;
  // What is not verified any more is the controller's to say to the peers;
  // this node's tunnels go on.
  if (!mesh::FillNode(own(), &config).ok()) return;
  if (SamePlace(config.node, *running_)) return;
  base::Log(LogLevel::kWarning,
            "this node's addresses or pod CIDRs have changed: the agent ends, "
            "to be started anew; tunnels go on",
            {{"node", name_}});
  agent_->Stop();
}

void KubernetesMode::ApplyNodesSoon() {
  if (std::exchange(apply_nodes_waits_, true)) return;
  agent_->loop().RunAfter(kNodesTogether, [this] {
    apply_nodes_waits_ = false;
    agent_->Reload();
  });
}

void KubernetesMode::ApplyModesSoon() {
  SaveLastKnownSoon();
  if (std::exchange(apply_modes_waits_, true)) return;
  agent_->loop().RunAfter(kModesTogether, [this] {
    apply_modes_waits_ = false;
    agent_->SetModes(
        mesh::ModesOf(options_.base, namespaces_.objects(), pods_.objects()));
  });
}

template <typename T>
void KubernetesMode::HandleObjects(const std::vector<kube::Update<T>>& updates,
                                   mesh::KnownObjects<T>* known) {
  const bool was_set_back = known->set_back();
  bool news = false;
  for (const kube::Update<T>& update : updates) {
    if (known->Handle(update)) news = true;
  }
  if (known->set_back() && !was_set_back) {
    base::Log(LogLevel::kError,
              "the API server's state is older than what was seen, no pod's "
              "mode is weakened by it",
              {{"kind", T::kKind}});
  }
  if (news) ApplyModesSoon();
}

void KubernetesMode::SaveLastKnownSoon() {
  if (std::exchange(save_waits_, true)) return;
  agent_->loop().RunAfter(kSaveTogether, [this] {
    save_waits_ = false;
    disk_->Post([path = LastKnownFile(options_.base),
                 known = mesh::LastKnown{known_.nodes(), namespaces_.objects(),
                                         pods_.objects()}] {
      ipam::FileSystem files;
      const absl::Status status =
          files.Replace(path, mesh::FormatLastKnown(known), /*durable=*/true);
      if (!status.ok()) {
        base::Log(LogLevel::kWarning, "what is known of the cluster not kept",
                  {{"error", status}});
      }
    });
  });
}

// --- what this node says ---

void KubernetesMode::Call(std::function<absl::Status()> call,
                          std::function<void(const absl::Status&)> done) {
  ++calls_waiting_;
  runtime::Loop* const loop = &agent_->loop();
  worker_->Post([this, loop, call = std::move(call), done = std::move(done)] {
    const absl::Status status = call();
    --calls_waiting_;
    if (done) loop->Post([done, status] { done(status); });
  });
}

void KubernetesMode::Tick() {
  runtime::Loop* const loop = &agent_->loop();
  loop->RunAfter(kTick, [this] { Tick(); });
  if (agent_->cni() == nullptr) return;
  agent_->cni()->TakeSnapshot([this, loop](pods::Snapshot snapshot) {
    loop->Post(
        [this, snapshot = std::move(snapshot)] { HandleSnapshot(snapshot); });
  });
}

void KubernetesMode::HandleSnapshot(const pods::Snapshot& snapshot) {
  const base::Instant now = clock_.Now();
  if (own() != nullptr) {
    const auto& annotations = own()->meta.annotations;
    const auto rotate = annotations.find(mesh::kRotateAnnotation);
    const absl::Status status =
        rotation_->Request(rotate == annotations.end() ? "" : rotate->second);
    if (!status.ok()) {
      base::Log(LogLevel::kError, "key not changed", {{"error", status}});
    }
  }
  kube::EspalierNode::Spec spec;
  spec.public_keys = rotation_->public_keys();
  spec.datapath = datapath_word_;
  spec.plaintext_blocks = snapshot.plaintext_blocks;
  publisher_->Look(now, spec, known_.Told(name_));
  agent_->SetPlaintextSettle(publisher_->settled(now) ? NodePublisher::kSettle
                                                      : kNotSettled);
  AdvanceRotation(now);
  LookAround(now, snapshot);
  TellPeople(now, snapshot);
}

void KubernetesMode::LookAround(base::Instant now,
                                const pods::Snapshot& snapshot) {
  Surroundings& surroundings = agent_->surroundings();
  surroundings.SetPods(
      unprotected_pods_.Look(now, pods_.objects(), snapshot.pods, [this] {
        return mesh::ModesOf(options_.base, namespaces_.objects(),
                             pods_.objects());
      }));
  surroundings.SetMissingFamilies(missing_families_);
  LookAtKubeProxy(now);
}

void KubernetesMode::LookAtKubeProxy(base::Instant now) {
  if (now < next_kube_proxy_look_) return;
  next_kube_proxy_look_ = now + kKubeProxyLooks;
  const bool policy_based =
      agent_->datapath().kind() == mesh::DatapathDriver::kKernel &&
      options_.base.kernel_routing == mesh::KernelRouting::kPolicyBased;
  runtime::Loop* const loop = &agent_->loop();
  kernel_->Post([this, loop, policy_based] {
    KernelKubeProxyFacts facts;
    loop->Post([this, verdict = agent::LookAtKubeProxy(&facts, policy_based)] {
      if (agent_ != nullptr) agent_->surroundings().SetKubeProxy(verdict);
    });
  });
}

void KubernetesMode::AdvanceRotation(base::Instant now) {
  const absl::StatusOr<bool> switched =
      rotation_->Advance(now, publisher_->published(), agent_->KeyInUse());
  if (!switched.ok()) {
    base::Log(LogLevel::kError, "key not changed; trying again",
              {{"error", switched.status()}});
  } else if (*switched) {
    agent_->SetNodeKey(rotation_->key());
  }
}

SourceState KubernetesMode::State() const {
  return {.alarm = known_.alarm(),
          .published = publisher_->problem(),
          .set_back = namespaces_.set_back() || pods_.set_back(),
          .watches = {{"espaliernodes", node_informer_->Stats()},
                      {"namespaces", namespace_informer_->Stats()},
                      {"pods", pod_informer_->Stats()}}};
}

void KubernetesMode::TellPeople(base::Instant now,
                                const pods::Snapshot& snapshot) {
  if (calls_waiting_ >= kMostCallsWaiting) return;
  const auto uid_of = [this](const std::string& pod) {
    const auto found = pods_.objects().find(pod);
    return found == pods_.objects().end() ? std::string()
                                          : found->second->meta.uid;
  };
  for (const kube::Event& event :
       reporter_->Events(now, agent_->guard().drops(), uid_of)) {
    Call(
        [this, event] {
          return client_
              .Create(kube::EventsPath(event.meta.name_space),
                      kube::Encode(event), kCallTime, &cancellation_)
              .status();
        },
        nullptr);
  }
  // The first report is not to wait a minute for what it says of kube-proxy.
  if (agent_->surroundings().kube_proxy().reason == kNotLookedYet) return;
  if (!reporter_->Due(now)) return;
  NodeFacts facts{.peers = agent_->mesh().Peers(),
                  .pods = snapshot.pods,
                  .counters = agent_->guard().Counters(),
                  .datapath = datapath_word_,
                  .source_problem = SourceProblem(now, State()),
                  .unprotected_pods = static_cast<int64_t>(
                      agent_->surroundings().pods().size()),
                  .surroundings = agent_->surroundings().Conditions()};
  if (!agent_->ready()) {
    facts.not_ready = "pods cannot be attached yet";
  } else {
    facts.not_ready = std::string(agent_->surroundings().Refusal().message());
  }
  for (const guard::GuardProblem& problem : agent_->guard().GuardProblems()) {
    absl::StrAppend(&facts.guard_problem,
                    facts.guard_problem.empty() ? "" : "; ", problem.guard,
                    ": ", problem.item, ": ", problem.status.message());
  }
  if (auto report = reporter_->Report(now, absl::Now(), facts)) {
    Call([this, report = *std::move(report)] { return WriteReport(report); },
         [](const absl::Status& status) {
           if (status.ok()) return;
           base::Log(LogLevel::kWarning, "report not written",
                     {{"error", status}});
         });
  }
}

absl::Status KubernetesMode::WriteReport(
    const kube::EspalierNodeReport& report) {
  const auto apply = [&](const std::string& path, const std::string& body) {
    return client_
        .ServerSideApply(path, body, kFieldManager, /*force=*/true, kCallTime,
                         &cancellation_)
        .status();
  };
  if (!report_exists_) {
    ESPALIER_RETURN_IF_ERROR(
        apply(kube::ObjectPath(kube::kEspalierNodeReports, name_),
              kube::EncodeAgentMetadata(report)));
  }
  const absl::Status status =
      apply(kube::StatusPath(kube::kEspalierNodeReports, name_),
            kube::EncodeStatus(report));
  // Collected with its Node, perhaps: made anew the next time.
  report_exists_ = status.ok();
  return status;
}

// --- mode at ADD ---

absl::StatusOr<pods::ModeSource::Wishes> KubernetesMode::Ask(
    const std::string& pod_namespace, const std::string& pod_name,
    const std::string& pod_uid) {
  ESPALIER_ASSIGN_OR_RETURN(
      const kube::Pod pod,
      client_.GetObject<kube::Pod>(
          kube::ObjectPath(kube::PodsPath(pod_namespace), pod_name), kAskTime,
          &cancellation_));
  if (!pod_uid.empty() && mesh::PodUid(pod) != pod_uid) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the API server's pod ", pod_namespace, "/", pod_name,
        " is another (uid ", mesh::PodUid(pod), ", expected ", pod_uid, ")"));
  }
  ESPALIER_ASSIGN_OR_RETURN(
      const kube::NamespaceMeta space,
      client_.GetObject<kube::NamespaceMeta>(
          kube::ObjectPath(kube::kNamespaces, pod_namespace), kAskTime,
          &cancellation_));
  const bool plaintext = plaintext_;
  return Wishes{.of_namespace = mesh::WishOf(space.meta, plaintext),
                .of_pod = mesh::WishOf(pod.meta, plaintext)};
}

}  // namespace espalier::agent
