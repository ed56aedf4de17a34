// Desired against actual, for whatever has a key and a value: which changes
// are due, which are under way, which failed and when to try them again.
#ifndef ESPALIER_AGENT_BASE_RECONCILIATION_H_
#define ESPALIER_AGENT_BASE_RECONCILIATION_H_

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"

namespace espalier::base {

// Knows nothing of what it keeps: the owner carries out the changes of Begin
// and tells the outcome of each with End. A change that failed leaves its item
// uncertain: it is made again, after a time that doubles, until it succeeds.
template <typename Key, typename Value>
class Reconciliation {
 public:
  struct Change {
    Key key;
    std::optional<Value> value;  // nullopt: to be deleted
    // What is thought to be there; nullopt: nothing, or not known.
    std::optional<Value> actual;
  };
  struct Problem {
    Key key;
    absl::Status status;
  };

  Reconciliation(absl::Duration first_retry, absl::Duration longest_retry)
      : first_retry_(first_retry), longest_retry_(longest_retry) {}

  // Replaces all that is desired. What changed is due at once.
  void SetDesired(const std::map<Key, Value>& desired) {
    for (auto& [key, item] : items_) {
      if (!desired.contains(key)) Want(&item, std::nullopt);
    }
    for (const auto& [key, value] : desired) Want(&items_[key], value);
    Forget();
  }

  // Replaces what is thought to be there by what was just read, except of the
  // items that are being changed. Returns what stood as desired and does not
  // any more: somebody else changed it.
  std::vector<Key> SetActual(const std::map<Key, Value>& actual) {
    std::vector<Key> taken;
    for (auto& [key, item] : items_) {
      if (item.in_flight) continue;
      const auto found = actual.find(key);
      const bool stood =
          item.desired && item.actual == item.desired && !item.uncertain;
      if (stood && (found == actual.end() || found->second != *item.desired)) {
        taken.push_back(key);
      }
      item.uncertain = false;
      if (found == actual.end()) {
        item.actual.reset();
      } else {
        item.actual = found->second;
      }
      // The change that seemed to fail has happened after all.
      if (item.actual == item.desired) {
        item.problem = absl::OkStatus();
        item.retry = absl::ZeroDuration();
        item.not_before = absl::InfinitePast();
      }
    }
    for (const auto& [key, value] : actual) {
      if (!items_.contains(key)) items_[key].actual = value;
    }
    Forget();
    return taken;
  }

  // The changes that are due; each wants one End. Deletions come first, and
  // not at all unless `may_delete`.
  std::vector<Change> Begin(Instant now, bool may_delete) {
    std::vector<Change> deletions, settings;
    for (auto& [key, item] : items_) {
      if (!IsDue(item, may_delete) || item.not_before > now) continue;
      item.in_flight = true;
      item.sent = item.desired;
      (item.desired ? settings : deletions)
          .push_back({key, item.desired, item.actual});
    }
    deletions.insert(deletions.end(), std::make_move_iterator(settings.begin()),
                     std::make_move_iterator(settings.end()));
    return deletions;
  }

  void End(const Key& key, const absl::Status& status, Instant now) {
    const auto found = items_.find(key);
    if (found == items_.end() || !found->second.in_flight) return;
    Item& item = found->second;
    item.in_flight = false;
    item.problem = status;
    if (status.ok()) {
      item.actual = item.sent;
      item.uncertain = false;
      item.retry = absl::ZeroDuration();
      item.not_before = absl::InfinitePast();
      if (!item.desired && !item.actual) items_.erase(found);
      return;
    }
    item.uncertain = true;
    item.retry = item.retry == absl::ZeroDuration()
                     ? first_retry_
                     : std::min(2 * item.retry, longest_retry_);
    item.not_before = now + item.retry;
  }

  // When Begin will have something; nullopt: nothing is left to do.
  std::optional<Instant> NextDue(bool may_delete) const {
    std::optional<Instant> next;
    for (const auto& [key, item] : items_) {
      if (!IsDue(item, may_delete)) continue;
      if (!next || item.not_before < *next) next = item.not_before;
    }
    return next;
  }

  // Whatever was waiting for its next try is due now.
  void RetryNow() {
    for (auto& [key, item] : items_) {
      item.not_before = absl::InfinitePast();
      item.retry = absl::ZeroDuration();
    }
  }

  // What does not stand as desired because its last change failed.
  std::vector<Problem> Problems() const {
    std::vector<Problem> problems;
    for (const auto& [key, item] : items_) {
      if (!item.problem.ok()) problems.push_back({key, item.problem});
    }
    return problems;
  }

 private:
  struct Item {
    std::optional<Value> desired;
    std::optional<Value> actual;
    std::optional<Value> sent;  // while in_flight
    bool in_flight = false;
    bool uncertain = false;
    absl::Duration retry;
    Instant not_before = absl::InfinitePast();
    absl::Status problem;
  };

  static void Want(Item* item, std::optional<Value> desired) {
    if (item->desired == desired) return;
    item->desired = std::move(desired);
    item->retry = absl::ZeroDuration();
    item->not_before = absl::InfinitePast();
  }

  static bool IsDue(const Item& item, bool may_delete) {
    if (item.in_flight) return false;
    if (!item.desired) return may_delete && (item.actual || item.uncertain);
    return item.uncertain || item.actual != item.desired;
  }

  void Forget() {
    std::erase_if(items_, [](const auto& entry) {
      const Item& item = entry.second;
      return !item.in_flight && !item.uncertain && !item.desired &&
             !item.actual;
    });
  }

  absl::Duration first_retry_;
  absl::Duration longest_retry_;
  std::map<Key, Item> items_;
};

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_RECONCILIATION_H_
