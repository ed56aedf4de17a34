// The parts of espalier-controller on one loop: informers and answers come in,
// workers carry out what the reconciler and the election want.
#ifndef ESPALIER_AGENT_CONTROLLER_CONTROLLER_H_
#define ESPALIER_AGENT_CONTROLLER_CONTROLLER_H_

#include <functional>
#include <memory>
#include <string>

#include "agent/base/clock.h"
#include "agent/base/mode.h"
#include "agent/base/random.h"
#include "agent/controller/leader_election.h"
#include "agent/controller/reconciler.h"
#include "agent/kube/transport.h"
#include "agent/runtime/loop.h"

namespace espalier::controller {

struct ControllerOptions {
  ReconcilerOptions reconciler;
  ElectionOptions election;
  base::Mode default_mode = base::Mode::kPreferred;
};

struct ControllerState {
  bool in_sync = false;
  bool leader = false;
  std::string holder;      // of the Lease
  std::string not_synced;  // why not, for people
  size_t waiting = 0;
  uint64_t events = 0;
  Reconciler::Tally tally;
  ReconcilerCounters counters;
  struct Watch {
    const char* kind;
    bool in_sync;
    double silent_seconds;  // since the API server last said something
    uint64_t events;
  };
  std::vector<Watch> watches;
};

// Everything on the loop's thread, unless it says otherwise.
class Controller {
 public:
  // All pointers outlive the controller; `random` is used from several threads.
  Controller(ControllerOptions options, kube::Transport* transport,
             runtime::Loop* loop, base::Clock* clock,
             base::RandomSource* random);
  ~Controller();
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  void Start();
  // Writes no more, gives the Lease back so that another need not wait for its
  // end, and calls `done` then, after some seconds at the latest.
  void Stop(std::function<void()> done);
  ControllerState State() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// In Prometheus' text format.
std::string RenderMetrics(const ControllerState& state);

}  // namespace espalier::controller

#endif  // ESPALIER_AGENT_CONTROLLER_CONTROLLER_H_
