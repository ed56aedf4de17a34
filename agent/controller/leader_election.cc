#include "agent/controller/leader_election.h"

#include <utility>

namespace espalier::controller {
namespace {

// Candidates spread their tries: client-go's JitterFactor.
constexpr double kJitter = 1.2;
// A Lease that names a longer one, or none, was not written by a candidate.
constexpr int64_t kLongestLeaseSeconds = 3600;

}  // namespace

LeaderElection::LeaderElection(ElectionOptions options,
                               base::RandomSource* random)
    : options_(std::move(options)), random_(random) {}

bool LeaderElection::IsLeader(base::Instant now) const {
  return now < LeaderUntil();
}

base::Instant LeaderElection::LeaderUntil() const {
  if (released_ || renewed_at_ == absl::InfinitePast()) {
    return absl::InfinitePast();
  }
  return renewed_at_ + options_.renew_deadline;
}

bool LeaderElection::HeldByAnother(base::Instant now) const {
  if (absent_ || seen_.holder.empty() || seen_.holder == options_.identity) {
    return false;
  }
  const bool plausible = seen_.duration_seconds > 0 &&
                         seen_.duration_seconds <= kLongestLeaseSeconds;
  return now < seen_at_ + (plausible ? absl::Seconds(seen_.duration_seconds)
                                     : options_.lease_duration);
}

void LeaderElection::See(base::Instant now, kube::Lease lease) {
  // Its own times are another machine's: what counts is when this one saw it
  // change.
  const bool same =
      seen_at_ != absl::InfinitePast() && lease.holder == seen_.holder &&
      lease.renewed == seen_.renewed && lease.acquired == seen_.acquired &&
      lease.transitions == seen_.transitions;
  if (!same) seen_at_ = now;
  seen_ = std::move(lease);
  absent_ = false;
}

kube::Lease LeaderElection::Mine(absl::Time wall) const {
  kube::Lease lease;
  if (!absent_) lease = seen_;
  lease.meta.name = options_.lease;
  lease.meta.name_space = options_.name_space;
  if (lease.holder != options_.identity) {
    lease.acquired = wall;
    if (!absent_) ++lease.transitions;
  }
  lease.holder = options_.identity;
  lease.renewed = wall;
  lease.duration_seconds = absl::ToInt64Seconds(options_.lease_duration);
  return lease;
}

LeaderElection::Request LeaderElection::Send(base::Instant now, Verb verb,
                                             kube::Lease lease) {
  in_flight_ = true;
  sent_verb_ = verb;
  sent_at_ = now;
  return {verb, std::move(lease)};
}

std::optional<LeaderElection::Request> LeaderElection::Poll(base::Instant now,
                                                            absl::Time wall) {
  if (released_ || in_flight_ || now < next_try_) return std::nullopt;
  // A leader renews what it wrote itself without asking first: half the
  // requests, and its resourceVersion tells when another one wrote.
  const bool renewing = IsLeader(now) && seen_.holder == options_.identity;
  if (!fresh_ && !renewing) {
    kube::Lease lease;
    lease.meta.name = options_.lease;
    lease.meta.name_space = options_.name_space;
    return Send(now, Verb::kGet, std::move(lease));
  }
  fresh_ = false;
  return Send(now, absent_ ? Verb::kCreate : Verb::kUpdate, Mine(wall));
}

void LeaderElection::HandleAnswer(base::Instant now,
                                  absl::StatusOr<kube::Lease> answer) {
  if (!in_flight_) return;
  in_flight_ = false;
  const bool was_leader = IsLeader(now);
  const bool found = answer.ok();
  if (found) {
    See(now, *std::move(answer));
  } else if (sent_verb_ == Verb::kGet && absl::IsNotFound(answer.status())) {
    absent_ = true;
  }
  if (sent_verb_ == Verb::kGet) {
    if ((found || absent_) && !HeldByAnother(now)) {
      fresh_ = true;
      next_try_ = now;
      return;
    }
    // Another one holds it: whatever this one believed of itself is over.
    if (found) renewed_at_ = absl::InfinitePast();
  } else if (found && seen_.holder == options_.identity) {
    renewed_at_ = sent_at_;
    // An answer so late that its lease is over makes no leader.
    if (!was_leader && IsLeader(now)) ++term_;
  } else {
    // Another wrote meanwhile, or nobody knows whether this one did: what is
    // remembered cannot be renewed without a look. The lease itself goes on
    // until its deadline.
    seen_.holder.clear();
  }
  double factor = 1;
  if (!IsLeader(now)) {
    factor += kJitter * static_cast<double>(random_->U32()) / UINT32_MAX;
  }
  next_try_ = now + options_.retry_period * factor;
}

std::optional<LeaderElection::Request> LeaderElection::Release(
    base::Instant now, absl::Time wall) {
  const bool leads = IsLeader(now) && seen_.holder == options_.identity;
  released_ = true;
  if (!leads) return std::nullopt;
  kube::Lease lease = seen_;
  lease.holder.clear();
  lease.duration_seconds = 1;
  lease.renewed = wall;
  return Request{Verb::kUpdate, std::move(lease)};
}

}  // namespace espalier::controller
