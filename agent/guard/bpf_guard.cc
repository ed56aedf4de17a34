#include "agent/guard/bpf_guard.h"

#include <linux/if_arp.h>
#include <linux/rtnetlink.h>
#include <time.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::guard {
namespace {

constexpr char kName[] = "bpf";
constexpr uint32_t kLoopback = 1;
constexpr BpfMap kSyncedMaps[] = {BpfMap::kBlocks4, BpfMap::kBlocks6,
                                  BpfMap::kPods, BpfMap::kAddresses};

struct VerdictText {
  const char* key;
  const char* text;
  bool drop;
};

const VerdictText* FindVerdict(uint32_t verdict) {
  static constexpr VerdictText kTexts[] = {
#define VERDICT_TEXT(name, drop, hook, key, text) {key, text, drop != 0},
      ESPALIER_VERDICTS(VERDICT_TEXT)
#undef VERDICT_TEXT
  };
  return verdict < std::size(kTexts) ? &kTexts[verdict] : nullptr;
}

const char* EventHook(uint8_t hook) {
  switch (hook) {
    case ESPALIER_HOOK_FROM_POD:
      return "from_pod";
    case ESPALIER_HOOK_TO_POD:
      return "to_pod";
    case ESPALIER_HOOK_UPLINK_IN:
      return "uplink_in";
    case ESPALIER_HOOK_UPLINK_OUT:
      return "uplink_out";
    default:
      return "unknown";
  }
}

// Of a time by CLOCK_MONOTONIC, which eBPF gives.
absl::Time WallTime(uint64_t monotonic_ns) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::Now() - (absl::DurationFromTimespec(now) -
                        absl::Nanoseconds(static_cast<int64_t>(monotonic_ns)));
}

bool IsConfigured(const DesiredGuard& desired) {
  return !desired.tunnel_interface.empty() || desired.policy_based;
}

}  // namespace

bool LooksLikePodInterface(const std::string& name) {
  constexpr size_t kSize = 14;
  return name.size() == kSize && name.starts_with("esp") &&
         name.find_first_not_of("0123456789abcdef", 3) == std::string::npos;
}

absl::StatusOr<std::unique_ptr<BpfGuard>> BpfGuard::Open(
    base::EventLoop* loop, base::Clock* clock, const KernelBpfOptions& kernel,
    const BpfGuardOptions& options) {
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<KernelBpfSystem> system,
                            KernelBpfSystem::Open(kernel));
  ESPALIER_RETURN_IF_ERROR(system->Load());
  ESPALIER_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Socket> notifications,
                            netlink::Socket::Open());
  return std::make_unique<BpfGuard>(loop, clock, std::move(system),
                                    std::move(notifications), options);
}

BpfGuard::BpfGuard(base::EventLoop* loop, base::Clock* clock,
                   std::unique_ptr<BpfSystem> system,
                   std::unique_ptr<netlink::Socket> notifications,
                   const BpfGuardOptions& options)
    : loop_(loop),
      clock_(clock),
      notifications_(std::move(notifications)),
      options_(options),
      system_(std::move(system)) {
  if (!notifications_) return;
  const auto look = [this] { ArmTimer(options_.settle); };
  const absl::Status status = notifications_->Subscribe(
      {RTNLGRP_LINK}, [look](const netlink::Reply&) { look(); }, look);
  // Without it the periodic look finds new devices a little later.
  if (!status.ok()) {
    notifications_.reset();
    return;
  }
  loop_->Watch(notifications_->fd(), true, false,
               [this](bool, bool) { notifications_->HandleReadable(); });
}

BpfGuard::~BpfGuard() {
  if (timer_ != 0) loop_->CancelTimer(timer_);
  if (watched_ >= 0) loop_->Unwatch(watched_);
  if (notifications_) loop_->Unwatch(notifications_->fd());
}

void BpfGuard::OnDrop(DropCallback callback) { on_drop_ = std::move(callback); }

void BpfGuard::OnRepair(RepairCallback callback) {
  on_repair_ = std::move(callback);
}

