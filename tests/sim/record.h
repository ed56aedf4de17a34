// What a run found: broken invariants, and a trace of what happened.
#ifndef ESPALIER_TESTS_SIM_RECORD_H_
#define ESPALIER_TESTS_SIM_RECORD_H_

#include <map>
#include <string>
#include <vector>

#include "tests/sim/scheduler.h"

namespace espalier::sim {

enum class Invariant {
  kKeyInstalledOnce,       // an SA's key is installed once at each end, ever
  kInboundBeforeOutbound,  // at both ends, before anything is sent on it
  kNoPacketLost,           // what was sent on an SA can be decrypted
  kNoGap,                  // what has been sent on once always has an SA
  kPacketsFlow,            // the newest SA carries traffic, at the end
  kOneIkeSa,               // a pair ends with one IKE_SA, the same at both
  kOneChildSa,             // and one CHILD_SA, the same at both
  kNothingLeft,            // the datapath holds that CHILD_SA, nothing else
  kNoStorm,                // datagrams per second between two nodes
  kNoSpin,                 // a core's timers move on
  kBoundedHalfOpen,        // half-open IKE_SAs
};
std::string ToString(Invariant invariant);

class Record {
 public:
  explicit Record(const Scheduler* scheduler) : scheduler_(scheduler) {}

  void Broken(Invariant invariant, const std::string& text);
  bool Saw(Invariant invariant) const { return counts_.contains(invariant); }
  bool clean() const { return counts_.empty(); }
  // The first few, with their times.
  std::string Report() const;

  // To stderr as it happens.
  void set_trace(bool on) { trace_ = on; }
  bool tracing() const { return trace_; }
  void Trace(const std::string& text) const;

 private:
  const Scheduler* scheduler_;
  bool trace_ = false;
  std::map<Invariant, int> counts_;
  std::vector<std::string> first_;
};

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_RECORD_H_
