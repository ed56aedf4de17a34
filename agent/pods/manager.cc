#include "agent/pods/manager.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/base/log.h"
#include "agent/base/status_macros.h"
#include "agent/pods/names.h"

namespace espalier::pods {
namespace {

using base::Log;
using base::LogLevel;
using ipam::Lease;

// Keys of a lease's labels.
constexpr char kNetwork[] = "network";
constexpr char kNamespacePath[] = "netns";
constexpr char kNamespaceId[] = "netnsId";
constexpr char kMtu[] = "mtu";
constexpr char kPodUid[] = "podUid";
constexpr char kDetaching[] = "detaching";
constexpr char kRefused[] = "espalier-agent attaches no pods on this node";

v1::Error MakeError(v1::ErrorCode code, std::string message,
                    std::string details = "") {
  v1::Error error;
  error.set_code(static_cast<uint32_t>(code));
  error.set_message(std::move(message));
  error.set_details(std::move(details));
  return error;
}

v1::Error TryAgain(const absl::Status& why) {
  return MakeError(v1::ERROR_CODE_TRY_AGAIN_LATER,
                   "espalier-agent is not ready", std::string(why.message()));
}

v1::AddResponse Failed(v1::Error error) {
  v1::AddResponse response;
  *response.mutable_error() = std::move(error);
  return response;
}

std::string Label(const Lease& lease, const char* key) {
  const auto it = lease.labels.find(key);
  return it == lease.labels.end() ? "" : it->second;
}

std::string OwnerOfId(const v1::AttachmentId& id) {
  return OwnerOf(id.container_id(), id.interface_name());
}

// Both become part of an alias, a file's name and a sysctl's name.
bool IsName(const std::string& text, size_t limit) {
  return !text.empty() && text.size() <= limit && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isgraph(static_cast<unsigned char>(c)) &&
                  c != '/' && c != '@' && c != ':';
         });
}

std::optional<v1::Error> Validate(const v1::AddRequest& request) {
  constexpr size_t kMaxInterfaceName = 15;
  if (!IsName(request.network(), 64) ||
      !IsName(request.attachment().container_id(), 128) ||
      !IsName(request.attachment().interface_name(), kMaxInterfaceName)) {
    return MakeError(v1::ERROR_CODE_INVALID_ENVIRONMENT,
                     "network, container id or interface name is not valid");
  }
  return std::nullopt;
}

v1::Error NamespaceError(const std::string& path, const absl::Status& status) {
  return MakeError(
      v1::ERROR_CODE_INVALID_NETWORK_NAMESPACE,
      absl::StrCat("network namespace ", path, " (CNI_NETNS) cannot be used"),
      std::string(status.message()));
}

v1::AddResponse Describe(const PodNetworkSpec& spec) {
  v1::AddResponse response;
  v1::Attachment* out = response.mutable_attachment();
  out->mutable_host_interface()->set_name(HostInterfaceName(spec.owner));
  out->mutable_host_interface()->set_mac(
      netlink::MacToString(HostMac(spec.owner)));
  out->mutable_host_interface()->set_mtu(spec.mtu);
  out->mutable_pod_interface()->set_name(spec.interface_name);
  out->mutable_pod_interface()->set_mac(
      netlink::MacToString(PodMac(spec.owner)));
  out->mutable_pod_interface()->set_mtu(spec.mtu);
  for (const base::IpAddress& address : spec.addresses) {
    const std::string gateway = Gateway(address.family()).ToString();
    v1::AddressConfig* config = out->add_addresses();
    config->set_address(base::IpPrefix::Host(address).ToString());
    config->set_gateway(gateway);
    v1::Route* route = out->add_routes();
    route->set_destination(address.is_v4() ? "0.0.0.0/0" : "::/0");
    route->set_gateway(gateway);
  }
  return response;
}

}  // namespace

Manager::Manager(std::string run_directory, std::string state_directory,
                 Settings settings, Dependencies dependencies)
    : run_directory_(std::move(run_directory)),
      state_directory_(std::move(state_directory)),
      settings_(std::move(settings)),
      dependencies_(dependencies),
      checkpoint_(dependencies.files,
                  absl::StrCat(state_directory_, "/", kCheckpointFile)),
      ready_(absl::UnavailableError("it is starting")),
      started_(absl::UnavailableError("it is starting")) {}

void Manager::SetReady(absl::Status ready) {
  const bool becomes_ready = ready.ok() && !ready_.ok();
  ready_ = std::move(ready);
  if (becomes_ready) WriteHeartbeat();
}

