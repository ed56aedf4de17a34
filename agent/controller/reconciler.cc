#include "agent/controller/reconciler.h"

#include <algorithm>
#include <utility>

#include "agent/base/log.h"

namespace espalier::controller {
namespace {

using kube::EspalierNode;

// Whether `a` is from before `b`; versions that are no numbers cannot tell.
bool Older(const EspalierNode& a, const EspalierNode& b) {
  return kube::CompareVersions(a.meta.resource_version, b.meta.resource_version)
             .value_or(0) < 0;
}

// Other fields of a Node change each few seconds.
bool SameClaims(const kube::Node& a, const kube::Node& b) {
  return a.meta.uid == b.meta.uid && a.meta.created == b.meta.created &&
         a.internal_addresses == b.internal_addresses &&
         a.pod_cidrs == b.pod_cidrs && a.problem == b.problem;
}

bool OwnedBy(const kube::ObjectMeta& meta, const std::string& node_uid) {
  return std::any_of(meta.owner_references.begin(), meta.owner_references.end(),
                     [&](const kube::OwnerReference& owner) {
                       return owner.kind == "Node" && owner.uid == node_uid;
                     });
}

kube::OwnerReference OwnerOf(const kube::Node& node) {
  return {.api_version = "v1",
          .kind = "Node",
          .name = node.meta.name,
          .uid = node.meta.uid};
}

// What of an EspalierNode the plan depends on.
bool SameForThePlan(const EspalierNode& a, const EspalierNode& b) {
  return a.meta.uid == b.meta.uid && a.status == b.status &&
         a.meta.owner_references == b.meta.owner_references;
}

template <typename T>
bool Loses(const std::vector<T>& before, const std::vector<T>& after) {
  return std::any_of(before.begin(), before.end(), [&](const T& item) {
    return std::find(after.begin(), after.end(), item) == after.end();
  });
}

// In place of an owner's uid: the report was deleted.
constexpr char kDeleted[] = "deleted";

void WarnOf(const char* kind, bool older, bool quarter) {
  base::Log(base::LogLevel::kWarning, "suspicious list",
            {{"kind", kind},
             {"older_than_seen", older},
             {"lost_more_than_quarter", quarter}});
}

}  // namespace

Reconciler::Reconciler(ReconcilerOptions options)
    : options_(std::move(options)), tokens_(options_.burst) {}

void Reconciler::Changed(base::Instant now) {
  if (dirty_) return;
  dirty_ = true;
  plan_at_ = now + options_.gather;
  Postpone(plan_at_);
}

void Reconciler::Postpone(base::Instant until) {
  next_timeout_ = std::min(next_timeout_, until);
}

void Reconciler::Handle(base::Instant now,
                        const kube::Update<kube::Node>& update) {
  if (const auto* relist = std::get_if<kube::Relist<kube::Node>>(&update)) {
    if (relist->older_than_seen || relist->lost_more_than_quarter) {
      ++counters_.suspicious_relists;
      WarnOf("Node", relist->older_than_seen, relist->lost_more_than_quarter);
    }
    nodes_.clear();
    for (const auto& node : relist->objects) nodes_[node->meta.name] = node;
    nodes_in_sync_ = true;
  } else if (const auto* put = std::get_if<kube::Put<kube::Node>>(&update)) {
    std::shared_ptr<const kube::Node>& known = nodes_[put->object->meta.name];
    const bool same = known != nullptr && SameClaims(*known, *put->object);
    known = put->object;
    if (same) return;
  } else {
    nodes_.erase(std::get<kube::Deleted<kube::Node>>(update).object->meta.name);
  }
  Changed(now);
}

void Reconciler::Handle(base::Instant now,
                        const kube::Update<EspalierNode>& update) {
  if (const auto* relist = std::get_if<kube::Relist<EspalierNode>>(&update)) {
    if (relist->older_than_seen || relist->lost_more_than_quarter) {
      ++counters_.suspicious_relists;
      WarnOf("EspalierNode", relist->older_than_seen,
             relist->lost_more_than_quarter);
    }
    // A server that was set back to an older state counts anew: what it
    // answered before says nothing about what it has.
    EspalierNodes before = std::move(espalier_nodes_);
    espalier_nodes_.clear();
    for (const auto& object : relist->objects) {
      const auto known = before.find(object->meta.name);
      const bool keep = !relist->older_than_seen && known != before.end() &&
                        Older(*object, *known->second);
      espalier_nodes_[object->meta.name] = keep ? known->second : object;
    }
    espalier_nodes_in_sync_ = true;
  } else if (const auto* put = std::get_if<kube::Put<EspalierNode>>(&update)) {
    const auto known = espalier_nodes_.find(put->object->meta.name);
    const bool same = known != espalier_nodes_.end() &&
                      SameForThePlan(*known->second, *put->object);
    Learn(put->object);
    if (same) return;
  } else {
    Forget(*std::get<kube::Deleted<EspalierNode>>(update).object);
  }
  Changed(now);
}

void Reconciler::Learn(std::shared_ptr<const EspalierNode> object) {
  std::shared_ptr<const EspalierNode>& known =
      espalier_nodes_[object->meta.name];
  if (known != nullptr && Older(*object, *known)) return;
  if (known != nullptr && known->meta.uid != object->meta.uid) {
    orphans_.erase(object->meta.name);
    node_is_gone_.erase(object->meta.name);
  }
  known = std::move(object);
}

void Reconciler::Forget(const EspalierNode& object) {
  const auto known = espalier_nodes_.find(object.meta.name);
  // A late word about an earlier object of that name.
  if (known == espalier_nodes_.end() ||
      known->second->meta.uid != object.meta.uid) {
    return;
  }
  espalier_nodes_.erase(known);
  retries_.erase(object.meta.name);
  report_owners_.erase(object.meta.name);
}

void Reconciler::BeginTerm(base::Instant now, std::vector<EspalierNode> live,
                           const std::vector<kube::ObjectMeta>& reports) {
  for (EspalierNode& object : live) {
    Learn(std::make_shared<const EspalierNode>(std::move(object)));
  }
  report_owners_.clear();
  for (const kube::ObjectMeta& report : reports) {
    for (const kube::OwnerReference& owner : report.owner_references) {
      if (owner.kind == "Node") report_owners_[report.name] = owner.uid;
    }
  }
  leading_ = true;
  in_flight_ = false;
  retries_.clear();
  orphans_.clear();
  node_is_gone_.clear();
  dirty_ = true;
  plan_at_ = now;
  next_timeout_ = now;
}

void Reconciler::EndTerm() {
  leading_ = false;
  in_flight_ = false;
  todo_.clear();
}

void Reconciler::Plan(base::Instant now, absl::Time wall) {
  dirty_ = false;
  desired_ = Verify(options_.plan, nodes_, espalier_nodes_, wall);
  todo_.clear();
  losers_.clear();
  std::map<std::string, base::Instant> orphans;
  for (const auto& [name, object] : espalier_nodes_) {
    const EspalierNode::Status& wanted = desired_.at(name);
    if (object->status.has_value() &&
        (Loses(object->status->addresses, wanted.addresses) ||
         Loses(object->status->pod_cidrs, wanted.pod_cidrs))) {
      losers_.insert(name);
    }
    if (!nodes_.contains(name)) {
      const auto since = orphans_.find(name);
      orphans[name] = since == orphans_.end() ? now : since->second;
    }
    if (NeedsWork(*object)) todo_.insert(name);
  }
  orphans_ = std::move(orphans);
  std::erase_if(node_is_gone_, [&](const std::string& name) {
    return !orphans_.contains(name);
  });
}

bool Reconciler::NeedsWork(const EspalierNode& object) const {
  const std::string& name = object.meta.name;
  const auto node = nodes_.find(name);
  if (node == nodes_.end() || !(object.status == desired_.at(name)))
    return true;
  const std::string& uid = node->second->meta.uid;
  const auto report = report_owners_.find(name);
  return !OwnedBy(object.meta, uid) || report == report_owners_.end() ||
         report->second != uid;
}

bool Reconciler::MustWait(const std::string& name) const {
  return std::any_of(losers_.begin(), losers_.end(), [&](const std::string& l) {
    if (l == name) return false;
    const auto loser = espalier_nodes_.find(l);
    return loser != espalier_nodes_.end() &&
           loser->second->status.has_value() &&
           Overlap(*loser->second->status, desired_.at(name));
  });
}

std::optional<Write> Reconciler::WriteFor(const std::string& name,
                                          base::Instant now) {
  const auto found = espalier_nodes_.find(name);
  if (found == espalier_nodes_.end()) return std::nullopt;
  const EspalierNode& object = *found->second;
  if (!(object.status == desired_.at(name)) && !MustWait(name)) {
    Write write{.kind = Write::Kind::kStatus, .name = name};
    write.node.meta.name = name;
    write.node.meta.uid = object.meta.uid;
    write.node.meta.resource_version = object.meta.resource_version;
    write.node.status = desired_.at(name);
    return write;
  }
  const auto node = nodes_.find(name);
  if (node == nodes_.end()) return OrphanWrite(object, now);
  const kube::OwnerReference owner = OwnerOf(*node->second);
  if (!OwnedBy(object.meta, owner.uid)) {
    return Write{.kind = Write::Kind::kOwner, .name = name, .owner = owner};
  }
  const auto report = report_owners_.find(name);
  if (report == report_owners_.end() || report->second != owner.uid) {
    return Write{
        .kind = Write::Kind::kReportOwner, .name = name, .owner = owner};
  }
  return std::nullopt;
}

std::optional<Write> Reconciler::OrphanWrite(const EspalierNode& object,
                                             base::Instant now) {
  const std::string& name = object.meta.name;
  const auto since = orphans_.find(name);
  if (since == orphans_.end()) return std::nullopt;  // the next plan has it
  const base::Instant due = since->second + options_.orphan_grace;
  if (now < due) {
    Postpone(due);
    return std::nullopt;
  }
  // A list can be wrong; nothing is deleted on its word alone.
  if (!node_is_gone_.contains(name)) {
    return Write{.kind = Write::Kind::kFindNode, .name = name};
  }
  // The report first: once the EspalierNode is gone nobody asks for it again.
  if (report_owners_[name] != kDeleted) {
    return Write{.kind = Write::Kind::kDeleteReport, .name = name};
  }
  return Write{
      .kind = Write::Kind::kDelete, .name = name, .uid = object.meta.uid};
}

bool Reconciler::TakeToken(base::Instant now) {
  if (tokens_at_ != absl::InfinitePast()) {
    tokens_ = std::min(options_.burst,
                       tokens_ + absl::ToDoubleSeconds(now - tokens_at_) *
                                     options_.writes_per_second);
  }
  tokens_at_ = now;
  if (tokens_ >= 1) {
    tokens_ -= 1;
    return true;
  }
  Postpone(now + absl::Seconds((1 - tokens_) / options_.writes_per_second) +
           absl::Milliseconds(1));
  return false;
}

std::optional<Write> Reconciler::Next(base::Instant now, absl::Time wall) {
  next_timeout_ = absl::InfiniteFuture();
  if (!leading_ || !in_sync() || in_flight_) return std::nullopt;
  if (dirty_) {
    if (now < plan_at_) {
      Postpone(plan_at_);
    } else {
      Plan(now, wall);
    }
  }
  // Nobody gets what another must lose first. Then each in turn, so that one
  // that fails for long does not starve others.
  std::vector<std::string> round(losers_.begin(), losers_.end());
  round.insert(round.end(), todo_.upper_bound(after_), todo_.end());
  round.insert(round.end(), todo_.begin(), todo_.upper_bound(after_));
  for (const std::string& name : round) {
    const auto retry = retries_.find(name);
    if (retry != retries_.end() && now < retry->second.at) {
      Postpone(retry->second.at);
      continue;
    }
    std::optional<Write> write = WriteFor(name, now);
    if (!write.has_value()) continue;
    if (!TakeToken(now)) return std::nullopt;
    in_flight_ = true;
    after_ = name;
    return write;
  }
  return std::nullopt;
}

void Reconciler::Done(base::Instant now, const Write& write,
                      const absl::StatusOr<EspalierNode>& answer) {
  in_flight_ = false;
  next_timeout_ = now;
  const absl::Status& status = answer.status();
  const bool gone = absl::IsNotFound(status);
  const bool deletion = write.kind == Write::Kind::kDelete ||
                        write.kind == Write::Kind::kDeleteReport;
  if (write.kind == Write::Kind::kFindNode && gone) {
    node_is_gone_.insert(write.name);
    return;
  }
  if (status.ok() || (deletion && gone)) {
    ++counters_.writes;
    retries_.erase(write.name);
    switch (write.kind) {
      case Write::Kind::kStatus:
      case Write::Kind::kOwner:
        Learn(std::make_shared<const EspalierNode>(*answer));
        break;
      case Write::Kind::kReportOwner:
        report_owners_[write.name] = write.owner.uid;
        break;
      case Write::Kind::kDeleteReport:
        report_owners_[write.name] = kDeleted;
        break;
      case Write::Kind::kFindNode:
        // There is one: the informer will tell in its time.
        orphans_[write.name] = now;
        break;
      case Write::Kind::kDelete: {
        EspalierNode deleted;
        deleted.meta.name = write.name;
        deleted.meta.uid = write.uid;
        Forget(deleted);
        break;
      }
    }
    // What was written is what was planned: no new plan is needed.
    const auto object = espalier_nodes_.find(write.name);
    if (write.kind == Write::Kind::kStatus) losers_.erase(write.name);
    if (object == espalier_nodes_.end() ||
        (desired_.contains(write.name) && !NeedsWork(*object->second))) {
      todo_.erase(write.name);
    }
    return;
  }
  ++counters_.failures;
  if (absl::IsAborted(status)) ++counters_.refused_stale;
  Retry& retry = retries_[write.name];
  retry.wait = retry.wait == absl::ZeroDuration()
                   ? options_.retry_first
                   : std::min(retry.wait * 2, options_.retry_most);
  retry.at = now + retry.wait;
  base::Log(base::LogLevel::kWarning, "write failed",
            {{"node", write.name},
             {"error", status},
             {"retry_seconds", absl::ToInt64Seconds(retry.wait)}});
}

Reconciler::Tally Reconciler::tally() const {
  Tally tally{.nodes = espalier_nodes_.size()};
  for (const auto& [name, object] : espalier_nodes_) {
    if (!object->status.has_value()) continue;
    const auto is = [&](const char* type) {
      const kube::Condition* condition =
          kube::FindCondition(object->status->conditions, type);
      return condition != nullptr && condition->status == "True";
    };
    tally.verified += is(kVerified) ? 1 : 0;
    tally.conflicts += is(kConflict) ? 1 : 0;
  }
  return tally;
}

}  // namespace espalier::controller
