#include "tests/sim/record.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace espalier::sim {
namespace {

constexpr size_t kReported = 12;

std::string Stamp(const Scheduler& scheduler) {
  return absl::StrFormat(
      "%10.6f", absl::ToDoubleSeconds(scheduler.now() - absl::UnixEpoch() -
                                      absl::Hours(1)));
}

}  // namespace

std::string ToString(Invariant invariant) {
  switch (invariant) {
    case Invariant::kKeyInstalledOnce:
      return "a key is installed once";
    case Invariant::kInboundBeforeOutbound:
      return "inbound before outbound";
    case Invariant::kNoPacketLost:
      return "no packet is lost";
    case Invariant::kNoGap:
      return "an SA to send on";
    case Invariant::kPacketsFlow:
      return "packets flow";
    case Invariant::kOneIkeSa:
      return "one IKE_SA";
    case Invariant::kOneChildSa:
      return "one CHILD_SA";
    case Invariant::kNothingLeft:
      return "nothing is left over";
    case Invariant::kNoStorm:
      return "no storm";
    case Invariant::kNoSpin:
      return "no spinning timer";
    case Invariant::kBoundedHalfOpen:
      return "bounded half-open IKE_SAs";
  }
  return "?";
}

void Record::Broken(Invariant invariant, const std::string& text) {
  ++counts_[invariant];
  const std::string line = absl::StrCat(Stamp(*scheduler_), " BROKEN ",
                                        ToString(invariant), ": ", text);
  if (first_.size() < kReported) first_.push_back(line);
  if (trace_) std::fprintf(stderr, "%s\n", line.c_str());
}

std::string Record::Report() const {
  std::string counts;
  for (const auto& [invariant, count] : counts_) {
    absl::StrAppend(&counts, "  ", count, " x ", ToString(invariant), "\n");
  }
  return absl::StrCat(counts, absl::StrJoin(first_, "\n"));
}

void Record::Trace(const std::string& text) const {
  if (!trace_) return;
  std::fprintf(stderr, "%s %s\n", Stamp(*scheduler_).c_str(), text.c_str());
}

}  // namespace espalier::sim