absl::Status Manager::NotReady() const {
  ESPALIER_RETURN_IF_ERROR(started_);
  return ready_;
}

absl::Status Manager::Save() {
  absl::Status status = checkpoint_.Save(allocator_.ToState(), boot_id_);
  dirty_ = !status.ok();
  return status;
}

void Manager::SaveLater(absl::string_view why, const absl::Status& status) {
  if (status.ok()) return;
  Log(LogLevel::kError, "pod checkpoint not saved; trying again",
      {{"after", why}, {"error", status}});
}

bool Manager::IsDetaching(const Lease& lease) const {
  return lease.labels.contains(kDetaching);
}

PodNetworkSpec Manager::SpecOf(const Lease& lease) const {
  PodNetworkSpec spec;
  spec.network = Label(lease, kNetwork);
  spec.owner = lease.owner;
  spec.network_namespace = Label(lease, kNamespacePath);
  if (const auto parts = ParseOwner(lease.owner)) {
    spec.interface_name = parts->interface_name;
  }
  if (!absl::SimpleAtoi(Label(lease, kMtu), &spec.mtu)) {
    spec.mtu = settings_.mtu;
  }
  spec.addresses = lease.addresses;
  return spec;
}

base::PodPolicy Manager::AskedPolicyOf(const Lease& lease) const {
  // Taken over by its interface alone, which does not tell its namespace.
  if (!lease.labels.contains(kPodNamespace)) {
    base::PodPolicy strongest;
    strongest.problem =
        "found without a checkpoint, so its namespace is not known: recreate "
        "the pod";
    return strongest;
  }
  return settings_.modes.Resolve(Label(lease, kPodNamespace),
                                 Label(lease, kPodName), Label(lease, kPodUid));
}

base::PodPolicy Manager::PolicyOf(const Lease& lease) const {
  base::PodPolicy policy = AskedPolicyOf(lease);
  if (policy.encryption == base::Mode::kDisabled &&
      !std::ranges::all_of(lease.addresses,
                           [this](const base::IpAddress& address) {
                             return allocator_.InPublishedBlock(address);
                           })) {
    // To its peers its address is ESP or nothing.
    policy.encryption = base::Mode::kPreferred;
    absl::StrAppend(&policy.problem, policy.problem.empty() ? "" : "; ",
                    "encryption: disabled takes effect when the pod is made "
                    "anew: its address is in no plaintext block");
  }
  return policy;
}

bool Manager::UpdateBlocks() {
  const int64_t now = absl::ToUnixSeconds(dependencies_.clock->Now());
  const bool withdrawn = allocator_.WithdrawBlocks(
      [this](const Lease& lease) {
        return AskedPolicyOf(lease).encryption == base::Mode::kDisabled;
      },
      now);
  const bool retired = allocator_.RetireBlocks(
      now - absl::ToInt64Seconds(settings_.plaintext_settle));
  if (withdrawn || retired) dirty_ = true;
  return withdrawn || retired;
}

PodInfo Manager::InfoOf(const Lease& lease) const {
  const PodNetworkSpec spec = SpecOf(lease);
  PodInfo pod;
  pod.network = spec.network;
  if (auto parts = ParseOwner(lease.owner)) {
    pod.container_id = std::move(parts->container_id);
    pod.interface_name = std::move(parts->interface_name);
  }
  pod.pod_namespace = Label(lease, kPodNamespace);
  pod.pod_name = Label(lease, kPodName);
  pod.pod_uid = Label(lease, kPodUid);
  pod.network_namespace = spec.network_namespace;
  pod.host_interface = HostInterfaceName(lease.owner);
  pod.addresses = spec.addresses;
  pod.mtu = spec.mtu;
  pod.mac = PodMac(lease.owner);
  pod.policy = PolicyOf(lease);
  pod.settling = pod.policy.encryption == base::Mode::kRequired &&
                 std::ranges::any_of(lease.addresses,
                                     [this](const base::IpAddress& address) {
                                       return allocator_.InBlock(address);
                                     });
  return pod;
}

void Manager::TellGuard() {
  if (dependencies_.guard == nullptr || !started_.ok()) return;
  std::vector<PodInfo> pods;
  for (const auto& [owner, lease] : allocator_.leases()) {
    pods.push_back(InfoOf(lease));
  }
  dependencies_.guard->SetPods(std::move(pods));
}

// --- ADD ---

