// Virtual time: what shall happen, in order. One thread, no clock.
#ifndef ESPALIER_TESTS_SIM_SCHEDULER_H_
#define ESPALIER_TESTS_SIM_SCHEDULER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <utility>

#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/random.h"

namespace espalier::sim {

// All chance of a run comes from here, in the order of the events: one seed,
// one run.
class Chance {
 public:
  explicit Chance(uint64_t seed) : engine_(seed) {}

  uint64_t U64() { return engine_(); }
  // Uniform in [least, most].
  int64_t Between(int64_t least, int64_t most);
  absl::Duration Between(absl::Duration least, absl::Duration most);
  bool Happens(double probability);

 private:
  std::mt19937_64 engine_;
};

// The randomness of one core.
class SeededRandom : public base::RandomSource {
 public:
  explicit SeededRandom(uint64_t seed) : engine_(seed) {}
  void Fill(base::MutableByteSpan out) override;

 private:
  std::mt19937_64 engine_;
};

class Scheduler {
 public:
  base::Instant now() const { return now_; }
  void At(base::Instant when, std::function<void()> what);
  void After(absl::Duration delay, std::function<void()> what) {
    At(now_ + delay, std::move(what));
  }
  // Runs everything up to `end`, which is then the time.
  void RunUntil(base::Instant end);
  uint64_t events() const { return sequence_; }

 private:
  base::Instant now_ = absl::UnixEpoch() + absl::Hours(1);
  uint64_t sequence_ = 0;
  // By time, then in the order they were asked for.
  std::map<std::pair<base::Instant, uint64_t>, std::function<void()>> queue_;
};

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_SCHEDULER_H_