void BpfGuard::SetDesired(DesiredGuard desired) {
  {
    absl::MutexLock lock(&mutex_);
    desired_ = std::move(desired);
    for (const GuardedPod& pod : desired_->pods) {
      protected_.erase(pod.host_interface);
    }
  }
  Sync(Depth::kEverything);
}

absl::Status BpfGuard::Protect(const GuardedPod& pod) {
  absl::MutexLock lock(&mutex_);
  ESPALIER_RETURN_IF_ERROR(EnsureLoaded());
  ESPALIER_RETURN_IF_ERROR(ReadLinks());
  const auto link = links_.find(pod.host_interface);
  if (link == links_.end()) {
    return absl::NotFoundError(
        absl::StrCat("guard: there is no interface ", pod.host_interface));
  }
  const auto ifindex = static_cast<uint32_t>(link->second.index);
  protected_[pod.host_interface] = pod;
  pod_devices_.insert(ifindex);
  // Programs first: without an entry they drop.
  for (const BpfProgram program : {BpfProgram::kFromPod, BpfProgram::kToPod}) {
    const Place place{ifindex, program};
    ESPALIER_RETURN_IF_ERROR(system_->AttachAtOnce(ifindex, program));
    stood_.insert(place);
  }
  quiet_at_ = clock_->Now() + options_.firm_after;
  firm_at_[ifindex] = clock_->Now() + options_.firm_latest;
  ESPALIER_ASSIGN_OR_RETURN(const MapContents pods,
                            system_->Read(BpfMap::kPods));
  DesiredGuard only;
  only.pods = {pod};
  BpfPlaces places;
  places.ifindex[pod.host_interface] = ifindex;
  ESPALIER_RETURN_IF_ERROR(AssignSlots(pods, &places));
  const BpfState state = MakeBpfState(only, places);
  if (!state.problems.empty()) return state.problems.front().status;
  for (const BpfMap map : {BpfMap::kPods, BpfMap::kAddresses}) {
    for (const auto& [key, value] : state.maps.at(map)) {
      ESPALIER_RETURN_IF_ERROR(system_->Update(map, key, value));
      written_[map][key] = value;
    }
  }
  return absl::OkStatus();
}

std::vector<GuardProblem> BpfGuard::Problems() const {
  absl::MutexLock lock(&mutex_);
  std::vector<GuardProblem> problems;
  for (const auto& [item, status] : failed_) {
    problems.push_back({kName, item, status});
  }
  return problems;
}

std::vector<VerdictCount> BpfGuard::Counters() const {
  absl::MutexLock lock(&mutex_);
  std::vector<VerdictCount> out;
  if (!loaded_) return out;
  std::map<uint32_t, std::pair<std::string, std::string>> owners;
  owners[0] = {"", ""};
  for (const GuardedPod& pod : Effective().pods) {
    const auto link = links_.find(pod.host_interface);
    if (link == links_.end()) continue;
    const auto slot = slots_.find(link->second.index);
    if (slot == slots_.end()) continue;
    owners[slot->second] = {pod.host_interface, pod.name};
  }
  for (const auto& [slot, owner] : owners) {
    const absl::StatusOr<espalier_counters> counters =
        system_->ReadCounters(slot);
    if (!counters.ok()) continue;
    for (uint32_t v = 0; v < ESPALIER_VERDICT_COUNT; ++v) {
      if (counters->packets[v] == 0) continue;
      const VerdictText* text = FindVerdict(v);
      out.push_back({owner.first, owner.second, text->key, text->text,
                     text->drop, counters->packets[v]});
    }
  }
  return out;
}

// --- reconciliation ---

void BpfGuard::Sync(Depth depth) {
  std::vector<GuardProblem> repaired;
  bool good, stand_ins_wait;
  int events;
  {
    absl::MutexLock lock(&mutex_);
    SyncLocked(depth);
    repaired = std::exchange(repaired_, {});
    good = failed_.empty();
    stand_ins_wait = stand_ins_wait_;
    events = loaded_ ? system_->events_fd() : -1;
  }
  if (events >= 0 && watched_ < 0) {
    watched_ = events;
    loop_->Watch(events, true, false, [this](bool, bool) { HandleEvents(); });
  }
  if (good) {
    retry_ = absl::ZeroDuration();
    if (depth == Depth::kEverything) {
      next_resync_ = clock_->Now() + options_.resync;
    }
    ArmTimer(stand_ins_wait ? options_.firm_every : options_.check);
  } else {
    retry_ = retry_ == absl::ZeroDuration()
                 ? options_.first_retry
                 : std::min(2 * retry_, options_.longest_retry);
    next_resync_ = absl::InfinitePast();
    ArmTimer(retry_);
  }
  if (!on_repair_) return;
  for (const GuardProblem& problem : repaired) on_repair_(problem);
}