bool Manager::MustWait(const std::string& owner,
                       const std::string& namespace_id,
                       const std::string& interface_name) const {
  for (const std::string& other : destroying_) {
    if (other == owner) return true;
    const Lease* lease = allocator_.Find(other);
    if (lease == nullptr) continue;
    const auto parts = ParseOwner(other);
    if (Label(*lease, kNamespaceId) == namespace_id && parts.has_value() &&
        parts->interface_name == interface_name) {
      return true;
    }
  }
  return false;
}

void Manager::Add(const v1::AddRequest& request,
                  std::function<void(v1::AddResponse)> done) {
  AddOrDefer({request, std::move(done)});
}

void Manager::AddOrDefer(DeferredAdd add) {
  const v1::AddRequest& request = add.request;
  if (const absl::Status status = NotReady(); !status.ok()) {
    return add.done(Failed(TryAgain(status)));
  }
  if (!refusal_.ok()) {
    return add.done(Failed(MakeError(v1::ERROR_CODE_TRY_AGAIN_LATER, kRefused,
                                     std::string(refusal_.message()))));
  }
  if (auto error = Validate(request)) {
    return add.done(Failed(*std::move(error)));
  }
  const auto id =
      dependencies_.network->NamespaceId(request.network_namespace());
  if (!id.ok()) {
    return add.done(
        Failed(NamespaceError(request.network_namespace(), id.status())));
  }
  const std::string owner = OwnerOfId(request.attachment());
  // A DEL of the same attachment may lie there unseen; it is older than this.
  ReplayDeletion(absl::StrCat(run_directory_.DeletionQueue(), "/", owner));
  if (MustWait(owner, *id, request.attachment().interface_name())) {
    deferred_.push_back(std::move(add));
    return;
  }
  v1::AddResponse response = AddNow(request, *id);
  // Once only: a DEL that keeps failing must not keep ADD.
  if (response.error().code() == v1::ERROR_CODE_NO_FREE_ADDRESS &&
      !destroying_.empty() && !add.waited_for_address) {
    add.waited_for_address = true;
    deferred_.push_back(std::move(add));
    return;
  }
  add.done(std::move(response));
}

// What stands under that owner already is told again when it is whole and the
// same (*standing), else taken away.
std::optional<v1::Error> Manager::ClearOld(const v1::AddRequest& request,
                                           const std::string& owner,
                                           const std::string& namespace_id,
                                           v1::AddResponse* standing) {
  const Lease* lease = allocator_.Find(owner);
  if (lease == nullptr) return std::nullopt;
  PodNetworkSpec spec = SpecOf(*lease);
  spec.network_namespace = request.network_namespace();
  if (!IsDetaching(*lease) && Label(*lease, kNamespaceId) == namespace_id &&
      spec.network == request.network() &&
      dependencies_.network->Verify(spec).ok()) {
    *standing = Describe(spec);
    return std::nullopt;
  }
  const absl::Status status = dependencies_.network->Destroy(owner);
  if (!status.ok()) {
    return MakeError(v1::ERROR_CODE_INTERNAL,
                     "an earlier attachment could not be taken away",
                     std::string(status.message()));
  }
  allocator_.Release(owner);
  return std::nullopt;
}

absl::StatusOr<Lease> Manager::AllocateFor(const v1::AddRequest& request,
                                           const std::string& owner,
                                           const std::string& namespace_id) {
  const std::map<std::string, std::string> labels = {
      {kNetwork, request.network()},
      {kNamespacePath, request.network_namespace()},
      {kNamespaceId, namespace_id},
      {kMtu, absl::StrCat(settings_.mtu)},
      {kPodNamespace, request.pod().namespace_()},
      {kPodName, request.pod().name()},
      {kPodUid, request.pod().uid()},
  };
  const auto allocate = [&]() -> absl::StatusOr<Lease> {
    if (AskedPolicyOf({.owner = owner, .labels = labels}).encryption ==
        base::Mode::kDisabled) {
      absl::StatusOr<Lease> plaintext =
          allocator_.Allocate(owner, labels, ipam::AddressKind::kPlaintext);
      if (!absl::IsResourceExhausted(plaintext.status())) return plaintext;
      Log(LogLevel::kWarning, "no plaintext block is free: the pod gets ESP",
          {{"owner", owner}});
    }
    return allocator_.Allocate(owner, labels);
  };
  absl::StatusOr<Lease> lease = allocate();
  if (!absl::IsResourceExhausted(lease.status())) return lease;
  // Some may be free without anyone having said so.
  ReplayDeletions();
  if (const absl::Status status = Reconcile(); !status.ok()) {
    Log(LogLevel::kWarning, "pod interfaces not listed", {{"error", status}});
  }
  return allocate();
}

