#include "tests/sim/seeds.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <numeric>
#include <optional>

namespace espalier::sim {
namespace {

// A broken rule breaks in many seeds alike.
constexpr int kMaxReportedSeeds = 3;

std::optional<uint64_t> OneSeed() {
  const char* text = std::getenv("ESPALIER_SIM_SEED");
  if (text == nullptr) return std::nullopt;
  return std::strtoull(text, nullptr, 0);
}

// ESPALIER_SIM_TIMES: so many times the seeds that CI runs.
uint64_t Times() {
  const char* text = std::getenv("ESPALIER_SIM_TIMES");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 0);
}

std::vector<uint64_t> Chosen(const Seeds& from) {
  if (const std::optional<uint64_t> one = OneSeed()) return {*one};
  std::vector<uint64_t> seeds(static_cast<size_t>(from.count) * Times());
  std::iota(seeds.begin(), seeds.end(), 1);
  std::ranges::copy_if(from.once_failed, std::back_inserter(seeds),
                       [last = seeds.size()](uint64_t s) { return s > last; });
  return seeds;
}

std::string TestName() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  return std::string(info->test_suite_name()) + "." + info->name();
}

}  // namespace

void ForSeeds(const Seeds& seeds,
              const std::function<WorldOptions(uint64_t seed)>& options,
              const std::function<void(World&)>& body) {
  const bool one = OneSeed().has_value();
  int failed = 0;
  for (uint64_t seed : Chosen(seeds)) {
    WorldOptions chosen = options(seed);
    chosen.seed = seed;
    chosen.trace = one;
    World world(chosen);
    body(world);
    if (world.record().clean()) continue;
    ++failed;
    ADD_FAILURE() << "seed " << seed << ", again with a trace: --seed " << seed
                  << " --gtest_filter=" << TestName() << "\n"
                  << world.record().Report();
    if (failed == kMaxReportedSeeds) return;
  }
}

void ForSeeds(const Seeds& seeds, const WorldOptions& options,
              const std::function<void(World&)>& body) {
  ForSeeds(seeds, [&options](uint64_t) { return options; }, body);
}

void ExpectBroken(Invariant invariant, int count, const WorldOptions& options,
                  const std::function<void(World&)>& body) {
  const std::optional<uint64_t> one = OneSeed();
  for (int i = 1; i <= count; ++i) {
    WorldOptions chosen = options;
    chosen.seed = one.value_or(static_cast<uint64_t>(i));
    chosen.trace = one.has_value();
    World world(chosen);
    body(world);
    if (world.record().Saw(invariant)) return;
  }
  ADD_FAILURE() << "no seed broke: " << ToString(invariant);
}

}  // namespace espalier::sim

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--seed") == 0) {
      setenv("ESPALIER_SIM_SEED", argv[i + 1], 1);
    }
  }
  return RUN_ALL_TESTS();
}
