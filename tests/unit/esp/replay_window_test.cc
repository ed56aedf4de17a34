#include "agent/esp/replay_window.h"

#include <set>

#include "gtest/gtest.h"

namespace espalier::esp {
namespace {

TEST(ReplayWindow, SizeIsKeptInBounds) {
  EXPECT_EQ(ReplayWindow(0, true).size(), 1024u);
  EXPECT_EQ(ReplayWindow(4096, true).size(), 4096u);
  EXPECT_EQ(ReplayWindow(1025, true).size(), 1088u);
  EXPECT_EQ(ReplayWindow(1u << 30, true).size(), 65536u);
}

TEST(ReplayWindow, AcceptsEachNumberOnce) {
  ReplayWindow window(1024, false);
  EXPECT_FALSE(window.Accept(0));
  EXPECT_TRUE(window.Accept(1));
  EXPECT_FALSE(window.Accept(1));
  EXPECT_TRUE(window.Accept(3));
  EXPECT_TRUE(window.Accept(2));
  EXPECT_FALSE(window.Accept(2));
  EXPECT_FALSE(window.Accept(3));
}

TEST(ReplayWindow, LeftEdgeIsExact) {
  for (const uint32_t size : {1024u, 1088u, 4096u}) {
    ReplayWindow window(size, false);
    ASSERT_TRUE(window.Accept(100000));
    EXPECT_TRUE(window.Accept(100000 - size + 1));
    EXPECT_FALSE(window.Accept(100000 - size));
    EXPECT_FALSE(window.Accept(100000 - size - 1));
  }
}

// Against a set that remembers everything.
TEST(ReplayWindow, AgreesWithASetOverManyJumps) {
  ReplayWindow window(1024, true);
  std::set<uint64_t> seen;
  uint64_t top = 0, state = 88172645463325252ull;
  for (int i = 0; i < 200000; ++i) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const uint64_t jump = state % 100 == 0 ? state % 5000 : state % 3;
    const uint64_t back = (state >> 32) % 1400;
    const uint64_t sequence =
        state % 2 == 0 ? top + jump : (top > back ? top - back : 1);
    const bool fresh = sequence != 0 && !seen.contains(sequence) &&
                       (sequence > top || top - sequence < 1024);
    ASSERT_EQ(window.Accept(sequence), fresh) << sequence << " top " << top;
    if (fresh) seen.insert(sequence);
    top = std::max(top, fresh ? sequence : top);
    if (seen.size() > 5000) seen.erase(seen.begin());
  }
}

TEST(ReplayWindow, WithoutEsnTheNumberIsAsItStands) {
  ReplayWindow window(1024, false);
  EXPECT_EQ(window.Estimate(0), std::nullopt);
  EXPECT_EQ(window.Estimate(1), 1u);
  EXPECT_EQ(window.Estimate(0xffffffff), 0xffffffffu);
}

// RFC 4303 appendix A2.2, case A: the window lies in one subspace.
TEST(ReplayWindow, EsnCaseA) {
  ReplayWindow window(1024, true);
  const uint64_t top = (uint64_t{5} << 32) + 500000;
  ASSERT_TRUE(window.Accept(top));
  EXPECT_EQ(window.Estimate(500001), top + 1);
  EXPECT_EQ(window.Estimate(500000 - 1023), top - 1023);
  // Below the window: only the next subspace is possible.
  EXPECT_EQ(window.Estimate(500000 - 1024),
            (uint64_t{6} << 32) + 500000 - 1024);
  EXPECT_EQ(window.Estimate(0), uint64_t{6} << 32);
  EXPECT_EQ(window.Estimate(0xffffffff), (uint64_t{5} << 32) + 0xffffffff);
}

// Case B: the window reaches back into the subspace before.
TEST(ReplayWindow, EsnCaseB) {
  ReplayWindow window(1024, true);
  const uint64_t top = (uint64_t{5} << 32) + 10;
  ASSERT_TRUE(window.Accept(top));
  EXPECT_EQ(window.Estimate(11), top + 1);
  EXPECT_EQ(window.Estimate(0), uint64_t{5} << 32);
  EXPECT_EQ(window.Estimate(0xffffffff), (uint64_t{5} << 32) - 1);
  // 10 - 1023 modulo 2^32 is the lowest of the window.
  const uint32_t bottom = 10u - 1023u;
  EXPECT_EQ(window.Estimate(bottom), top - 1023);
  EXPECT_EQ(window.Estimate(bottom - 1), (uint64_t{5} << 32) + bottom - 1);
}

TEST(ReplayWindow, NothingPrecedesTheFirstSubspace) {
  ReplayWindow window(1024, true);
  EXPECT_EQ(window.Estimate(1), 1u);
  EXPECT_EQ(window.Estimate(0), std::nullopt);
  EXPECT_EQ(window.Estimate(0xffffffff), std::nullopt);
  EXPECT_EQ(window.Estimate(0x80000000), 0x80000000u);
}

TEST(ReplayWindow, CountsAcrossTheWrap) {
  ReplayWindow window(1024, true);
  uint64_t sequence = 0xffffffff - 2000;
  ASSERT_TRUE(window.Accept(sequence));
  for (int i = 0; i < 5000; ++i) {
    ++sequence;
    const auto estimate = window.Estimate(static_cast<uint32_t>(sequence));
    ASSERT_EQ(estimate, sequence);
    ASSERT_TRUE(window.Accept(*estimate));
    // The one before is a replay, also right behind the wrap.
    const auto before = window.Estimate(static_cast<uint32_t>(sequence - 1));
    ASSERT_EQ(before, sequence - 1);
    ASSERT_FALSE(window.Accept(*before));
  }
}

}  // namespace
}  // namespace espalier::esp