v1::Error Manager::AttachFailed(const Lease& lease,
                                const absl::Status& status) {
  // Attach undid what it had made. If it could not, the address must not go to
  // another pod.
  const absl::Status gone = dependencies_.network->Destroy(lease.owner);
  if (gone.ok()) {
    allocator_.Forget(lease.owner);
  } else {
    allocator_.SetLabel(lease.owner, kDetaching, "1");
    Log(LogLevel::kError, "failed attachment not undone; trying again",
        {{"owner", lease.owner}, {"error", gone}});
  }
  SaveLater("a failed ADD", Save());
  const std::string path = Label(lease, kNamespacePath);
  const std::string details(status.message());
  if (absl::IsAlreadyExists(status)) {
    return MakeError(v1::ERROR_CODE_INTERFACE_EXISTS,
                     "the pod has such an interface or a default route already",
                     details);
  }
  if (!dependencies_.network->NamespaceId(path).ok() ||
      absl::IsFailedPrecondition(status)) {
    return NamespaceError(path, status);
  }
  return MakeError(v1::ERROR_CODE_INTERNAL,
                   "the pod's network could not be set up", details);
}

std::optional<v1::Error> Manager::LearnMode(const v1::PodIdentity& pod) {
  base::PodModes& modes = settings_.modes;
  // Nobody's pod (no K8S_ in CNI_ARGS) cannot be asked for: it is required.
  if (modes.Knows(pod.namespace_(), pod.name(), pod.uid()) ||
      (pod.namespace_().empty() && pod.name().empty())) {
    return std::nullopt;
  }
  const absl::StatusOr<ModeSource::Wishes> wishes =
      dependencies_.modes == nullptr
          ? absl::UnavailableError("no source of modes is there")
          : dependencies_.modes->Ask(pod.namespace_(), pod.name(), pod.uid());
  if (!wishes.ok()) {
    return MakeError(
        v1::ERROR_CODE_TRY_AGAIN_LATER,
        absl::StrCat("what the pod ", pod.namespace_(), "/", pod.name(),
                     " and its namespace ask for is not known"),
        std::string(wishes.status().message()));
  }
  modes.namespaces[pod.namespace_()] = wishes->of_namespace;
  modes.pods[modes.PodKey(pod.namespace_(), pod.name(), pod.uid())] =
      wishes->of_pod;
  return std::nullopt;
}

// Settings made before a pod was asked for, or after the API server forgot it
// (it still ends, or its deletion was forced), do not make it unknown again.
void Manager::KeepKnownModes(base::PodModes* modes) const {
  const base::PodModes& before = settings_.modes;
  if (!modes->listed || !before.listed) return;
  for (const auto& [owner, lease] : allocator_.leases()) {
    const std::string space = Label(lease, kPodNamespace);
    if (const auto known = before.namespaces.find(space);
        known != before.namespaces.end()) {
      modes->namespaces.insert(*known);
    }
    if (const auto known = before.pods.find(modes->PodKey(
            space, Label(lease, kPodName), Label(lease, kPodUid)));
        known != before.pods.end()) {
      modes->pods.insert(*known);
    }
  }
}

