// The process's memory near to what is in use. A list from the API server or a
// ruleset of libnftables takes for a moment many times what is kept of it, and
// the C library by itself gives next to nothing of that back.
#ifndef ESPALIER_AGENT_MAIN_HEAP_H_
#define ESPALIER_AGENT_MAIN_HEAP_H_

#include "absl/time/time.h"
#include "agent/base/event_loop.h"

namespace espalier::agent {

// Before any thread exists: each would get a heap of its own, with free memory
// that the others cannot use.
void LimitHeap();

// Gives free pages back to the kernel, from now on and as long as it lives. On
// the loop's thread, for some milliseconds each time.
class HeapTrimmer {
 public:
  // A look at the guards leaves that much every half a minute.
  static constexpr absl::Duration kEvery = absl::Seconds(10);

  explicit HeapTrimmer(base::EventLoop* loop);
  ~HeapTrimmer();
  HeapTrimmer(const HeapTrimmer&) = delete;
  HeapTrimmer& operator=(const HeapTrimmer&) = delete;

 private:
  void Arm();

  base::EventLoop* const loop_;
  base::EventLoop::TimerId timer_ = 0;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_HEAP_H_
