// N nodes on one network in virtual time, traffic between them, and what must
// be true when the faults are over.
#ifndef ESPALIER_TESTS_SIM_WORLD_H_
#define ESPALIER_TESTS_SIM_WORLD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/ike/config.h"
#include "tests/sim/network.h"
#include "tests/sim/node.h"
#include "tests/sim/record.h"
#include "tests/sim/scheduler.h"

namespace espalier::sim {

struct WorldOptions {
  uint64_t seed = 1;
  int nodes = 2;
  // Ed25519 raw public keys instead of a PSK.
  bool public_keys = false;
  // Both ends of a pair begin, not just the lower identity.
  bool both_initiate = false;
  // Node 0 is seen through a NAT, and so is the end that begins.
  bool nat = false;
  // SAs are only ever replaced: no packet may be lost, a pair that has begun to
  // send always has an SA for it, and nothing is sent on one that the peer is
  // not known to have. Not where the test deletes SAs
  // on purpose, or lets their installation fail.
  bool hitless = true;
  // Tunnels come with the first packet.
  bool on_demand = false;
  // RFC 9611: so many CPUs send, each on an SA of its own where it has one.
  uint32_t cpus = 0;
  absl::Duration packet_interval = absl::Milliseconds(50);
  // From one node to another; fragments are datagrams, too.
  int max_datagrams_per_second = 40;
  ike::CoreConfig core;
  NetworkFaults network_faults;
  NodeFaults node_faults;
  Sabotage sabotage = Sabotage::kNone;
  bool trace = false;
};

// Times short enough that a run of minutes sees everything.
ike::CoreConfig QuickCore();

class World {
 public:
  explicit World(const WorldOptions& options);

  // All nodes know all others and start, at random times within `spread`.
  void StartAll(absl::Duration spread = absl::ZeroDuration());
  void RunFor(absl::Duration time);
  // Ends all faults, restarts what is down, gives the pairs `time` to agree
  // and checks every invariant about the end.
  void Settle(absl::Duration time = absl::Seconds(90));

  // What a configuration may change while the agent runs.
  struct Change {
    bool narrow = false;  // half of each pod network
    bool force_encapsulation = false;
    bool other_cipher_first = false;
  };
  // `index` is told it about `other`, with a new IKE_SA or without.
  void Reconfigure(int index, int other, const Change& change, bool anew);
  const Change& ChangeOf(int index, int other) {
    return changes_[{index, other}];
  }

  // Does `what` at a random time within `span` from now.
  void Sometime(absl::Duration span, std::function<void()> what);

  Node& node(int index) { return *nodes_[static_cast<size_t>(index)]; }
  int size() const { return static_cast<int>(nodes_.size()); }
  base::IpAddress AddressOf(int index) const;
  Network& network() { return network_; }
  Scheduler& scheduler() { return scheduler_; }
  Chance& chance() { return chance_; }
  Record& record() { return record_; }
  uint64_t packets_sent() const { return packets_sent_; }
  uint64_t packets_received() const { return packets_received_; }
  // Sent by a first SA's responder before the initiator had it.
  uint64_t packets_early() const { return packets_early_; }
  // Empty: the pair has one IKE_SA and one CHILD_SA, the same at both ends.
  std::string Disagreement(int a, int b);
  // Pairs for which that is so.
  int Agreed();

 private:
  ike::CoreConfig ConfigOf(int index) const;
  ike::PeerConfig PeerOf(int index, int other) const;
  // CHILD_SAs with `other` that do not drain, by their SPIs; 0: no CPU's own.
  std::map<std::pair<base::Spi, base::Spi>, bool> ChildrenOf(int index,
                                                             int other);
  size_t CountChildren(int index, int other) {
    return std::max<size_t>(1, ChildrenOf(index, other).size());
  }
  // Some node has more SAs than those of its CHILD_SAs.
  bool Draining();
  void SendPackets();
  void SendPacket(int from, int to);
  void CheckDatapath(int a, int b);
  void CheckHalfOpen();

  const WorldOptions options_;
  Scheduler scheduler_;
  Chance chance_;
  Record record_;
  Network network_;
  KeyLedger ledger_;
  std::vector<std::unique_ptr<Node>> nodes_;
  bool started_ = false;
  uint64_t packets_sent_ = 0, packets_received_ = 0, packets_early_ = 0;
  std::map<std::pair<int, int>, base::Instant> last_arrival_;
  // Those that have sent.
  std::set<std::pair<int, int>> sent_;
  std::map<std::pair<int, int>, Change> changes_;
};

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_WORLD_H_
