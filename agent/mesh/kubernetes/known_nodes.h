// Which EspalierNodes hold, given what the API server says of them: the rule of
// removal (DESIGN 7). Nothing is torn down because the server is away, empty or
// older than what was seen.
#ifndef ESPALIER_AGENT_MESH_KUBERNETES_KNOWN_NODES_H_
#define ESPALIER_AGENT_MESH_KUBERNETES_KNOWN_NODES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/clock.h"
#include "agent/base/ip_address.h"
#include "agent/kube/objects.h"

namespace espalier::mesh {

// Sans-IO; one thread.
class KnownNodes {
 public:
  using Node = std::shared_ptr<const kube::EspalierNode>;
  using Nodes = std::map<std::string, Node>;
  static constexpr absl::Duration kRemoveAfter = absl::Seconds(30);

  // What an earlier agent knew. Before anything else.
  void Restore(std::vector<Node> nodes);

  // A complete list. One that loses more than a quarter of what is held (who
  // is replaced in its pod CIDRs is not lost), or is of an older state than one
  // seen, changes nothing and raises the alarm, until the server says something
  // better.
  void HandleRelist(base::Instant now, const std::vector<Node>& nodes,
                    const std::string& resource_version);
  // New or changed. Its claim to pod CIDRs ends whoever held them and is about
  // to go.
  void HandlePut(base::Instant now, Node node);
  // Seen to be deleted.
  void HandleDeleted(base::Instant now, const std::string& name,
                     const std::string& resource_version);

  void HandleTimeout(base::Instant now);
  std::optional<base::Instant> NextTimeout() const;

  // Those that hold.
  Nodes nodes() const;
  // Null when there is none of that name.
  const kube::EspalierNode* Find(const std::string& name) const;
  // The same of what the server says now, believed or not: what it lacks has to
  // be written again.
  const kube::EspalierNode* Told(const std::string& name) const;
  // Counts changes of nodes().
  uint64_t revision() const { return revision_; }
  // Why what the server says is not believed; empty: it is.
  const std::string& alarm() const { return alarm_; }

 private:
  struct Held {
    Node node;
    std::optional<base::Instant> remove_at;
  };

  void Judge(base::Instant now);
  std::set<base::IpPrefix> ToldCidrs() const;
  void Take(base::Instant now, const Node& node);
  void EndClaimed(const kube::EspalierNode& node);
  bool IsOlder(const std::string& resource_version) const;
  void Saw(const std::string& resource_version);

  std::map<std::string, Held> held_;
  // What the server says now, believed or not.
  Nodes told_;
  std::string told_version_;
  std::string highest_;
  bool older_ = false;
  std::string alarm_;
  uint64_t revision_ = 0;
};

// The nodes of `before` that have lost a key since, or are gone.
std::set<std::string> LostKeys(const KnownNodes::Nodes& before,
                               const KnownNodes::Nodes& now);

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_KUBERNETES_KNOWN_NODES_H_
