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
    ++now_;
    switch (random_() % 12) {
      case 0:
      case 1:
      case 2:
      case 3:
        return Allocate();
      case 8:
      case 9:
        return AllocatePlaintext();
      case 10:
        return Strengthen();
      case 11:
        return Settle();
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
    CheckBlocks();
  }

  // Nothing is lost: all that the pools hold can be taken.
  void Drain() {
    while (!model_.empty()) ReleaseOwner(model_.begin()->first);
    allocator_.WithdrawBlocks([](const Lease&) { return true; }, now_);
    allocator_.RetireBlocks(now_);
    EXPECT_TRUE(allocator_.ToState().blocks.empty());
    uint64_t count = 0;
    while (allocator_.Allocate("drain" + std::to_string(count), {}).ok()) {
      ++count;
    }
    const uint64_t v4 = allocator_.GetUsage(Family::kIpv4).capacity;
    const uint64_t v6 = allocator_.GetUsage(Family::kIpv6).capacity;
    EXPECT_EQ(count, v4 == 0 ? v6 : v6 == 0 ? v4 : std::min(v4, v6));
  }

 private:
  static constexpr int64_t kSettle = 20;

  // What a peer believes: an address is plaintext from the moment its block is
  // published until kSettle after it was withdrawn. Nobody who is sealed gets
  // one of these; who is strengthened in one is protected kSettle later.
  void CheckBlocks() {
    for (const IpPrefix& block : allocator_.published_blocks()) {
      believed_[block] = now_;
    }
    for (const auto& [owner, lease] : allocator_.leases()) {
      for (const IpAddress& address : lease.addresses) {
        if (plaintext_.contains(owner)) {
          EXPECT_TRUE(allocator_.InBlock(address) ||
                      !allocator_.InPublishedBlock(address));
        } else if (!strengthened_.contains(owner)) {
          EXPECT_FALSE(allocator_.InBlock(address)) << address.ToString();
        } else {
          EXPECT_FALSE(allocator_.InPublishedBlock(address))
              << owner << " " << address.ToString();
        }
      }
    }
  }
  void AllocatePlaintext() {
    const std::string owner = "pod" + std::to_string(next_++);
    const auto lease = allocator_.Allocate(owner, {}, AddressKind::kPlaintext);
    if (!lease.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(lease.status()));
      return;
    }
    model_[owner] = lease->addresses;
    plaintext_.insert(owner);
    for (const IpAddress& address : lease->addresses) {
      EXPECT_TRUE(allocator_.InPublishedBlock(address));
    }
  }
  // A pod's mode changes while it runs.
  void Strengthen() {
    if (!plaintext_.empty()) {
      strengthened_.insert(*plaintext_.begin());
      plaintext_.erase(plaintext_.begin());
    }
    Withdraw();
  }
  void Withdraw() {
    allocator_.WithdrawBlocks(
        [this](const Lease& lease) { return plaintext_.contains(lease.owner); },
        now_);
  }
  void Settle() {
    Withdraw();
    allocator_.RetireBlocks(now_ - kSettle);
  }

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
    for (const IpAddress& address : lease->addresses) {
      for (const auto& [block, last] : believed_) {
        if (block.Contains(address)) {
          EXPECT_LE(last + kSettle, now_) << address.ToString();
        }
      }
    }
  }
  std::string AnyOwner() {
    auto it = model_.begin();
    std::advance(it, random_() % model_.size());
    return it->first;
  }
  void ReleaseOwner(const std::string& owner) {
    EXPECT_TRUE(allocator_.Release(owner));
    Drop(owner);
  }
  void Release() {
    if (!model_.empty()) ReleaseOwner(AnyOwner());
  }
  void Forget() {
    if (model_.empty()) return;
    const std::string owner = AnyOwner();
    allocator_.Forget(owner);
    Drop(owner);
  }
  // By value: it may be named out of what is erased here.
  void Drop(std::string owner) {
    model_.erase(owner);
    plaintext_.erase(owner);
    strengthened_.erase(owner);
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
  std::set<std::string> plaintext_, strengthened_;
  std::map<IpPrefix, int64_t> believed_;  // block, when it was last published
  int64_t now_ = 0;
  int next_ = 0;
};

TEST(IpamPropertyTest, RandomLives) {
  const std::vector<std::vector<std::string>> layouts = {
      {"10.1.0.0/28"},
      {"fd00::/122"},
      {"10.1.0.0/28", "fd00::/124"},
      {"10.1.0.0/30", "10.1.0.16/28", "fd00::/126", "fd00::100/124"},
      {"10.1.0.0/22", "fd00::/118"},
      {"10.1.0.0/26", "fd00::/120"},
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