void BpfGuard::ArmTimer(absl::Duration delay) {
  if (timer_ != 0) loop_->CancelTimer(timer_);
  timer_ = loop_->RunAfter(delay, [this] {
    timer_ = 0;
    Sync(clock_->Now() >= next_resync_ ? Depth::kEverything
                                       : Depth::kAttachments);
  });
}

absl::Status BpfGuard::EnsureLoaded() {
  if (loaded_) return absl::OkStatus();
  ESPALIER_RETURN_IF_ERROR(system_->Load());
  loaded_ = true;
  return absl::OkStatus();
}

absl::Status BpfGuard::ReadLinks() {
  ESPALIER_ASSIGN_OR_RETURN(const std::vector<netlink::Link> links,
                            system_->ListLinks());
  links_.clear();
  std::set<uint32_t> alive;
  for (const netlink::Link& link : links) {
    links_[link.name] = link;
    alive.insert(link.index);
  }
  std::erase_if(pod_devices_,
                [&](uint32_t index) { return !alive.contains(index); });
  std::erase_if(firm_at_, [&](const auto& entry) {
    return !alive.contains(entry.first);
  });
  std::erase_if(stood_, [&](const Place& place) {
    return !alive.contains(place.ifindex);
  });
  for (auto it = protected_.begin(); it != protected_.end();) {
    it = links_.contains(it->first) ? std::next(it) : protected_.erase(it);
  }
  return absl::OkStatus();
}

DesiredGuard BpfGuard::Effective() const {
  DesiredGuard out = desired_.value_or(DesiredGuard());
  for (const auto& [name, pod] : protected_) out.pods.push_back(pod);
  return out;
}

void BpfGuard::Fail(const std::string& item, const absl::Status& status) {
  if (!status.ok()) failed_[item] = status;
}

void BpfGuard::Repaired(const std::string& item, const std::string& what) {
  repaired_.push_back({kName, item,
                       absl::FailedPreconditionError(absl::StrCat(
                           item, " ", what, "; the guard has made it good")),
                       true});
}

std::string BpfGuard::DeviceName(uint32_t ifindex) const {
  for (const auto& [name, link] : links_) {
    if (static_cast<uint32_t>(link.index) == ifindex) return name;
  }
  return absl::StrCat("device ", ifindex);
}

void BpfGuard::SyncLocked(Depth depth) {
  const bool whole = depth == Depth::kEverything || !failed_.empty();
  failed_.clear();
  if (const absl::Status status = EnsureLoaded(); !status.ok()) {
    Fail("programs", status);
    return;
  }
  const absl::StatusOr<bool> pinned = system_->KeepPins();
  Fail("pins", pinned.status());
  if (pinned.value_or(false)) Repaired("pins", "were removed by somebody");
  if (const absl::Status status = ReadLinks(); !status.ok()) {
    Fail("devices", status);
    return;
  }
  for (const GuardedPod& pod : Effective().pods) {
    const auto link = links_.find(pod.host_interface);
    if (link != links_.end()) pod_devices_.insert(link->second.index);
  }
  // A device that is new changes places in the maps: the tunnel's, a pod's.
  if (whole || written_.empty()) {
    Fail("maps", SyncMaps());
  } else {
    espalier_config then{};
    const auto& config = written_[BpfMap::kConfig];
    if (!config.empty()) {
      then = FromBytes<espalier_config>(config.begin()->second);
    }
    const BpfPlaces now = desired_ ? PlacesOf(*desired_) : BpfPlaces();
    if (now.tunnel_ifindex != then.tunnel_ifindex ||
        now.vxlan_ifindex != then.vxlan_ifindex) {
      Fail("maps", SyncMaps());
    }
  }
  const absl::StatusOr<bool> predecessor = system_->HasPredecessor();
  if (!predecessor.ok()) {
    Fail("programs of another version", predecessor.status());
    return;
  }
  if (!*predecessor) {
    SyncAttachments();
    return;
  }
  // Our maps are new and empty: until they are complete, those of the other
  // version guard better, and drop nothing that is allowed.
  if (!desired_ || !desired_->in_sync || !failed_.empty()) return;
  SyncAttachments();
  if (failed_.empty()) {
    Fail("programs of another version", system_->RemovePredecessor());
  }
}

