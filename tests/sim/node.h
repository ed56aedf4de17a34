// One simulated node: a core, its crypto workers, its datapath, and what the
// mesh does around a restart.
#ifndef ESPALIER_TESTS_SIM_NODE_H_
#define ESPALIER_TESTS_SIM_NODE_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/ike/core.h"
#include "tests/sim/datapath_model.h"
#include "tests/sim/network.h"
#include "tests/sim/record.h"
#include "tests/sim/scheduler.h"

namespace espalier::sim {

// Deliberate breaches, one for each invariant: they show that its check can
// fail.
enum class Sabotage {
  kNone,
  kInstallTwice,     // the outbound SA is asked for again
  kConfirmEarly,     // "installed" is said seconds before it is so
  kDropOldInbound,   // no draining: a new SA displaces the old at once
  kDropOldOutbound,  // before the new one stands there is none to send on
  kIgnoreRemove,     // nothing is ever removed
  kRepeatDatagrams,  // every datagram is sent fifty times
  kDeafAfterwards,   // once the faults are over, IKE is not heard
  kTellWrongHalfOpenLimit,
};

struct NodeFaults {
  absl::Duration max_crypto_delay = absl::Milliseconds(1);
  double crypto_failure = 0;
  absl::Duration max_datapath_delay = absl::Milliseconds(1);
  double datapath_failure = 0;
};

class Node {
 public:
  // Makes the configuration of one core life and its peers.
  using MakeConfig = std::function<ike::CoreConfig()>;
  using MakePeer = std::function<ike::PeerConfig(int other)>;
  // Sends a packet's worth of traffic is the world's; it hears of arrivals.
  struct Surroundings {
    Scheduler* scheduler;
    Chance* chance;
    Network* network;
    Record* record;
    KeyLedger* ledger;
  };

  Node(int index, const base::IpAddress& address, const Surroundings& around,
       MakeConfig make_config, MakePeer make_peer);

  int index() const { return index_; }
  const base::IpAddress& address() const { return address_; }
  static ike::PeerId PeerIdOf(int index) {
    return ike::PeerId(static_cast<uint32_t>(index + 1));
  }

  // --- the agent ---
  void Start();
  void Crash();  // no Delete, no memory; the datapath goes on
  bool running() const { return core_ != nullptr; }
  // Knows `other` from now on, over restarts, and wants an IKE_SA with it.
  void Connect(int other);
  void RekeyIkeSa(int other);
  void RekeyChildSa(int other);
  void Delete(int other);
  // As the mesh closes an idle tunnel on demand.
  void Close(int other);
  // `other` is configured as the world has it now; `anew`: with a new IKE_SA.
  void Reconfigure(int other, bool anew);
  const ike::Core* core() const { return core_.get(); }

  // --- packets ---
  std::optional<DatapathModel::Packet> SendPacket(int other, uint32_t cpu);
  // False: lost here.
  bool ReceivePacket(int from, const DatapathModel::Packet& packet);
  const DatapathModel& datapath() const { return datapath_; }

  void set_faults(const NodeFaults& faults) { faults_ = faults; }
  void set_sabotage(Sabotage sabotage) { sabotage_ = sabotage; }
  void set_deaf(bool deaf) { deaf_ = deaf; }
  void set_drain_time(absl::Duration drain) { drain_ = drain; }
  // The first packet asks for the tunnel.
  void set_on_demand(bool on_demand) { on_demand_ = on_demand; }
  // So many CPUs ask for an SA of their own.
  void set_cpus(uint32_t cpus) { cpus_ = cpus; }

 private:
  void Pump();
  void Arm();
  void Do(ike::SendDatagram action);
  void Do(ike::SendNatKeepalive action);
  void Do(ike::RunCrypto action);
  void Do(ike::InstallSa action);
  void Do(ike::RemoveSa action);
  void Do(ike::WatchInbound action);
  void Do(ike::Event action);
  void Do(ike::LogIkeKeys action);
  // Runs `what` later, unless the core is another one by then.
  void Later(absl::Duration delay, std::function<void()> what);
  void AddPeer(int other);
  // A limit in octets or packets, as the datapath reports it.
  void Report(const std::optional<DatapathModel::Limit>& limit);
  // Until the operation that is asked for now is done.
  absl::Duration DatapathDelay();
  void Trace(const std::string& text) const;
  base::Instant now() const { return around_.scheduler->now(); }

  const int index_;
  const base::IpAddress address_;
  const Surroundings around_;
  const MakeConfig make_config_;
  const MakePeer make_peer_;
  NodeFaults faults_;
  Sabotage sabotage_ = Sabotage::kNone;
  bool deaf_ = false;
  absl::Duration drain_ = absl::Seconds(5);
  bool on_demand_ = false;
  uint32_t cpus_ = 0;
  std::map<int, base::Instant> acquired_;
  // When the core was last told that packets come in, by SPI.
  std::map<base::Spi, base::Instant> told_alive_;

  int epoch_ = 0;
  std::unique_ptr<SeededRandom> random_;
  std::unique_ptr<ike::Core> core_;
  std::vector<int> peers_;
  DatapathModel datapath_;
  // Removal of what an earlier core left, once asked for.
  std::map<ike::PeerId, bool> sweeping_;
  base::Instant datapath_done_ = absl::InfinitePast();
  base::Instant armed_ = absl::InfiniteFuture();
  base::Instant last_timeout_;
  int timeouts_at_once_ = 0;
};

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_NODE_H_
