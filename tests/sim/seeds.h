// Which seeds a test runs: many in CI; the one of ESPALIER_SIM_SEED, or of
// --seed N, with a trace on stderr; ESPALIER_SIM_TIMES=10 ten times as many.
#ifndef ESPALIER_TESTS_SIM_SEEDS_H_
#define ESPALIER_TESTS_SIM_SEEDS_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "tests/sim/world.h"

namespace espalier::sim {

// 1 to `count`, and those beyond them that once failed.
struct Seeds {
  // NOLINTNEXTLINE: a number is what most tests have.
  Seeds(int seeds, std::vector<uint64_t> also = {})
      : count(seeds), once_failed(std::move(also)) {}
  int count;
  std::vector<uint64_t> once_failed;
};

// Runs `body` in a world made from `options` for each of `seeds`, and fails the
// test for those that broke an invariant.
void ForSeeds(const Seeds& seeds, const WorldOptions& options,
              const std::function<void(World&)>& body);
// The same where `options` depend on the seed.
void ForSeeds(const Seeds& seeds,
              const std::function<WorldOptions(uint64_t seed)>& options,
              const std::function<void(World&)>& body);

// Runs until one of `count` seeds breaks `invariant`; fails the test when none
// does.
void ExpectBroken(Invariant invariant, int count, const WorldOptions& options,
                  const std::function<void(World&)>& body);

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_SEEDS_H_
