// What the controller must write, one write at a time, in an order in which no
// address is ever two nodes'. No IO, no clock.
#ifndef ESPALIER_AGENT_CONTROLLER_RECONCILER_H_
#define ESPALIER_AGENT_CONTROLLER_RECONCILER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/base/clock.h"
#include "agent/controller/verifier.h"
#include "agent/kube/informer.h"

namespace espalier::controller {

struct Write {
  enum class Kind {
    kStatus,       // of `node`
    kOwner,        // the EspalierNode is its Node's
    kReportOwner,  // the same of the report; creates it when there is none
    kFindNode,     // whether the API server has the Node: GET
    kDelete,       // the EspalierNode, if it still has `uid`
    kDeleteReport,
  };
  Kind kind;
  std::string name;
  std::string uid;
  // With the uid and resourceVersion that were read, so that a write from
  // stale knowledge is refused.
  kube::EspalierNode node;
  kube::OwnerReference owner;
};

struct ReconcilerOptions {
  AddressPlan plan;
  // As client-go's controllers are bounded by default, about.
  double writes_per_second = 20;
  double burst = 40;
  // Changes of so long are verified together.
  absl::Duration gather = absl::Milliseconds(100);
  // An EspalierNode whose Node is gone is deleted after so long: one with an
  // owner is by then collected by the API server, one that its agent wrote
  // once more is not.
  absl::Duration orphan_grace = absl::Minutes(10);
  absl::Duration retry_first = absl::Seconds(1);
  absl::Duration retry_most = absl::Minutes(1);
};

struct ReconcilerCounters {
  uint64_t writes = 0;
  uint64_t failures = 0;
  uint64_t refused_stale = 0;  // of those: 409
  uint64_t suspicious_relists = 0;
};

// Its owner drives it from one thread: updates of the informers go in at any
// time, writes come out only in a term of leadership.
class Reconciler {
 public:
  explicit Reconciler(ReconcilerOptions options);

  void Handle(base::Instant now, const kube::Update<kube::Node>& update);
  void Handle(base::Instant now,
              const kube::Update<kube::EspalierNode>& update);
  // Both have been listed once.
  bool in_sync() const { return nodes_in_sync_ && espalier_nodes_in_sync_; }

  // `live` was read from the API server after this one had begun to lead: the
  // informer may not yet have seen what the leader before it wrote. `reports`
  // are all reports, with their owners.
  void BeginTerm(base::Instant now, std::vector<kube::EspalierNode> live,
                 const std::vector<kube::ObjectMeta>& reports);
  void EndTerm();
  bool leading() const { return leading_; }

  // The next write, which the owner carries out and answers with Done; nullopt
  // when nothing is to be done before NextTimeout or the next update. `wall`
  // goes into conditions.
  std::optional<Write> Next(base::Instant now, absl::Time wall);
  // `answer` is the EspalierNode as the server has it then, for kStatus and
  // kOwner; for the others its value does not matter.
  void Done(base::Instant now, const Write& write,
            const absl::StatusOr<kube::EspalierNode>& answer);
  base::Instant NextTimeout() const { return next_timeout_; }

  const ReconcilerCounters& counters() const { return counters_; }
  size_t waiting() const { return todo_.size(); }
  // EspalierNodes, those whose claims all hold, and those in conflict.
  struct Tally {
    size_t nodes = 0;
    size_t verified = 0;
    size_t conflicts = 0;
  };
  Tally tally() const;

 private:
  struct Retry {
    base::Instant at;
    absl::Duration wait;
  };

  // The newest that is known of each: the informer's, or the answer to a write.
  void Learn(std::shared_ptr<const kube::EspalierNode> object);
  void Forget(const kube::EspalierNode& object);
  void Changed(base::Instant now);
  void Plan(base::Instant now, absl::Time wall);
  std::optional<Write> WriteFor(const std::string& name, base::Instant now);
  std::optional<Write> OrphanWrite(const kube::EspalierNode& object,
                                   base::Instant now);
  bool NeedsWork(const kube::EspalierNode& object) const;
  // Whether another node has in its status what this one is to get.
  bool MustWait(const std::string& name) const;
  bool TakeToken(base::Instant now);
  void Postpone(base::Instant until);

  const ReconcilerOptions options_;
  bool nodes_in_sync_ = false;
  bool espalier_nodes_in_sync_ = false;
  bool leading_ = false;
  bool in_flight_ = false;

  Nodes nodes_;
  EspalierNodes espalier_nodes_;
  // The uid of the Node that owns each report.
  std::map<std::string, std::string> report_owners_;
  std::map<std::string, base::Instant> orphans_;  // since when
  std::set<std::string> node_is_gone_;            // the API server said so

  bool dirty_ = false;
  base::Instant plan_at_ = absl::InfinitePast();
  Statuses desired_;
  std::set<std::string> todo_;
  // Those that are about to lose something of their status.
  std::set<std::string> losers_;
  std::map<std::string, Retry> retries_;
  std::string after_;  // where the last round through todo_ stopped

  double tokens_;
  base::Instant tokens_at_ = absl::InfinitePast();
  base::Instant next_timeout_ = absl::InfiniteFuture();
  ReconcilerCounters counters_;
};

}  // namespace espalier::controller

#endif  // ESPALIER_AGENT_CONTROLLER_RECONCILER_H_
