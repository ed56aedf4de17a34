// Cores joined by hand: a wire that a test can cut, a datapath in memory that
// a test can make fail, and a clock that only the test moves.
#ifndef ESPALIER_TESTS_UNIT_IKE_LAB_H_
#define ESPALIER_TESTS_UNIT_IKE_LAB_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/crypto/job.h"
#include "agent/crypto/keys.h"
#include "agent/ike/core.h"
#include "agent/wire/message.h"

namespace espalier::ike::testing {

// The same octets in every run.
class TestRandom : public base::RandomSource {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed * 2654435761u + 1) {}
  void Fill(base::MutableByteSpan out) override;

 private:
  uint64_t state_;
};

class Node {
 public:
  Node(const std::string& name, const std::string& address, uint64_t seed,
       CoreConfig config);

  struct InstalledSa {
    ChildSaId child;
    base::EspSa sa;
    uint64_t order = 0;
  };
  using SaKey = std::pair<base::Direction, base::Spi>;

  const std::string name;
  const base::IpAddress address;
  TestRandom random;
  Core core;
  std::map<SaKey, InstalledSa> sas;
  std::set<base::Spi> watched;
  std::vector<Event> events;
  std::vector<base::Bytes> sent;
  std::vector<std::string> datapath_log;  // "install in", "remove out", ...
  std::vector<LogIkeKeys> keys;
  int keepalives = 0;
  // Of each: true lets it pass, false answers with a failure; unset: passes.
  std::function<bool(const InstallSa&)> allow_install;
  std::function<bool(const crypto::Job&)> allow_job;
  bool hold_datapath = false;  // operations wait in held_ops
  std::vector<InstallSa> held_ops;
  bool hold_jobs = false;
  std::vector<RunCrypto> held_jobs;

  int Count(Event::Kind kind) const;
  // Outbound SAs there are, and the newest: what traffic takes.
  size_t CountSas(base::Direction direction) const;
  const InstalledSa* NewestOutbound() const;
  // Live ones: without "deleting", "replaced", "dead".
  std::vector<IkeSaInfo> Established() const;
};

class Lab {
 public:
  Lab();

  // Addresses 192.0.2.N; identities are the names.
  Node& Add(const std::string& name, int last_octet, CoreConfig config = {});
  // Peers with a shared key: each other's networks are 10.N.0.0/16.
  static PeerConfig PskPeer(const Node& self, const Node& peer,
                            const std::string& secret = "secret");
  // Introduces two nodes; the lower name initiates.
  void Introduce(Node& a, Node& b, const std::string& secret = "secret");

  // Delivers and runs everything that is due, then lets time pass.
  void Run(absl::Duration duration = absl::ZeroDuration());
  // Runs until nothing is left to do at this instant.
  void Drain();
  base::Instant now() const { return now_; }

  // One packet from a to b through the newest outbound SA: whether it arrives
  // (an inbound SA of that SPI and key is there). Reports "seen".
  bool Pass(Node& a, Node& b);
  bool PassBoth(Node& a, Node& b) { return Pass(a, b) && Pass(b, a); }

  // A datagram as if it came from `from`.
  void Inject(Node& to, const Path& path, const base::Bytes& bytes);

  // Decides about each datagram; may change it. False drops it.
  std::function<bool(Node& from, Node& to, Path& path, base::Bytes& bytes)>
      filter;
  // Datagrams are kept for Release() in place of being delivered.
  bool hold_wire = false;
  struct InFlight {
    Node* from;
    Path path;
    base::Bytes bytes;
  };
  std::deque<InFlight> wire;
  void DeliverNext();  // the oldest of `wire`

 private:
  void Perform(Node& node, Action action);
  bool PollAll();
  Node* ByAddress(const base::IpAddress& address);

  base::Instant now_;
  uint64_t installs_ = 0;
  std::vector<std::unique_ptr<Node>> nodes_;
};

wire::ExchangeType ExchangeOf(const base::Bytes& datagram);
bool IsResponse(const base::Bytes& datagram);

}  // namespace espalier::ike::testing

#endif  // ESPALIER_TESTS_UNIT_IKE_LAB_H_
