// BpfSystem in memory: maps, devices, and who stands where; any call can fail.
#ifndef ESPALIER_TESTS_SUPPORT_FAKE_BPF_SYSTEM_H_
#define ESPALIER_TESTS_SUPPORT_FAKE_BPF_SYSTEM_H_

#include <linux/if_arp.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/guard/bpf_system.h"

namespace espalier::testing {

// The kernel's part: lives on when an agent's BpfSystem ends.
struct FakeBpfKernel {
  std::map<guard::BpfMap, guard::MapContents> maps;
  std::map<uint32_t, netlink::Link> links;
  // Programs of a hook by device, in their order; 0 is somebody else's, any
  // other number is the life of the agent that put it there.
  std::map<std::pair<uint32_t, std::string>, std::vector<int>> hooks;
  // Of those, the ones that wait to be made firm.
  std::set<std::pair<uint32_t, guard::BpfProgram>> stand_ins;
  std::map<uint32_t, espalier_counters> counters;
  int lives = 0;
  // Programs with another layout of the maps stand everywhere.
  bool predecessor = false;
  bool pins_removed = false;
  // Every write, in order.
  std::vector<std::string> journal;

  uint32_t AddLink(const std::string& name, const std::string& kind = "veth",
                   uint16_t type = ARPHRD_ETHER) {
    const auto index = static_cast<uint32_t>(++last_index);
    netlink::Link link;
    link.index = last_index;
    link.name = name;
    link.kind = kind;
    link.type = type;
    links[index] = link;
    return index;
  }
  void RemoveLink(uint32_t index) {
    links.erase(index);
    std::erase_if(hooks, [&](const auto& h) { return h.first.first == index; });
    std::erase_if(stand_ins, [&](const auto& s) { return s.first == index; });
  }
  std::vector<int>& Hook(uint32_t index, const std::string& name) {
    return hooks[{index, name}];
  }
  int last_index = 0;
};

class FakeBpfSystem : public guard::BpfSystem {
 public:
  explicit FakeBpfSystem(FakeBpfKernel* kernel)
      : kernel_(kernel), life_(++kernel->lives) {}

  // 1 is the next call.
  void FailCall(uint64_t n) { fail_at_ = calls_ + n; }
  uint64_t calls() const { return calls_; }
  bool has_failed() const { return fail_at_ != 0 && calls_ >= fail_at_; }
  void AddEvent(const espalier_event& event) { events_.push_back(event); }

  absl::Status Load() override {
    if (Fails()) return Error();
    // An array has its entry from the first moment.
    kernel_->maps[guard::BpfMap::kConfig].try_emplace(
        guard::ToBytes(uint32_t{0}), guard::ToBytes(espalier_config{}));
    return absl::OkStatus();
  }
  absl::StatusOr<bool> KeepPins() override {
    if (Fails()) return Error();
    return std::exchange(kernel_->pins_removed, false);
  }
  absl::StatusOr<guard::MapContents> Read(guard::BpfMap map) override {
    if (Fails()) return Error();
    return kernel_->maps[map];
  }
  absl::Status Update(guard::BpfMap map, const std::string& key,
                      const std::string& value) override {
    if (Fails()) return Error();
    kernel_->maps[map][key] = value;
    kernel_->journal.push_back(absl::StrCat("write ", MapName(map)));
    return absl::OkStatus();
  }
  absl::Status Delete(guard::BpfMap map, const std::string& key) override {
    if (Fails()) return Error();
    kernel_->maps[map].erase(key);
    kernel_->journal.push_back(absl::StrCat("delete ", MapName(map)));
    return absl::OkStatus();
  }
  absl::StatusOr<espalier_counters> ReadCounters(uint32_t slot) override {
    if (Fails()) return Error();
    return kernel_->counters[slot];
  }
  absl::Status ResetCounters(uint32_t slot) override {
    if (Fails()) return Error();
    kernel_->counters[slot] = {};
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<netlink::Link>> ListLinks() override {
    if (Fails()) return Error();
    std::vector<netlink::Link> links;
    for (const auto& [index, link] : kernel_->links) links.push_back(link);
    return links;
  }
  absl::StatusOr<guard::Standing> Inspect(uint32_t ifindex,
                                          guard::BpfProgram program) override {
    if (Fails()) return Error();
    if (!kernel_->links.contains(ifindex)) return absl::NotFoundError("gone");
    const std::vector<int>& hook =
        kernel_->Hook(ifindex, guard::HookName(program));
    for (size_t i = 0; i < hook.size(); ++i) {
      if (hook[i] == 0) continue;
      if (i != 0) return guard::Standing::kNotFirst;
      if (hook[i] != life_) return guard::Standing::kOld;
      return kernel_->stand_ins.contains({ifindex, program})
                 ? guard::Standing::kStandIn
                 : guard::Standing::kInPlace;
    }
    return guard::Standing::kMissing;
  }
  absl::Status Attach(uint32_t ifindex, guard::BpfProgram program) override {
    if (Fails()) return Error();
    if (!kernel_->links.contains(ifindex)) return absl::NotFoundError("gone");
    PutFirst(ifindex, program, "attach ");
    kernel_->stand_ins.erase({ifindex, program});
    return absl::OkStatus();
  }
  absl::Status AttachAtOnce(uint32_t ifindex,
                            guard::BpfProgram program) override {
    if (Fails()) return Error();
    if (!kernel_->links.contains(ifindex)) return absl::NotFoundError("gone");
    const auto& hook = kernel_->Hook(ifindex, guard::HookName(program));
    if (std::ranges::count(hook, life_) != 0) return absl::OkStatus();
    PutFirst(ifindex, program, "stand in ");
    kernel_->stand_ins.insert({ifindex, program});
    return absl::OkStatus();
  }
  absl::Status Detach(uint32_t ifindex, guard::BpfProgram program) override {
    if (Fails()) return Error();
    std::erase_if(kernel_->Hook(ifindex, guard::HookName(program)),
                  [](int life) { return life != 0; });
    return absl::OkStatus();
  }
  absl::Status Forget(const std::vector<uint32_t>&) override {
    return Fails() ? Error() : absl::OkStatus();
  }
  absl::StatusOr<bool> HasPredecessor() override {
    if (Fails()) return Error();
    return kernel_->predecessor;
  }
  absl::Status RemovePredecessor() override {
    if (Fails()) return Error();
    kernel_->predecessor = false;
    kernel_->journal.push_back("remove predecessor");
    return absl::OkStatus();
  }
  int events_fd() override { return 1000; }
  void ReadEvents(
      const std::function<void(const espalier_event&)>& handle) override {
    for (const espalier_event& event : std::exchange(events_, {})) {
      handle(event);
    }
  }

 private:
  void PutFirst(uint32_t ifindex, guard::BpfProgram program, const char* how) {
    std::vector<int>& hook = kernel_->Hook(ifindex, guard::HookName(program));
    std::erase_if(hook, [](int life) { return life != 0; });
    hook.insert(hook.begin(), life_);
    kernel_->journal.push_back(absl::StrCat(how, guard::HookName(program)));
  }
  bool Fails() { return ++calls_ == fail_at_; }
  static absl::Status Error() {
    return absl::ResourceExhaustedError("no memory (a test says so)");
  }

  FakeBpfKernel* kernel_;
  int life_;
  uint64_t calls_ = 0;
  uint64_t fail_at_ = 0;
  std::vector<espalier_event> events_;
};

}  // namespace espalier::testing

#endif  // ESPALIER_TESTS_SUPPORT_FAKE_BPF_SYSTEM_H_