absl::Status BpfGuard::AssignSlots(const MapContents& actual,
                                   BpfPlaces* places) {
  std::set<uint32_t> taken = {0};
  slots_.clear();
  for (const auto& [key, value] : actual) {
    const uint32_t slot = FromBytes<espalier_pod>(value).slot;
    slots_[FromBytes<uint32_t>(key)] = slot;
    taken.insert(slot);
  }
  uint32_t next = 1;
  for (const auto& [name, ifindex] : places->ifindex) {
    if (slots_.contains(ifindex)) continue;
    while (taken.contains(next)) ++next;
    if (next >= ESPALIER_MAX_PODS) break;
    // The counts of whoever had it before are not this pod's.
    ESPALIER_RETURN_IF_ERROR(system_->ResetCounters(next));
    taken.insert(next);
    slots_[ifindex] = next;
  }
  for (const auto& [name, ifindex] : places->ifindex) {
    const auto slot = slots_.find(ifindex);
    if (slot != slots_.end()) places->slot[ifindex] = slot->second;
  }
  return absl::OkStatus();
}

BpfPlaces BpfGuard::PlacesOf(const DesiredGuard& desired) const {
  BpfPlaces places;
  const auto tunnel = links_.find(desired.tunnel_interface);
  if (tunnel != links_.end()) places.tunnel_ifindex = tunnel->second.index;
  const auto vxlan = links_.find(desired.vxlan_interface);
  if (vxlan != links_.end()) places.vxlan_ifindex = vxlan->second.index;
  return places;
}

absl::Status BpfGuard::SyncMaps() {
  const DesiredGuard desired = Effective();
  std::map<BpfMap, MapContents> actual;
  for (const BpfMap map : kSyncedMaps) {
    ESPALIER_ASSIGN_OR_RETURN(actual[map], system_->Read(map));
  }
  ESPALIER_ASSIGN_OR_RETURN(actual[BpfMap::kConfig],
                            system_->Read(BpfMap::kConfig));
  BpfPlaces places = PlacesOf(desired);
  for (const GuardedPod& pod : desired.pods) {
    const auto link = links_.find(pod.host_interface);
    if (link != links_.end()) {
      places.ifindex[pod.host_interface] = link->second.index;
    }
  }
  ESPALIER_RETURN_IF_ERROR(AssignSlots(actual[BpfMap::kPods], &places));
  const BpfState state = MakeBpfState(desired, places);
  for (const GuardProblem& problem : state.problems) {
    Fail(problem.item, problem.status);
  }
  // What an earlier agent left holds until all is known; on a fresh node there
  // is nothing that holds.
  const MapContents& config = actual[BpfMap::kConfig];
  const bool inherited =
      !config.empty() &&
      (FromBytes<espalier_config>(config.begin()->second).flags &
       ESPALIER_CONFIG_IN_SYNC) != 0;
  const bool may_weaken = desired.in_sync || !inherited;
  // Stricter first, then what is to go, then what is allowed anew.
  for (const BpfMap map : kSyncedMaps) {
    ESPALIER_RETURN_IF_ERROR(
        WriteMap(map, state.maps.at(map), actual[map], false));
  }
  if (desired.in_sync) {
    for (const BpfMap map : kSyncedMaps) {
      ESPALIER_RETURN_IF_ERROR(
          RemoveStale(map, state.maps.at(map), actual[map]));
    }
  }
  if (may_weaken) {
    for (const BpfMap map : kSyncedMaps) {
      ESPALIER_RETURN_IF_ERROR(
          WriteMap(map, state.maps.at(map), actual[map], true));
    }
  }
  return SyncConfig(state.maps.at(BpfMap::kConfig), config, inherited);
}

