#include "agent/datapath/fake/fake_datapath.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace espalier::datapath {

void FakeDatapath::Enqueue(std::function<absl::Status()> effect, Done done) {
  queue_.push_back([this, effect = std::move(effect), done = std::move(done)] {
    ++calls_;
    const bool fails = calls_ == fail_at_;
    if (fails && failure_ == Failure::kBefore) {
      done(absl::UnavailableError("the fake datapath fails this call"));
      return;
    }
    absl::Status status = effect();
    if (fails) {
      status = absl::UnavailableError("the fake datapath loses this answer");
    }
    done(std::move(status));
  });
}

bool FakeDatapath::RunOne() {
  if (queue_.empty()) return false;
  const std::function<void()> next = std::move(queue_.front());
  queue_.pop_front();
  next();
  return true;
}

void FakeDatapath::Run() {
  while (RunOne()) {
  }
}

void FakeDatapath::Connect() {
  if (events_.ready) events_.ready();
}

void FakeDatapath::Restart() {
  sas_.clear();
  counters_.clear();
  order_.clear();
  expired_.clear();
  watched_.clear();
  policies_.clear();
  log_.push_back("restart");
  if (events_.lost) events_.lost(absl::DataLossError("restarted"));
  Connect();
}

bool FakeDatapath::Pass(const SaKey& key, uint64_t octets) {
  if (!sas_.contains(key) || expired_.contains(key)) return false;
  base::SaCounters& counters = counters_[key];
  ++counters.packets;
  counters.bytes += octets;
  if (watched_.erase(key) != 0 && events_.inbound_seen) {
    events_.inbound_seen(key);
  }
  return true;
}

void FakeDatapath::Expire(const SaKey& key, bool hard) {
  if (hard) expired_.insert(key);
  if (events_.expired) events_.expired(key, hard);
}

void FakeDatapath::Acquire(base::Reqid reqid) {
  if (events_.acquire) events_.acquire(reqid);
}

const base::EspSa* FakeDatapath::Outbound(base::Reqid reqid,
                                          std::optional<uint32_t> cpu) const {
  const base::EspSa* newest = nullptr;
  uint64_t newest_order = 0;
  for (const auto& [key, sa] : sas_) {
    const uint64_t order = order_.at(key);
    if (key.direction == base::Direction::kOutbound && sa.reqid == reqid &&
        sa.cpu == cpu && !expired_.contains(key) && order >= newest_order) {
      newest = &sa;
      newest_order = order;
    }
  }
  return newest == nullptr && cpu ? Outbound(reqid) : newest;
}

absl::Status FakeDatapath::Install(base::EspSa sa) {
  const SaKey key{sa.direction, sa.outer_destination, sa.spi};
  if (sas_.contains(key)) {
    return absl::AlreadyExistsError(absl::StrCat("SA ", key.ToString()));
  }
  base::Bytes secret(sa.encryption_key.span().begin(),
                     sa.encryption_key.span().end());
  secret.push_back(static_cast<uint8_t>(sa.direction));
  if (!keys_ever_.insert(std::move(secret)).second) ++repeated_keys_;
  log_.push_back(absl::StrCat("install ", key.ToString()));
  order_[key] = ++installs_;
  counters_[key] = {};
  sas_.emplace(key, std::move(sa));
  return absl::OkStatus();
}

void FakeDatapath::InstallSa(base::EspSa sa, Done done) {
  auto shared = std::make_shared<base::EspSa>(std::move(sa));
  Enqueue([this, shared] { return Install(std::move(*shared)); },
          std::move(done));
}

void FakeDatapath::RemoveSa(const SaKey& key, Done done) {
  Enqueue(
      [this, key] {
        if (sas_.erase(key) != 0) {
          log_.push_back(absl::StrCat("remove ", key.ToString()));
        }
        counters_.erase(key);
        order_.erase(key);
        expired_.erase(key);
        watched_.erase(key);
        return absl::OkStatus();
      },
      std::move(done));
}

void FakeDatapath::WatchInbound(const SaKey& key) {
  queue_.push_back([this, key] {
    if (!sas_.contains(key)) return;
    if (counters_[key].packets != 0) {
      if (events_.inbound_seen) events_.inbound_seen(key);
    } else {
      watched_.insert(key);
    }
  });
}

void FakeDatapath::SetPolicy(const Policy& policy, Done done) {
  Enqueue(
      [this, policy] {
        policies_[policy.reqid] = policy;
        return absl::OkStatus();
      },
      std::move(done));
}

void FakeDatapath::RemovePolicy(base::Reqid reqid, Done done) {
  Enqueue(
      [this, reqid] {
        policies_.erase(reqid);
        return absl::OkStatus();
      },
      std::move(done));
}

void FakeDatapath::ListSas(
    std::function<void(absl::StatusOr<std::vector<InstalledSa>>)> done) {
  auto result = std::make_shared<std::vector<InstalledSa>>();
  Enqueue(
      [this, result] {
        for (const auto& [key, sa] : sas_) {
          result->push_back({.key = key,
                             .outer_source = sa.outer_source,
                             .reqid = sa.reqid,
                             .counters = counters_.at(key),
                             .suite = sa.suite,
                             .encapsulated = sa.encapsulation.has_value(),
                             .expired = expired_.contains(key)});
        }
        return absl::OkStatus();
      },
      [result, done = std::move(done)](const absl::Status& status) {
        if (status.ok()) {
          done(std::move(*result));
        } else {
          done(status);
        }
      });
}

void FakeDatapath::ListPolicies(
    std::function<void(absl::StatusOr<std::vector<Policy>>)> done) {
  auto result = std::make_shared<std::vector<Policy>>();
  Enqueue(
      [this, result] {
        for (const auto& [reqid, policy] : policies_) {
          result->push_back(policy);
        }
        return absl::OkStatus();
      },
      [result, done = std::move(done)](const absl::Status& status) {
        if (status.ok()) {
          done(std::move(*result));
        } else {
          done(status);
        }
      });
}

}  // namespace espalier::datapath
