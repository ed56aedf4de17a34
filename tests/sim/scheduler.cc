#include "tests/sim/scheduler.h"

#include <algorithm>

namespace espalier::sim {

int64_t Chance::Between(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(engine_);
}

absl::Duration Chance::Between(absl::Duration least, absl::Duration most) {
  return absl::Microseconds(Between(absl::ToInt64Microseconds(least),
                                    absl::ToInt64Microseconds(most)));
}

bool Chance::Happens(double probability) {
  return std::uniform_real_distribution<double>(0, 1)(engine_) < probability;
}

void SeededRandom::Fill(base::MutableByteSpan out) {
  for (uint8_t& octet : out) octet = static_cast<uint8_t>(engine_());
}

void Scheduler::At(base::Instant when, std::function<void()> what) {
  queue_.emplace(std::pair(std::max(when, now_), ++sequence_), std::move(what));
}

void Scheduler::RunUntil(base::Instant end) {
  while (!queue_.empty() && queue_.begin()->first.first <= end) {
    auto node = queue_.extract(queue_.begin());
    now_ = node.key().first;
    node.mapped()();
  }
  now_ = std::max(now_, end);
}

}  // namespace espalier::sim