v1::AddResponse Manager::AddNow(const v1::AddRequest& request,
                                const std::string& namespace_id) {
  const std::string owner = OwnerOfId(request.attachment());
  v1::AddResponse standing;
  if (auto error = ClearOld(request, owner, namespace_id, &standing)) {
    return Failed(*std::move(error));
  }
  if (standing.has_attachment()) return standing;

  if (auto error = LearnMode(request.pod())) return Failed(*std::move(error));
  const absl::StatusOr<Lease> lease = AllocateFor(request, owner, namespace_id);
  if (!lease.ok()) {
    if (absl::IsResourceExhausted(lease.status())) {
      return Failed(MakeError(
          v1::ERROR_CODE_NO_FREE_ADDRESS, "no address is free on this node",
          absl::StrCat(lease.status().message(),
                       "; remove pods, or give the node a larger pod CIDR")));
    }
    return Failed(MakeError(v1::ERROR_CODE_TRY_AGAIN_LATER,
                            "no address can be given",
                            std::string(lease.status().message())));
  }
  if (const absl::Status saved = Save(); !saved.ok()) {
    allocator_.Forget(owner);
    dirty_ = true;
    return Failed(MakeError(v1::ERROR_CODE_IO,
                            "the pod's addresses could not be noted on disk",
                            std::string(saved.message())));
  }
  const PodNetworkSpec spec = SpecOf(*lease);
  absl::Status guarded;
  const auto before_up = [&] {
    if (dependencies_.guard != nullptr) {
      guarded = dependencies_.guard->Protect(InfoOf(*lease));
    }
    return guarded;
  };
  const absl::Status status = dependencies_.network->Attach(spec, before_up);
  if (!status.ok()) {
    v1::Error error = AttachFailed(*lease, status);
    TellGuard();
    if (!guarded.ok()) {
      error = MakeError(v1::ERROR_CODE_TRY_AGAIN_LATER,
                        "the pod's guard is not in place",
                        std::string(guarded.message()));
    }
    return Failed(std::move(error));
  }
  TellGuard();
  Log(LogLevel::kInfo, "pod attached",
      {{"owner", owner},
       {"pod",
        absl::StrCat(request.pod().namespace_(), "/", request.pod().name())},
       {"interface", HostInterfaceName(owner)},
       {"address", lease->addresses.front().ToString()}});
  return Describe(spec);
}

// --- DEL, CHECK, GC, STATUS ---

absl::Status Manager::Detach(const std::string& owner) {
  const Lease* lease = allocator_.Find(owner);
  if (lease == nullptr) {
    // Nothing is known of it; nothing of it may stand.
    return dependencies_.network->Destroy(owner);
  }
  if (IsDetaching(*lease)) {
    if (!destroying_.contains(owner)) DestroyInBackground(owner);
    return absl::OkStatus();
  }
  ESPALIER_RETURN_IF_ERROR(dependencies_.network->CutOff(SpecOf(*lease)));
  allocator_.SetLabel(owner, kDetaching, "1");
  // Not a reason to fail: an agent that starts from the older checkpoint finds
  // the interfaces gone.
  SaveLater("a DEL", Save());
  DestroyInBackground(owner);
  return absl::OkStatus();
}

void Manager::DestroyInBackground(const std::string& owner) {
  destroying_.insert(owner);
  dependencies_.reaper->Post([this, owner] {
    const absl::Status status = dependencies_.network->Destroy(owner);
    dependencies_.self->Post(
        [this, owner, status] { FinishDestroy(owner, status); });
  });
}

void Manager::FinishDestroy(const std::string& owner,
                            const absl::Status& status) {
  destroying_.erase(owner);
  if (status.ok()) {
    allocator_.Release(owner);
    UpdateBlocks();
    SaveLater("a DEL", Save());
    TellGuard();
    Log(LogLevel::kInfo, "pod detached", {{"owner", owner}});
  } else {
    Log(LogLevel::kError, "pod's interface not deleted; trying again",
        {{"owner", owner}, {"error", status}});
  }
  // Those that must go on waiting put themselves back.
  std::vector<DeferredAdd> deferred;
  deferred.swap(deferred_);
  for (DeferredAdd& add : deferred) AddOrDefer(std::move(add));
}

v1::DeleteResponse Manager::Delete(const v1::DeleteRequest& request) {
  v1::DeleteResponse response;
  // The plugin then leaves it in the queue.
  if (!started_.ok()) {
    *response.mutable_error() = TryAgain(started_);
    return response;
  }
  const absl::Status status = Detach(OwnerOfId(request.attachment()));
  if (!status.ok()) {
    *response.mutable_error() = MakeError(
        v1::ERROR_CODE_INTERNAL, "the pod's network could not be taken away",
        std::string(status.message()));
  }
  return response;
}

