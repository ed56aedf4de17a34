#include "agent/main/heap.h"

#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/manual_loop.h"

namespace espalier::agent {
namespace {

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ESPALIER_OTHER_ALLOCATOR
#endif
#endif

constexpr size_t kPiece = 4000;
constexpr size_t kPieces = 8000;

size_t Resident() {
  std::ifstream file("/proc/self/statm");
  size_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// As after a long list: what is kept lies between what was let go. Returns it.
std::vector<void*> LeaveHoles() {
  std::vector<void*> kept, pieces;
  for (size_t i = 0; i < kPieces; ++i) {
    (i % 100 == 99 ? kept : pieces).push_back(calloc(1, kPiece));
  }
  for (void* piece : pieces) free(piece);
  return kept;
}

TEST(Heap, WhatIsFreeGoesBackAgainAndAgain) {
  espalier::testing::ManualLoop loop;
  {
    const HeapTrimmer trimmer(&loop);
    for (int i = 0; i < 2; ++i) {
      const size_t before = Resident();
      const std::vector<void*> kept = LeaveHoles();
#ifndef ESPALIER_OTHER_ALLOCATOR
      ASSERT_GT(Resident(), before + kPieces * kPiece / 2);
      loop.Advance(HeapTrimmer::kEvery);
      EXPECT_LT(Resident(), before + kPieces * kPiece / 4);
#else
      EXPECT_GT(before, 0u);
      loop.Advance(HeapTrimmer::kEvery);
#endif
      for (void* piece : kept) free(piece);
    }
    EXPECT_EQ(loop.timers(), 1u);
  }
  EXPECT_EQ(loop.timers(), 0u);
}

}  // namespace
}  // namespace espalier::agent
