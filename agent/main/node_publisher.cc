#include "agent/main/node_publisher.h"

#include <algorithm>
#include <utility>

#include "agent/base/log.h"

namespace espalier::agent {
namespace {

constexpr absl::Duration kFirstRetry = absl::Seconds(1);
constexpr absl::Duration kLastRetry = absl::Seconds(30);
// Somebody else's change is put right no sooner: the watch is behind a write.
constexpr absl::Duration kWatchLag = absl::Seconds(15);

// Whoever defaults or leaves out fields that the agent does not write has not
// changed what it says.
bool SaysTheSame(const kube::EspalierNode::Spec& a,
                 const kube::EspalierNode::Spec& b) {
  return a.public_keys == b.public_keys && a.datapath == b.datapath &&
         a.plaintext_blocks == b.plaintext_blocks;
}

}  // namespace

NodePublisher::NodePublisher(std::string name,
                             kube::EspalierNode::Spec published,
                             base::Instant now, Write write)
    : name_(std::move(name)),
      write_(std::move(write)),
      wanted_(published),
      acknowledged_(std::move(published)),
      acknowledged_at_(now) {}

void NodePublisher::Look(base::Instant now,
                         const kube::EspalierNode::Spec& wanted,
                         const kube::EspalierNode* seen) {
  wanted_ = wanted;
  if (writing_ || now < not_before_) return;
  const bool changed_by_others =
      now - acknowledged_at_ >= kWatchLag &&
      (seen == nullptr || !SaysTheSame(seen->spec, acknowledged_));
  if (acknowledged_ == wanted_ && !changed_by_others) return;
  writing_ = wanted_;
  kube::EspalierNode node;
  node.meta.name = name_;
  node.spec = wanted_;
  write_(node);
}

void NodePublisher::HandleWritten(base::Instant now,
                                  const absl::Status& status) {
  if (!writing_) return;
  if (status.ok()) {
    acknowledged_ = *std::exchange(writing_, std::nullopt);
    acknowledged_at_ = now;
    backoff_ = absl::ZeroDuration();
    problem_ = absl::OkStatus();
    return;
  }
  writing_.reset();
  if (problem_.ok()) {
    base::Log(base::LogLevel::kWarning,
              "own EspalierNode not written; trying again",
              {{"error", status}});
  }
  problem_ = status;
  backoff_ = std::clamp(2 * backoff_, kFirstRetry, kLastRetry);
  not_before_ = now + backoff_;
}

}  // namespace espalier::agent