v1::CheckResponse Manager::Check(const v1::CheckRequest& request) {
  v1::CheckResponse response;
  if (!started_.ok()) {
    *response.mutable_error() = TryAgain(started_);
    return response;
  }
  const auto not_as_given = [&response](std::string why) {
    *response.mutable_error() =
        MakeError(v1::ERROR_CODE_NOT_AS_GIVEN,
                  "the pod's network is not as it was given", std::move(why));
    return response;
  };
  const Lease* lease = allocator_.Find(OwnerOfId(request.attachment()));
  if (lease == nullptr || IsDetaching(*lease)) {
    *response.mutable_error() = MakeError(
        v1::ERROR_CODE_UNKNOWN_CONTAINER,
        absl::StrCat("container ", request.attachment().container_id(),
                     " has no interface ",
                     request.attachment().interface_name(), " here"));
    return response;
  }
  PodNetworkSpec spec = SpecOf(*lease);
  if (spec.network != request.network()) {
    return not_as_given(
        absl::StrCat("it is attached to the network ", spec.network));
  }
  for (const base::IpAddress& address : spec.addresses) {
    const std::string text = base::IpPrefix::Host(address).ToString();
    if (std::find(request.addresses().begin(), request.addresses().end(),
                  text) == request.addresses().end()) {
      return not_as_given(absl::StrCat("prevResult lacks its address ", text));
    }
  }
  for (const std::string& text : request.addresses()) {
    const auto prefix = base::IpPrefix::Parse(text);
    const bool known =
        prefix.ok() &&
        std::any_of(spec.addresses.begin(), spec.addresses.end(),
                    [&prefix](const base::IpAddress& address) {
                      return base::IpPrefix::Host(address) == *prefix;
                    });
    if (!known) {
      return not_as_given(absl::StrCat("prevResult has the address ", text,
                                       ", which it was not given"));
    }
  }
  const std::string mac = netlink::MacToString(PodMac(spec.owner));
  if (!request.mac().empty() && absl::AsciiStrToLower(request.mac()) != mac) {
    return not_as_given(absl::StrCat("prevResult has the MAC ", request.mac(),
                                     "; it was given ", mac));
  }
  spec.network_namespace = request.network_namespace();
  const absl::Status status = dependencies_.network->Verify(spec);
  if (!status.ok()) return not_as_given(std::string(status.message()));
  return response;
}

v1::CollectGarbageResponse Manager::CollectGarbage(
    const v1::CollectGarbageRequest& request) {
  v1::CollectGarbageResponse response;
  if (!started_.ok()) {
    *response.mutable_error() = TryAgain(started_);
    return response;
  }
  if (!request.has_valid()) {
    if (const absl::Status status = Reconcile(); !status.ok()) {
      *response.mutable_error() =
          MakeError(v1::ERROR_CODE_INTERNAL, "pod interfaces not listed",
                    std::string(status.message()));
    }
    return response;
  }
  std::set<std::string> valid;
  for (const v1::AttachmentId& id : request.valid()) {
    valid.insert(OwnerOfId(id));
  }
  std::vector<std::string> stale;
  for (const auto& [owner, lease] : allocator_.leases()) {
    if (Label(lease, kNetwork) == request.network() && !valid.contains(owner) &&
        !IsDetaching(lease)) {
      stale.push_back(owner);
    }
  }
  std::string failures;
  for (const std::string& owner : stale) {
    const absl::Status status = Detach(owner);
    if (status.ok()) {
      Log(LogLevel::kInfo, "stale pod collected", {{"owner", owner}});
      response.set_collected(response.collected() + 1);
    } else {
      absl::StrAppend(&failures, failures.empty() ? "" : "; ", owner, ": ",
                      status.message());
    }
  }
  if (!failures.empty()) {
    *response.mutable_error() =
        MakeError(v1::ERROR_CODE_INTERNAL,
                  "not all stale attachments could be collected", failures);
  }
  return response;
}

v1::StatusResponse Manager::Status() {
  v1::StatusResponse response;
  if (const absl::Status status = NotReady(); !status.ok()) {
    *response.mutable_error() = TryAgain(status);
  } else if (!refusal_.ok()) {
    *response.mutable_error() =
        MakeError(v1::ERROR_CODE_NOT_AVAILABLE, kRefused,
                  std::string(refusal_.message()));
  } else if (settings_.pod_cidrs.empty()) {
    *response.mutable_error() = MakeError(
        v1::ERROR_CODE_NOT_AVAILABLE, "this node has no pod CIDR",
        "pods cannot be given addresses; check that the controller manager "
        "runs with --allocate-node-cidrs, or the agent's configuration");
  }
  return response;
}

Snapshot Manager::TakeSnapshot() const {
  Snapshot out;
  for (const auto& [owner, lease] : allocator_.leases()) {
    if (IsDetaching(lease)) continue;
    out.pods.push_back(InfoOf(lease));
  }
  out.plaintext_blocks = allocator_.published_blocks();
  out.ipv4 = allocator_.GetUsage(base::Family::kIpv4);
  out.ipv6 = allocator_.GetUsage(base::Family::kIpv6);
  return out;
}

}  // namespace espalier::pods
