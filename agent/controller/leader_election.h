// Which of several controllers may write: by a Lease, with the rules of
// Kubernetes' own components (client-go's leaderelection). No IO, no clock.
#ifndef ESPALIER_AGENT_CONTROLLER_LEADER_ELECTION_H_
#define ESPALIER_AGENT_CONTROLLER_LEADER_ELECTION_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/random.h"
#include "agent/kube/objects.h"

namespace espalier::controller {

struct ElectionOptions {
  std::string name_space;
  std::string lease;
  std::string identity;  // unique among the candidates
  // A candidate takes over a Lease that has not changed for so long.
  absl::Duration lease_duration = absl::Seconds(15);
  // A leader that could not renew for so long is none any more. What it has
  // under way then must end before the rest of lease_duration has passed.
  absl::Duration renew_deadline = absl::Seconds(10);
  absl::Duration retry_period = absl::Seconds(2);
};

class LeaderElection {
 public:
  enum class Verb { kGet, kCreate, kUpdate };
  struct Request {
    Verb verb;
    kube::Lease lease;  // an update is conditional on its resourceVersion
  };

  // `random` outlives this.
  LeaderElection(ElectionOptions options, base::RandomSource* random);

  // What to ask the API server now; nullopt while a request is under way or
  // before NextTimeout. `wall` goes into the Lease for people to read; all
  // decisions are by `now`, so that clocks of two machines never meet.
  std::optional<Request> Poll(base::Instant now, absl::Time wall);
  // The Lease as the server has it after the request.
  void HandleAnswer(base::Instant now, absl::StatusOr<kube::Lease> answer);
  base::Instant NextTimeout() const { return next_try_; }

  // True while this one may write.
  bool IsLeader(base::Instant now) const;
  // Until when IsLeader stays true without another renewal.
  base::Instant LeaderUntil() const;
  // Grows whenever this one begins to lead: what was remembered from an
  // earlier term may have been changed by another leader since.
  uint64_t term() const { return term_; }
  bool request_under_way() const { return in_flight_; }
  // Who holds the Lease, as last seen.
  const std::string& holder() const { return seen_.holder; }

  // Ends the candidacy: what to write so that another need not wait. Nothing
  // when this one leads no more.
  std::optional<Request> Release(base::Instant now, absl::Time wall);

 private:
  bool HeldByAnother(base::Instant now) const;
  void See(base::Instant now, kube::Lease lease);
  kube::Lease Mine(absl::Time wall) const;
  Request Send(base::Instant now, Verb verb, kube::Lease lease);

  const ElectionOptions options_;
  base::RandomSource* const random_;
  bool released_ = false;
  bool in_flight_ = false;
  Verb sent_verb_ = Verb::kGet;
  // What the server was last known to have; `fresh_` until it is acted upon.
  bool fresh_ = false;
  bool absent_ = false;
  kube::Lease seen_;
  base::Instant seen_at_ = absl::InfinitePast();
  base::Instant next_try_ = absl::InfinitePast();
  // A lease runs from when its renewal was sent, not from the answer.
  base::Instant sent_at_ = absl::InfinitePast();
  base::Instant renewed_at_ = absl::InfinitePast();
  uint64_t term_ = 0;
};

}  // namespace espalier::controller

#endif  // ESPALIER_AGENT_CONTROLLER_LEADER_ELECTION_H_
