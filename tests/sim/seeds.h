// Which seeds a test runs: many in CI; the one of ESPALIER_SIM_SEED, or of
// --seed N, with a trace on stderr; ESPALIER_SIM_TIMES=10 ten times as many.
#ifndef ESPALIER_TESTS_SIM_SEEDS_H_
#define ESPALIER_TESTS_SIM_SEEDS_H_

#include <functional>

#include "tests/sim/world.h"

namespace espalier::sim {

// Runs `body` in a world made from `options` for each of `count` seeds, and
// fails the test for the seeds that broke an invariant.
void ForSeeds(int count, const WorldOptions& options,
              const std::function<void(World&)>& body);
// The same where `options` depend on the seed.
void ForSeeds(int count,
              const std::function<WorldOptions(uint64_t seed)>& options,
              const std::function<void(World&)>& body);

// Runs until one of `count` seeds breaks `invariant`; fails the test when none
// does.
void ExpectBroken(Invariant invariant, int count, const WorldOptions& options,
                  const std::function<void(World&)>& body);

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_SEEDS_H_
