// The datapath that this node runs with, and what goes with it: IKE on UDP
// 4500, keepalives, readiness, counters.
#ifndef ESPALIER_AGENT_MAIN_NODE_DATAPATH_H_
#define ESPALIER_AGENT_MAIN_NODE_DATAPATH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/event_loop.h"
#include "agent/base/ip_address.h"
#include "agent/base/random.h"
#include "agent/datapath/datapath.h"
#include "agent/mesh/config/config.h"

namespace espalier::agent {

// One thread, the loop's.
class NodeDatapath {
 public:
  using IkeHandler =
      std::function<void(const base::Endpoint& local,
                         const base::Endpoint& remote, base::ByteSpan bytes)>;
  using StatisticsDone = std::function<void(
      absl::StatusOr<std::vector<std::pair<std::string, uint64_t>>>)>;

  // As `config` says; `auto` asks the kernel of the calling thread's network
  // namespace. `loop` and `random` outlive the datapath. Opens nothing yet.
  static absl::StatusOr<std::unique_ptr<NodeDatapath>> Choose(
      base::EventLoop* loop, base::RandomSource* random,
      const mesh::Config& config);
  virtual ~NodeDatapath() = default;

  virtual mesh::DatapathDriver kind() const = 0;  // never kAuto
  virtual datapath::Datapath* driver() = 0;
  // RFC 9611: for so many CPUs it takes SAs of their own.
  virtual uint32_t per_cpu_sas() const { return 0; }

  // After the driver's events are set. `handler` gets what comes in on port
  // 4500, without the non-ESP marker.
  virtual absl::Status Start(IkeHandler handler) = 0;
  // Datagrams may be lost; what went wrong is logged.
  virtual void SendIke(const base::Endpoint& local,
                       const base::Endpoint& remote, base::ByteSpan bytes) = 0;
  virtual void SendKeepalive(const base::Endpoint& local,
                             const base::Endpoint& remote) = 0;
  // OK, or why pods cannot be attached.
  virtual absl::Status Ready() const = 0;
  virtual void GetStatistics(StatisticsDone done) = 0;
};

// The lines of /proc/net/xfrm_stat: a name and a number; others are left out.
std::vector<std::pair<std::string, uint64_t>> ParseXfrmStatistics(
    const std::string& text);

}  // namespace espalier::agent

#endif  // ESPALIER_AGENT_MAIN_NODE_DATAPATH_H_