absl::Status BpfGuard::WriteMap(BpfMap map, const MapContents& desired,
                                const MapContents& actual, bool weakening) {
  MapContents& written = written_[map];
  for (const auto& [key, value] : desired) {
    const auto found = actual.find(key);
    const std::string current = found == actual.end() ? "" : found->second;
    if (current == value) {
      written[key] = value;
      continue;
    }
    if (Weakens(map, current, value) != weakening) continue;
    ESPALIER_RETURN_IF_ERROR(system_->Update(map, key, value));
    const auto before = written.find(key);
    if (before != written.end() && before->second == value) {
      Repaired(absl::StrCat("an entry of ", MapName(map)), "was changed");
    }
    written[key] = value;
  }
  return absl::OkStatus();
}

absl::Status BpfGuard::RemoveStale(BpfMap map, const MapContents& desired,
                                   const MapContents& actual) {
  MapContents& written = written_[map];
  for (const auto& [key, value] : actual) {
    if (desired.contains(key)) continue;
    ESPALIER_RETURN_IF_ERROR(system_->Delete(map, key));
    if (map == BpfMap::kPods) slots_.erase(FromBytes<uint32_t>(key));
  }
  std::erase_if(written, [&](const auto& entry) {
    return !desired.contains(entry.first);
  });
  return absl::OkStatus();
}

absl::Status BpfGuard::SyncConfig(const MapContents& desired,
                                  const MapContents& actual, bool inherited) {
  const std::string key = ToBytes(uint32_t{0});
  auto wanted = FromBytes<espalier_config>(desired.at(key));
  const std::string& found = actual.contains(key) ? actual.at(key) : "";
  const auto current = FromBytes<espalier_config>(found);
  const DesiredGuard effective = Effective();
  if (inherited) {
    wanted.flags |= ESPALIER_CONFIG_IN_SYNC;
    // Before the datapath has named its interface, the one that carries
    // traffic since before this agent is not known to be wrong.
    if (!effective.in_sync && !IsConfigured(effective)) {
      wanted = current;
    }
  }
  const std::string value = ToBytes(wanted);
  if (value != found) {
    ESPALIER_RETURN_IF_ERROR(system_->Update(BpfMap::kConfig, key, value));
    const MapContents& written = written_[BpfMap::kConfig];
    if (written.contains(key) && written.at(key) == value) {
      Repaired("the configuration in esp_config", "was changed");
    }
  }
  written_[BpfMap::kConfig][key] = value;
  return absl::OkStatus();
}

bool BpfGuard::IsPod(const netlink::Link& link) const {
  return pod_devices_.contains(link.index) || LooksLikePodInterface(link.name);
}

std::vector<BpfProgram> BpfGuard::ProgramsFor(const netlink::Link& link) const {
  if (IsPod(link)) return {BpfProgram::kFromPod, BpfProgram::kToPod};
  if (link.index == kLoopback || !desired_) return {};
  if (!desired_->tunnel_interface.empty()
          ? link.name == desired_->tunnel_interface
          // It may be any of these until the datapath has named it.
          : !desired_->policy_based &&
                (link.kind == "tun" || link.kind == "xfrm")) {
    return {};
  }
  if (link.type == ARPHRD_ETHER) {
    return {BpfProgram::kUplinkOut, BpfProgram::kUplinkIn};
  }
  return {BpfProgram::kL3Out, BpfProgram::kL3In};
}

