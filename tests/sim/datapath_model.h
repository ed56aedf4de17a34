// The SAs of a simulated node, and the rules that hold for them (DESIGN
// section 4). A packet is an SPI and a key: it is decrypted where both are
// known.
#ifndef ESPALIER_TESTS_SIM_DATAPATH_MODEL_H_
#define ESPALIER_TESTS_SIM_DATAPATH_MODEL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/ike/action.h"
#include "tests/sim/record.h"

namespace espalier::sim {

// All keys of a run. Simulated ones: kept in the open.
class KeyLedger {
 public:
  // `hitless`: SAs are only ever replaced. Where a test deletes them or lets
  // their installation fail, an end may have nothing to send on but an SA that
  // the other is not known to have.
  KeyLedger(Record* record, bool hitless)
      : record_(record), hitless_(hitless) {}

  void InboundInstalled(int node, base::Spi spi, const std::string& key);
  // When the core asks for it, since asking is what it must not do too early.
  // With nothing else to send on (`only`) the responder of an exchange may
  // send before the initiator can receive: the packets would go nowhere
  // anyway.
  void OutboundAsked(int node, base::Spi spi, const std::string& key,
                     bool own_inbound_stands, bool only);
  // Whether it was ever installed inbound, anywhere.
  bool HasInbound(const std::string& key) const;

 private:
  struct Entry {
    int inbound_node = -1, outbound_node = -1;
    base::Spi spi;
  };
  Record* const record_;
  const bool hitless_;
  std::map<std::string, Entry> entries_;
};

class DatapathModel {
 public:
  struct Sa {
    ike::PeerId peer;
    ike::ChildSaId child;
    base::Spi spi;
    base::IpAddress destination;
    std::string key;
    std::optional<uint32_t> cpu;  // RFC 9611
    int epoch = 0;                // of the core that installed it
    bool seen = false, watched = false;
    base::SaLimits limits;
    uint64_t bytes = 0, packets = 0;
    bool soft_expired = false, hard_expired = false;
  };
  // A limit in octets or packets that a packet has just reached.
  struct Limit {
    base::Direction direction;
    base::Spi spi;
    base::IpAddress destination;
    bool hard = false;
  };
  struct Packet {
    base::Spi spi;
    std::string key;
    // There was no other SA to send it on, and nobody could receive it yet.
    bool early = false;
  };

  DatapathModel(int node, KeyLedger* ledger) : node_(node), ledger_(ledger) {}

  // On the action: what must already be true.
  void Asked(const ike::InstallSa& action);
  // When the operation takes effect.
  void Install(const ike::InstallSa& action, int epoch);
  void Remove(const ike::RemoveSa& action);
  void Watch(base::Spi spi);

  // On the newest outbound SA of that CPU that is not dead, or of no CPU;
  // nullopt: there is none.
  std::optional<Packet> Send(ike::PeerId peer, uint32_t cpu,
                             std::optional<Limit>* limit);
  // Null: the packet is lost. `*first` tells whether a watch fires.
  const Sa* Receive(const Packet& packet, bool* first,
                    std::optional<Limit>* limit);

  // SAs of cores before `epoch`: what a restarted agent finds and replaces.
  bool HasOlder(ike::PeerId peer, int epoch) const;
  void RemoveOlder(ike::PeerId peer, int epoch, base::Direction direction);
  void RemoveOtherInbound(ike::PeerId peer, base::Spi keep);
  void RemoveOutbound(ike::PeerId peer);

  std::vector<const Sa*> Inbound(ike::PeerId peer) const;
  std::vector<const Sa*> Outbound(ike::PeerId peer) const;

 private:
  Sa* Choose(ike::PeerId peer, std::optional<uint32_t> cpu);
  static std::optional<Limit> Count(base::Direction direction, Sa* sa);

  const int node_;
  KeyLedger* const ledger_;
  std::map<base::Spi, Sa> inbound_;
  std::vector<Sa> outbound_;  // oldest first
};

}  // namespace espalier::sim

#endif  // ESPALIER_TESTS_SIM_DATAPATH_MODEL_H_
