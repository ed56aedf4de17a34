// Random lives of an allocator: no address is held twice, none is lost, none
// is handed out that must not be, a restart changes nothing.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "agent/ipam/allocator.h"
#include "agent/ipam/checkpoint.h"

namespace espalier::ipam {
namespace {

using base::Family;
using base::IpAddress;
using base::IpPrefix;

class Life {
 public:
  Life(uint32_t seed, std::vector<IpPrefix> pools)
      : random_(seed),
        pools_(std::move(pools)),
        allocator_(*Allocator::Create(pools_)) {}

  void Step() {
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2:
      case 3:
        return Allocate();
      case 4:
        return Restart();
      case 5:
        return Forget();
      default:
        return Release();
    }
  }

  // What must hold after every step.
  void Check() {
    std::set<IpAddress> held;
    for (const auto& [owner, lease] : allocator_.leases()) {
      EXPECT_EQ(lease.addresses, model_.at(owner)) << owner;
      for (const IpAddress& address : lease.addresses) {
        EXPECT_TRUE(held.insert(address).second)
            << address.ToString() << " is held twice";
        EXPECT_FALSE(IsReserved(address)) << address.ToString();
      }
    }
    EXPECT_EQ(allocator_.leases().size(), model_.size());
  }

  // Nothing is lost: all that the pools hold can be taken.
  void Drain() {
    while (!model_.empty()) ReleaseOwner(model_.begin()->first);
    uint64_t count = 0;
    while (allocator_.Allocate("drain" + std::to_string(count), {}).ok()) {
      ++count;
    }
    const uint64_t v4 = allocator_.GetUsage(Family::kIpv4).capacity;
    const uint64_t v6 = allocator_.GetUsage(Family::kIpv6).capacity;
    EXPECT_EQ(count, v4 == 0 ? v6 : v6 == 0 ? v4 : std::min(v4, v6));
  }

 private:
  bool IsReserved(const IpAddress& address) const {
    for (const IpPrefix& pool : pools_) {
      if (!pool.Contains(address)) continue;
      return address == pool.First() || address == pool.First().Plus(1) ||
             (address.is_v4() && address == pool.Last());
    }
    return true;
  }

  void Allocate() {
    const std::string owner = "pod" + std::to_string(next_++);
    const auto lease = allocator_.Allocate(owner, {});
    if (!lease.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(lease.status()));
      return;
    }
    model_[owner] = lease->addresses;
  }
  std::string AnyOwner() {
    auto it = model_.begin();
    std::advance(it, random_() % model_.size());
    return it->first;
  }
  void ReleaseOwner(const std::string& owner) {
    EXPECT_TRUE(allocator_.Release(owner));
    model_.erase(owner);
  }
  void Release() {
    if (!model_.empty()) ReleaseOwner(AnyOwner());
  }
  void Forget() {
    if (model_.empty()) return;
    const std::string owner = AnyOwner();
    allocator_.Forget(owner);
    model_.erase(owner);
  }
  void Restart() {
    const State before = allocator_.ToState();
    const auto parsed = ParseState(FormatState(before, "boot"));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    auto restored = Allocator::Restore(pools_, parsed->state);
    ASSERT_TRUE(restored.ok()) << restored.status();
    allocator_ = *std::move(restored);
    EXPECT_EQ(allocator_.ToState(), before);
  }

  std::mt19937 random_;
  const std::vector<IpPrefix> pools_;
  Allocator allocator_;
  std::map<std::string, std::vector<IpAddress>> model_;
  int next_ = 0;
};

TEST(IpamPropertyTest, RandomLives) {
  const std::vector<std::vector<std::string>> layouts = {
      {"10.1.0.0/28"},
      {"fd00::/122"},
      {"10.1.0.0/28", "fd00::/124"},
      {"10.1.0.0/30", "10.1.0.16/28", "fd00::/126", "fd00::100/124"},
      {"10.1.0.0/22", "fd00::/118"},
  };
  for (uint32_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    std::vector<IpPrefix> pools;
    for (const std::string& text : layouts[seed % layouts.size()]) {
      pools.push_back(*IpPrefix::Parse(text));
    }
    Life life(seed, pools);
    for (int step = 0; step < 400; ++step) {
      life.Step();
      life.Check();
      if (::testing::Test::HasFailure()) FAIL() << "step " << step;
    }
    life.Drain();
  }
}

}  // namespace
}  // namespace espalier::ipam
