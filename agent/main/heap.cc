#include "agent/main/heap.h"

#include <malloc.h>

namespace espalier::agent {
namespace {

// The loop's and the workers'.
constexpr int kHeaps = 2;

}  // namespace

void LimitHeap() { mallopt(M_ARENA_MAX, kHeaps); }

HeapTrimmer::HeapTrimmer(base::EventLoop* loop) : loop_(loop) { Arm(); }

HeapTrimmer::~HeapTrimmer() { loop_->CancelTimer(timer_); }

void HeapTrimmer::Arm() {
  timer_ = loop_->RunAfter(kEvery, [this] {
    malloc_trim(0);
    Arm();
  });
}

}  // namespace espalier::agent
