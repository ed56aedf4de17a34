#include "agent/ipam/allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <string>
#include <vector>

namespace espalier::ipam {
namespace {

using base::Family;
using base::IpAddress;
using base::IpPrefix;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<IpPrefix> Pools(const std::vector<std::string>& texts) {
  std::vector<IpPrefix> out;
  for (const std::string& text : texts) out.push_back(*IpPrefix::Parse(text));
  return out;
}

Allocator Make(const std::vector<std::string>& texts) {
  return *Allocator::Create(Pools(texts));
}

std::vector<std::string> Take(Allocator* allocator, const std::string& owner) {
  const auto lease = allocator->Allocate(owner, {});
  EXPECT_TRUE(lease.ok()) << lease.status();
  std::vector<std::string> out;
  if (!lease.ok()) return out;
  for (const IpAddress& address : lease->addresses) {
    out.push_back(address.ToString());
  }
  return out;
}

TEST(AllocatorTest, ReservesNetworkFirstAndBroadcast) {
  Allocator allocator = Make({"10.1.0.0/29"});
  std::set<std::string> seen;
  for (int i = 0; i < 5; ++i) {
    seen.insert(Take(&allocator, "p" + std::to_string(i)).front());
  }
  EXPECT_THAT(seen, ElementsAre("10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5",
                                "10.1.0.6"));
  EXPECT_EQ(allocator.GetUsage(Family::kIpv4).capacity, 5u);
  EXPECT_EQ(allocator.GetUsage(Family::kIpv4).used, 5u);
  const auto full = allocator.Allocate("more", {});
  EXPECT_TRUE(absl::IsResourceExhausted(full.status()));
  EXPECT_THAT(std::string(full.status().message()),
              HasSubstr("no free IPv4 address in 10.1.0.0/29 (5 of 5 used)"));
}

TEST(AllocatorTest, SmallestPools) {
  Allocator v4 = Make({"10.1.0.0/30"});
  EXPECT_THAT(Take(&v4, "a"), ElementsAre("10.1.0.2"));
  EXPECT_FALSE(v4.Allocate("b", {}).ok());
  Allocator v6 = Make({"fd00::/126"});
  EXPECT_THAT(Take(&v6, "a"), ElementsAre("fd00::2"));
  EXPECT_THAT(Take(&v6, "b"), ElementsAre("fd00::3"));
  EXPECT_FALSE(v6.Allocate("c", {}).ok());
  for (const char* small : {"10.1.0.0/31", "10.1.0.0/32", "fd00::/127"}) {
    const auto status = Allocator::Create(Pools({small})).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << small;
    EXPECT_THAT(std::string(status.message()), HasSubstr(small));
  }
}

TEST(AllocatorTest, EndOfTheAddressSpace) {
  Allocator v6 = Make({"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"});
  Take(&v6, "a");
  EXPECT_THAT(Take(&v6, "b"),
              ElementsAre("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
  EXPECT_FALSE(v6.Allocate("c", {}).ok());
  Allocator v4 = Make({"255.255.255.252/30"});
  EXPECT_THAT(Take(&v4, "a"), ElementsAre("255.255.255.254"));
  EXPECT_FALSE(v4.Allocate("b", {}).ok());
}

TEST(AllocatorTest, OneOfEachFamilyOrNothing) {
  Allocator allocator = Make({"10.1.0.0/30", "fd00::/64"});
  EXPECT_THAT(Take(&allocator, "a"), ElementsAre("10.1.0.2", "fd00::2"));
  const State before = allocator.ToState();
  EXPECT_TRUE(absl::IsResourceExhausted(allocator.Allocate("b", {}).status()));
  EXPECT_EQ(allocator.ToState().leases, before.leases);
  EXPECT_EQ(allocator.GetUsage(Family::kIpv6).used, 1u);
  // The other family full: the IPv4 address goes back.
  Allocator other = Make({"10.1.0.0/24", "fd00::/126"});
  Take(&other, "a");
  Take(&other, "b");
  EXPECT_THAT(std::string(other.Allocate("c", {}).status().message()),
              HasSubstr("IPv6"));
  EXPECT_EQ(other.GetUsage(Family::kIpv4).used, 2u);
}

TEST(AllocatorTest, GoesOnToTheNextPool) {
  Allocator allocator = Make({"10.1.0.0/30", "10.2.0.0/30"});
  EXPECT_THAT(Take(&allocator, "a"), ElementsAre("10.1.0.2"));
  EXPECT_THAT(Take(&allocator, "b"), ElementsAre("10.2.0.2"));
  EXPECT_FALSE(allocator.Allocate("c", {}).ok());
}

TEST(AllocatorTest, FreedAddressesRest) {
  Allocator allocator = Make({"10.1.0.0/29"});
  Take(&allocator, "a");
  Take(&allocator, "b");
  EXPECT_TRUE(allocator.Release("a"));
  EXPECT_TRUE(allocator.Release("b"));
  EXPECT_FALSE(allocator.Release("b"));
  // All fresh ones first, then the one that was freed first.
  for (const char* expected :
       {"10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3"}) {
    EXPECT_THAT(Take(&allocator, expected), ElementsAre(expected));
  }
}

TEST(AllocatorTest, ForgottenAddressesDoNotRest) {
  Allocator allocator = Make({"10.1.0.0/29"});
  for (int i = 0; i < 5; ++i) Take(&allocator, std::to_string(i));
  allocator.Release("0");
  allocator.Forget("1");
  EXPECT_THAT(Take(&allocator, "x"), ElementsAre("10.1.0.3"));
}

TEST(AllocatorTest, MemoryOfALargePoolIsBounded) {
  Allocator allocator = Make({"fd00::/64"});
  std::deque<std::string> resting;
  for (size_t i = 0; i < 4 * Allocator::kMaxFreed; ++i) {
    const std::string address = Take(&allocator, "pod").front();
    EXPECT_THAT(resting, Not(Contains(address))) << i;
    allocator.Release("pod");
    resting.push_back(address);
    if (resting.size() > Allocator::kMaxFreed) resting.pop_front();
  }
  EXPECT_LE(allocator.ToState().pools[0].freed.size(),
            Allocator::kMaxFreed + 1);
}

TEST(AllocatorTest, OwnersAreUnique) {
  Allocator allocator = Make({"10.1.0.0/24"});
  Take(&allocator, "a");
  EXPECT_TRUE(absl::IsAlreadyExists(allocator.Allocate("a", {}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Make({}).Allocate("a", {}).status()));
}

TEST(AllocatorTest, AdoptsWhatIsInUse) {
  Allocator allocator = Make({"10.1.0.0/29"});
  const IpAddress third = *IpAddress::Parse("10.1.0.3");
  EXPECT_TRUE(allocator.Adopt({"found", {third}, {}}).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(allocator.Adopt({"found", {}, {}})));
  EXPECT_TRUE(absl::IsAlreadyExists(allocator.Adopt({"other", {third}, {}})));
  EXPECT_TRUE(
      absl::IsAlreadyExists(allocator.Adopt({"twice", {third, third}, {}})));
  EXPECT_THAT(Take(&allocator, "a"), ElementsAre("10.1.0.2"));
  EXPECT_THAT(Take(&allocator, "b"), ElementsAre("10.1.0.4"));
  // Out of the pools, and one that is reserved: kept, never handed out.
  EXPECT_TRUE(
      allocator.Adopt({"old", {*IpAddress::Parse("10.9.0.9")}, {}}).ok());
  EXPECT_TRUE(
      allocator.Adopt({"first", {*IpAddress::Parse("10.1.0.1")}, {}}).ok());
  allocator.Release("old");
  allocator.Release("first");
  Take(&allocator, "c");
  Take(&allocator, "d");
  EXPECT_FALSE(allocator.Allocate("e", {}).ok());
}

TEST(AllocatorTest, RestoresWhereItWas) {
  Allocator allocator = Make({"10.1.0.0/29", "fd00::/64"});
  ASSERT_TRUE(allocator.Allocate("a", {{"k", "v"}}).ok());
  Take(&allocator, "b");
  allocator.Release("b");
  auto restored = Allocator::Restore(Pools({"10.1.0.0/29", "fd00::/64"}),
                                     allocator.ToState());
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(restored->ToState(), allocator.ToState());
  EXPECT_EQ(restored->Find("a")->labels.at("k"), "v");
  EXPECT_EQ(Take(&*restored, "c"), Take(&allocator, "c"));
}

TEST(AllocatorTest, ChangeOfPools) {
  Allocator allocator = Make({"10.1.0.0/29"});
  Take(&allocator, "a");
  auto moved = Allocator::Restore(Pools({"10.2.0.0/29"}), allocator.ToState());
  ASSERT_TRUE(moved.ok());
  EXPECT_NE(moved->Find("a"), nullptr);
  EXPECT_THAT(Take(&*moved, "b"), ElementsAre("10.2.0.2"));
  EXPECT_EQ(moved->GetUsage(Family::kIpv4).used, 1u);
  moved->Release("a");
  // And back: what is still in use there is known.
  Take(&*moved, "c");
  auto back = Allocator::Restore(Pools({"10.2.0.0/29", "10.1.0.0/29"}),
                                 moved->ToState());
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->GetUsage(Family::kIpv4).used, 2u);
  EXPECT_TRUE(absl::IsInvalidArgument(
      Allocator::Create(Pools({"10.1.0.0/16", "10.1.2.0/24"})).status()));
}

TEST(AllocatorTest, RefusesAStateThatContradictsItself) {
  const IpAddress address = *IpAddress::Parse("10.1.0.2");
  State state;
  state.leases = {{"a", {address}, {}}, {"b", {address}, {}}};
  EXPECT_FALSE(Allocator::Restore(Pools({"10.1.0.0/24"}), state).ok());
  // Of the pools' side the leases win.
  state.leases.pop_back();
  state.pools = {
      {*IpPrefix::Parse("10.1.0.0/24"),
       *IpAddress::Parse("10.9.0.1"),
       {address, address, *IpAddress::Parse("10.1.0.255"),
        *IpAddress::Parse("10.1.0.7"), *IpAddress::Parse("10.1.0.7")}}};
  auto allocator = Allocator::Restore(Pools({"10.1.0.0/24"}), state);
  ASSERT_TRUE(allocator.ok());
  EXPECT_THAT(allocator->ToState().pools[0].freed,
              ElementsAre(*IpAddress::Parse("10.1.0.7")));
}

}  // namespace
}  // namespace espalier::ipam