void BpfGuard::SyncAttachments() {
  firming_ = 0;
  stand_ins_wait_ = false;
  std::set<Place> wanted;
  std::vector<uint32_t> alive;
  for (const auto& [name, link] : links_) {
    alive.push_back(link.index);
    for (const BpfProgram program : ProgramsFor(link)) {
      const Place place{static_cast<uint32_t>(link.index), program};
      wanted.insert(place);
      SyncPlace(place, name);
    }
  }
  // A device whose part has changed: it became the tunnel's, or a pod's.
  for (auto it = stood_.begin(); it != stood_.end();) {
    if (wanted.contains(*it)) {
      ++it;
      continue;
    }
    const absl::Status status = system_->Detach(it->ifindex, it->program);
    if (!status.ok() && !absl::IsNotFound(status)) {
      Fail(absl::StrCat(HookName(it->program), " on ", DeviceName(it->ifindex),
                        " (to be removed)"),
           status);
      ++it;
    } else {
      it = stood_.erase(it);
    }
  }
  // The tunnel's interface may carry what an earlier agent put there when it
  // did not know it yet.
  if (desired_ && !desired_->tunnel_interface.empty()) {
    const auto tunnel = links_.find(desired_->tunnel_interface);
    if (tunnel != links_.end()) {
      for (const BpfProgram program : {BpfProgram::kL3Out, BpfProgram::kL3In}) {
        Fail("the tunnel's interface",
             system_->Detach(tunnel->second.index, program));
      }
    }
  }
  Fail("devices that are gone", system_->Forget(alive));
}

bool BpfGuard::StandInMayStay(uint32_t ifindex) {
  const base::Instant now = clock_->Now();
  const auto latest = firm_at_.find(ifindex);
  const bool due =
      now >= quiet_at_ || latest == firm_at_.end() || now >= latest->second;
  if (due && (firming_ == 0 || firming_ == ifindex)) {
    firming_ = ifindex;
    return false;
  }
  stand_ins_wait_ = true;
  return true;
}

void BpfGuard::SyncPlace(const Place& place, const std::string& device) {
  const std::string item =
      absl::StrCat(HookName(place.program), " on ", device);
  const absl::StatusOr<Standing> standing =
      system_->Inspect(place.ifindex, place.program);
  // It went while we looked.
  if (absl::IsNotFound(standing.status())) return;
  if (!standing.ok()) {
    Fail(item, standing.status());
    return;
  }
  if (*standing == Standing::kInPlace ||
      (*standing == Standing::kStandIn && StandInMayStay(place.ifindex))) {
    stood_.insert(place);
    return;
  }
  const absl::Status status = system_->Attach(place.ifindex, place.program);
  if (absl::IsNotFound(status)) return;
  if (!status.ok()) {
    Fail(item, status);
    return;
  }
  // Another copy of ours in the place of one is no loss.
  if (*standing == Standing::kNotFirst) {
    Repaired(item, "had a program of somebody else before it");
  } else if (*standing == Standing::kMissing && stood_.contains(place)) {
    Repaired(item, "was detached by somebody");
  }
  stood_.insert(place);
}

// --- events ---

DropEvent BpfGuard::ToDropEvent(const espalier_event& event) const {
  DropEvent out;
  out.time = WallTime(event.time_ns);
  out.guard = kName;
  out.hook = EventHook(event.hook);
  if (const VerdictText* text = FindVerdict(event.verdict)) {
    out.verdict = text->key;
    out.text = text->text;
  }
  out.interface = DeviceName(event.ifindex);
  if (event.input_ifindex != 0) {
    out.input_interface = DeviceName(event.input_ifindex);
  }
  if (event.slot != 0) {
    for (const GuardedPod& pod : Effective().pods) {
      const auto link = links_.find(pod.host_interface);
      if (link == links_.end()) continue;
      const auto slot = slots_.find(link->second.index);
      if (slot != slots_.end() && slot->second == event.slot) {
        out.pod = pod.name;
      }
    }
  }
  if (event.family == 4 || event.family == 6) {
    out.source = FromBpfAddress(event.source, event.family);
    out.destination = FromBpfAddress(event.destination, event.family);
    out.protocol = event.protocol;
    out.source_port = event.source_port;
    out.destination_port = event.destination_port;
  }
  out.length = event.length;
  out.suppressed = event.suppressed;
  return out;
}

void BpfGuard::HandleEvents() {
  std::vector<DropEvent> drops;
  {
    absl::MutexLock lock(&mutex_);
    system_->ReadEvents([&](const espalier_event& event) {
      // The compiler does not see that the lock is held in here.
      mutex_.AssertHeld();
      drops.push_back(ToDropEvent(event));
    });
  }
  if (!on_drop_) return;
  for (const DropEvent& drop : drops) on_drop_(drop);
}

}  // namespace espalier::guard
