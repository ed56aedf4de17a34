// Keeps this node's EspalierNode.spec at the API server as it is wanted.
#ifndef ESPALIER_AGENT_MAIN_NODE_PUBLISHER_H_
#define ESPALIER_AGENT_MAIN_NODE_PUBLISHER_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/kube/objects.h"

namespace espalier::agent {

inline constexpr char kFieldManager[] = "espalier-agent";

// On one thread. Sans-IO: writes go through `write`, whose answer comes back by
// HandleWritten.
class NodePublisher {
 public:
  // Peers may go by what was published before for so long (plaintext blocks).
  static constexpr absl::Duration kSettle = absl::Seconds(30);

  using Write = std::function<void(const kube::EspalierNode&)>;
  // `published`: what the start has written already.
  NodePublisher(std::string name, kube::EspalierNode::Spec published,
                base::Instant now, Write write);

  // What is wanted, and what the API server is seen to have (null: nothing).
  // Called every second or so.
  void Look(base::Instant now, const kube::EspalierNode::Spec& wanted,
            const kube::EspalierNode* seen);
  void HandleWritten(base::Instant now, const absl::Status& status);

  // Whether the API server has what was wanted by the last Look.
  bool published() const { return acknowledged_ == wanted_; }
  // And so long that all peers go by it.
  bool settled(base::Instant now) const {
    return published() && now - acknowledged_at_ >= kSettle;
  }
  // Of the last write; OK: none failed.
  const absl::Status& problem() const { return problem_; }

 private:
  const std::string name_;
  const Write write_;
  kube::EspalierNode::Spec wanted_;
  kube::EspalierNode::Spec acknowledged_;
  std::optional<kube::EspalierNode::Spec> writing_;
  base::Instant acknowledged_at_;
  base::Instant not_before_ = absl::InfinitePast();
  absl::Duration backoff_ = absl::ZeroDuration();
  absl::Status problem_;
};

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_NODE_PUBLISHER_H_
