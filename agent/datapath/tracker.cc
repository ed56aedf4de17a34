#include "agent/datapath/tracker.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/base/log.h"

namespace espalier::datapath {
namespace {

SaKey KeyOf(const base::EspSa& sa) {
  return {sa.direction, sa.outer_destination, sa.spi};
}

}  // namespace

Tracker::Tracker(base::EventLoop* loop, base::Clock* clock, Datapath* datapath,
                 Options options)
    : loop_(loop),
      clock_(clock),
      datapath_(datapath),
      options_(options),
      policies_(options.first_retry, options.longest_retry),
      self_(std::make_shared<Tracker*>(this)) {
  Events events;
  events.ready = [this] { HandleReady(); };
  events.lost = [this](const absl::Status& why) { HandleLost(why); };
  events.expired = [this](const SaKey& key, bool hard) {
    const auto found = sas_.find(key);
    if (found != sas_.end() && hard) found->second.expired = true;
    if (events_.expired) events_.expired(key, hard);
  };
  events.inbound_seen = [this](const SaKey& key) {
    watched_.erase(key);
    if (events_.inbound_seen) events_.inbound_seen(key);
  };
  events.acquire = [this](base::Reqid reqid) {
    // Where there should be an SA, somebody removed it.
    for (const auto& [key, sa] : sas_) {
      if (sa.reqid == reqid && key.direction == base::Direction::kOutbound &&
          (sa.state == TrackedSa::State::kInstalled ||
           sa.state == TrackedSa::State::kAdopted)) {
        RefreshSoon();
        break;
      }
    }
    if (events_.acquire) events_.acquire(reqid);
  };
  events.disturbed = [this] { RefreshSoon(); };
  datapath_->SetEvents(std::move(events));
}

Tracker::~Tracker() {
  *self_ = nullptr;
  loop_->CancelTimer(timer_);
  loop_->CancelTimer(refresh_timer_);
  loop_->CancelTimer(soon_timer_);
  datapath_->SetEvents({});
}

void Tracker::InstallSa(base::EspSa sa, Done done) {
  const SaKey key = KeyOf(sa);
  if (sas_.contains(key)) {
    done(absl::AlreadyExistsError(
        absl::StrCat("install SA ", key.ToString(),
                     ": an SA of that key is known already")));
    return;
  }
  sas_[key] = {.state = TrackedSa::State::kInstalling,
               .key = key,
               .outer_source = sa.outer_source,
               .reqid = sa.reqid,
               .suite = sa.suite,
               .encapsulated = sa.encapsulation.has_value()};
  datapath_->InstallSa(
      std::move(sa),
      [self = self_, key, done = std::move(done)](absl::Status status) {
        Tracker* const tracker = *self;
        if (tracker == nullptr) return;
        const auto found = tracker->sas_.find(key);
        if (found != tracker->sas_.end() &&
            found->second.state == TrackedSa::State::kInstalling) {
          if (status.ok()) {
            found->second.state = TrackedSa::State::kInstalled;
          } else {
            base::Log(base::LogLevel::kWarning, "SA not installed",
                      {{"sa", key.ToString()}, {"error", status}});
            // It may be there all the same (the answer was lost).
            tracker->RemoveSa(key, nullptr);
          }
        } else if (status.ok()) {
          // Removed, or lost with its backend, while it was being installed.
          status = absl::AbortedError(absl::StrCat(
              "install SA ", key.ToString(), ": removed meanwhile"));
        }
        done(std::move(status));
      });
}

void Tracker::RemoveSa(const SaKey& key, Done done) {
  watched_.erase(key);
  const auto found = sas_.find(key);
  if (found == sas_.end()) {
    if (done) done(absl::OkStatus());
    return;
  }
  found->second.state = TrackedSa::State::kRemoving;
  Removal& removal = removals_[key];
  if (done) removal.waiting.push_back(std::move(done));
  if (!removal.in_flight) StartRemoval(key);
}

void Tracker::StartRemoval(const SaKey& key) {
  removals_[key].in_flight = true;
  datapath_->RemoveSa(key, [self = self_, key](absl::Status status) {
    if (*self != nullptr) (*self)->EndRemoval(key, status);
  });
}

void Tracker::EndRemoval(const SaKey& key, const absl::Status& status) {
  const auto found = removals_.find(key);
  if (found == removals_.end()) return;
  Removal& removal = found->second;
  removal.in_flight = false;
  removal.problem = status;
  if (!status.ok() && !absl::IsNotFound(status)) {
    removal.retry = removal.retry == absl::ZeroDuration()
                        ? options_.first_retry
                        : std::min(2 * removal.retry, options_.longest_retry);
    removal.not_before = clock_->Now() + removal.retry;
    ArmTimer();
    return;
  }
  std::vector<Done> waiting = std::move(removal.waiting);
  removals_.erase(found);
  sas_.erase(key);
  for (Done& done : waiting) done(absl::OkStatus());
}

void Tracker::WatchInbound(const SaKey& key) {
  watched_[key] = true;
  datapath_->WatchInbound(key);
}

void Tracker::SetPolicies(const std::vector<Policy>& policies) {
  std::map<base::Reqid, Policy> desired;
  for (const Policy& policy : policies) desired[policy.reqid] = policy;
  policies_.SetDesired(desired);
  ApplyPolicies();
}

void Tracker::SetInSync() {
  in_sync_ = true;
  ApplyPolicies();
}

void Tracker::ApplyPolicies() {
  // Before the backend has told what it holds there is nothing to compare.
  if (policies_known_) {
    for (auto& change : policies_.Begin(clock_->Now(), in_sync_)) {
      Done done = [self = self_, reqid = change.key](absl::Status status) {
        Tracker* const tracker = *self;
        if (tracker == nullptr) return;
        if (absl::IsNotFound(status)) status = absl::OkStatus();
        if (!status.ok()) {
          base::Log(base::LogLevel::kWarning, "policy not applied",
                    {{"reqid", reqid.value()}, {"error", status}});
        }
        tracker->policies_.End(reqid, status, tracker->clock_->Now());
        tracker->ArmTimer();
      };
      if (change.value) {
        datapath_->SetPolicy(*change.value, std::move(done));
      } else {
        datapath_->RemovePolicy(change.key, std::move(done));
      }
    }
  }
  ArmTimer();
}

void Tracker::HandleReady() {
  ++connection_;
  ready_ = false;
  policies_known_ = false;
  RefreshLater();
  policies_.RetryNow();
  for (auto& [key, removal] : removals_) {
    removal.not_before = absl::InfinitePast();
  }
  ArmTimer();
  for (const auto& [key, unused] : watched_) datapath_->WatchInbound(key);
  // Announces `ready` in its own time; a failure is tried again there.
  Refresh([self = self_](const absl::Status& status) {
    if (*self != nullptr && !status.ok()) (*self)->ArmTimer();
  });
}

void Tracker::HandleLost(const absl::Status& why) {
  base::Log(base::LogLevel::kError, "datapath lost its SAs", {{"error", why}});
  policies_.SetActual({});
  watched_.clear();
  std::map<SaKey, TrackedSa> gone = std::exchange(sas_, {});
  std::map<SaKey, Removal> removed = std::exchange(removals_, {});
  for (auto& [key, removal] : removed) {
    for (Done& done : removal.waiting) done(absl::OkStatus());
  }
  for (const auto& [key, sa] : gone) {
    if (sa.state == TrackedSa::State::kRemoving ||
        sa.state == TrackedSa::State::kInstalling) {
      continue;  // the first are told; the others' install is answered
    }
    if (events_.vanished) events_.vanished(sa);
  }
}

void Tracker::Refresh(Done done) {
  // An SA that is installed while the list is under way is not in it.
  std::vector<SaKey> installed;
  for (const auto& [key, sa] : sas_) {
    if (sa.state == TrackedSa::State::kInstalled ||
        sa.state == TrackedSa::State::kAdopted) {
      installed.push_back(key);
    }
  }
  datapath_->ListSas([self = self_, connection = connection_,
                      installed = std::move(installed), done = std::move(done)](
                         absl::StatusOr<std::vector<InstalledSa>> sas) {
    Tracker* const tracker = *self;
    if (tracker == nullptr) return;
    if (!sas.ok()) {
      done(sas.status());
      return;
    }
    if (connection != tracker->connection_) {
      done(absl::AbortedError("the datapath was reconnected meanwhile"));
      return;
    }
    tracker->HandleSas(installed, *sas);
    if (tracker->events_.refreshed) tracker->events_.refreshed();
    tracker->datapath_->ListPolicies(
        [self, connection, done](absl::StatusOr<std::vector<Policy>> policies) {
          Tracker* const alive = *self;
          if (alive == nullptr) return;
          if (!policies.ok()) {
            done(policies.status());
            return;
          }
          if (connection != alive->connection_) {
            done(absl::AbortedError("the datapath was reconnected meanwhile"));
            return;
          }
          alive->HandlePolicies(*policies);
          done(absl::OkStatus());
        });
  });
}

void Tracker::HandleSas(const std::vector<SaKey>& installed_before,
                        const std::vector<InstalledSa>& listed) {
  std::set<SaKey> present;
  for (const InstalledSa& sa : listed) {
    if (sa.reqid.value() < base::kOwnedReqidFirst ||
        sa.reqid.value() > base::kOwnedReqidLast) {
      continue;
    }
    present.insert(sa.key);
    auto [it, added] = sas_.try_emplace(sa.key);
    if (added) {
      it->second = {.state = TrackedSa::State::kAdopted,
                    .key = sa.key,
                    .outer_source = sa.outer_source,
                    .reqid = sa.reqid,
                    .suite = sa.suite,
                    .encapsulated = sa.encapsulated};
    }
    it->second.counters = sa.counters;
    it->second.expired = sa.expired;
  }
  std::vector<TrackedSa> vanished;
  for (const SaKey& key : installed_before) {
    const auto found = sas_.find(key);
    if (present.contains(key) || found == sas_.end() ||
        found->second.state == TrackedSa::State::kRemoving) {
      continue;
    }
    vanished.push_back(found->second);
    watched_.erase(key);
    sas_.erase(found);
  }
  for (const TrackedSa& sa : vanished) {
    base::Log(base::LogLevel::kError, "SA vanished",
              {{"sa", sa.key.ToString()}});
    if (events_.vanished) events_.vanished(sa);
  }
}

void Tracker::HandlePolicies(const std::vector<Policy>& listed) {
  std::map<base::Reqid, Policy> actual;
  for (const Policy& policy : listed) {
    if (policy.reqid.value() >= base::kOwnedReqidFirst &&
        policy.reqid.value() <= base::kOwnedReqidLast) {
      actual[policy.reqid] = policy;
    }
  }
  for (const base::Reqid reqid : policies_.SetActual(actual)) {
    base::Log(base::LogLevel::kError, "policy vanished; it is put back",
              {{"reqid", reqid.value()}});
  }
  policies_known_ = true;
  ApplyPolicies();
  if (!std::exchange(ready_, true) && events_.ready) events_.ready();
}

void Tracker::RefreshLater() {
  loop_->CancelTimer(refresh_timer_);
  refresh_timer_ = loop_->RunAfter(options_.refresh, [this] {
    RefreshLater();
    // A failure is the connection's, and dealt with there.
    if (ready_) Refresh([](const absl::Status&) {});
  });
}

void Tracker::RefreshSoon() {
  if (soon_timer_ != 0) return;
  soon_timer_ = loop_->RunAfter(options_.refresh_soon, [this] {
    soon_timer_ = 0;
    if (ready_) Refresh([](const absl::Status&) {});
  });
}

void Tracker::ArmTimer() {
  std::optional<base::Instant> next;
  const auto consider = [&](base::Instant at) {
    if (!next || at < *next) next = at;
  };
  for (const auto& [key, removal] : removals_) {
    if (!removal.in_flight) consider(removal.not_before);
  }
  if (policies_known_) {
    if (const auto due = policies_.NextDue(in_sync_)) consider(*due);
  } else if (connection_ != 0) {
    consider(clock_->Now() + options_.first_retry);
  }
  loop_->CancelTimer(std::exchange(timer_, 0));
  if (!next) return;
  const absl::Duration delay =
      std::max(*next - clock_->Now(), absl::ZeroDuration());
  timer_ = loop_->RunAfter(delay, [this] { HandleTimer(); });
}

void Tracker::HandleTimer() {
  timer_ = 0;
  const base::Instant now = clock_->Now();
  std::vector<SaKey> due;
  for (const auto& [key, removal] : removals_) {
    if (!removal.in_flight && removal.not_before <= now) due.push_back(key);
  }
  for (const SaKey& key : due) StartRemoval(key);
  if (!policies_known_ && connection_ != 0) {
    Refresh([self = self_](const absl::Status& status) {
      if (*self != nullptr && !status.ok()) (*self)->ArmTimer();
    });
    return;
  }
  ApplyPolicies();
}

std::vector<std::string> Tracker::Problems() const {
  std::vector<std::string> problems;
  for (const auto& problem : policies_.Problems()) {
    problems.push_back(absl::StrCat("policy of reqid ", problem.key.value(),
                                    ": ", problem.status.ToString()));
  }
  for (const auto& [key, removal] : removals_) {
    if (!removal.problem.ok()) {
      problems.push_back(absl::StrCat("remove SA ", key.ToString(), ": ",
                                      removal.problem.ToString()));
    }
  }
  return problems;
}

}  // namespace espalier::datapath
