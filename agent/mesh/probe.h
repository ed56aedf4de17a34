// The probe in each tunnel: "up" means that packets pass, not that IKE
// answered (DESIGN 4).
//
// Now and then each node sends a small UDP datagram from the address of its
// tunnel interface to the peer's, in each family that both have, and the
// peer's agent sends it back. It carries no key and no MAC of its own: the
// ProbeLink only passes what came out of the tunnel's interface, the datapath
// lets into that only what ESP authenticated and the SA's selectors allow
// (RFC 4301 5.2), and here the source must be a known peer's tunnel address.
#ifndef ESPALIER_AGENT_MESH_PROBE_H_
#define ESPALIER_AGENT_MESH_PROBE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/base/bytes.h"
#include "agent/base/clock.h"
#include "agent/base/event_loop.h"
#include "agent/base/ip_address.h"
#include "agent/base/random.h"
#include "agent/ike/action.h"

namespace espalier::mesh {

inline constexpr uint16_t kProbePort = 9470;

// "ESPP", a version, the kind, two octets of flags (bit 0: node_traffic, the
// others 0), the nonce. A reply is as long as its request, so nothing is
// amplified.
struct ProbeMessage {
  enum class Kind : uint8_t { kRequest = 1, kReply = 2 };
  Kind kind = Kind::kRequest;
  uint64_t nonce = 0;
  // What the sender's node itself sends to the receiver's takes the tunnel.
  bool node_traffic = false;
  friend bool operator==(const ProbeMessage&, const ProbeMessage&) = default;
};
base::Bytes EncodeProbe(const ProbeMessage& message);
// nullopt for anything that EncodeProbe would not have written.
std::optional<ProbeMessage> DecodeProbe(base::ByteSpan bytes);

// At most one of each family: the address of the tunnel's interface of the
// node with these pod CIDRs, whatever order they come in. IPAM never hands it
// out.
std::vector<base::IpAddress> TunnelAddresses(
    const std::vector<base::IpPrefix>& pod_cidrs);

// Carries datagrams of kProbePort into the tunnel's interface, never past it.
class ProbeLink {
 public:
  virtual ~ProbeLink() = default;
  // This node's tunnel addresses; replaces those before.
  virtual void SetLocal(const std::vector<base::IpAddress>& addresses) = 0;
  // A datagram that cannot be sent is lost; the status says why.
  virtual absl::Status Send(const base::IpAddress& local,
                            const base::IpAddress& remote,
                            base::ByteSpan bytes) = 0;
};

enum class ProbeVerdict : uint8_t {
  kOff,      // nothing to probe, or not wanted
  kWaiting,  // no answer yet, and no verdict
  kPassing,
  kFailing,
};
const char* ProbeVerdictName(ProbeVerdict verdict);  // "off", "waiting", ...

struct ProberOptions {
  absl::Duration interval = absl::Seconds(15);
  // The first wait for an answer; doubled up to `slowest_try`.
  absl::Duration first_try = absl::Milliseconds(200);
  absl::Duration slowest_try = absl::Seconds(1);
  // So many in a row without an answer: packets do not pass.
  int tries = 5;
  // From then on.
  absl::Duration failing_interval = absl::Seconds(2);
  // Requests of one peer and family that are answered.
  double echoes_per_second = 10;
  double echo_burst = 20;
};

struct ProbeStatus {
  ProbeVerdict verdict = ProbeVerdict::kOff;
  std::string reason;  // for people, while failing
  std::optional<base::Instant> last_answer;
  absl::Duration round_trip;  // of that answer
  bool by_node = false;       // it came from the node, its agent is away
  uint64_t sent = 0, answered = 0;
  // Probe packets of every kind in the tunnel, for whoever counts the others.
  uint64_t packets_in = 0, packets_out = 0;
  // What the peer's agent said of its node's own traffic last.
  bool node_traffic = false;
  friend bool operator==(const ProbeStatus&, const ProbeStatus&) = default;
};

// On the loop's thread.
class Prober {
 public:
  using Options = ProberOptions;
  // All outlive the prober; a null `link` turns all probes off. `changed` is
  // called when a peer's verdict, or what it says of itself, has changed, not
  // inside a call of the owner.
  Prober(base::EventLoop* loop, base::Clock* clock, base::RandomSource* random,
         ProbeLink* link, std::function<void(ike::PeerId)> changed,
         Options options = Options());
  ~Prober();
  Prober(const Prober&) = delete;
  Prober& operator=(const Prober&) = delete;

  void SetLocal(const std::vector<base::IpAddress>& addresses);
  // What each probe says of this node's own traffic.
  void SetNodeTraffic(bool tunnelled) { node_traffic_ = tunnelled; }
  // The peer's tunnel addresses; none: no probes, and what it sends is not
  // answered. A change of them begins anew.
  void SetPeer(ike::PeerId peer, const std::vector<base::IpAddress>& remotes);
  void RemovePeer(ike::PeerId peer);
  // An SA each way is there: probes at once. Keeps the verdict of a tunnel
  // that runs (a rekey).
  void Start(ike::PeerId peer);
  // There is none: no verdict.
  void Stop(ike::PeerId peer);
  void HandleDatagram(const base::IpAddress& local,
                      const base::IpAddress& remote, base::ByteSpan bytes);

  // A request came back as ICMP's "port unreachable" of the peer's node: it
  // passed both ways, while the peer's agent is away. An agent's restart is no
  // fault of its tunnels.
  void HandleUnreachable(const base::IpAddress& local,
                         const base::IpAddress& remote, base::ByteSpan bytes);

  ProbeStatus Status(ike::PeerId peer) const;
  ProbeVerdict Verdict(ike::PeerId peer) const;
  // Datagrams that no peer of ours sent, that were none, or too many.
  uint64_t dropped() const { return dropped_; }

 private:
  struct Way;
  struct Target;

  void Round(Target* target);
  void EndRound(Target* target);
  void Schedule(Target* target, absl::Duration delay, bool end_of_round);
  void Judge(Target* target, ProbeVerdict verdict);
  void NoteNodeTraffic(Target* target, bool tunnelled);
  absl::Duration Jittered(absl::Duration duration);
  void HandleReply(Target* target, Way* way, uint64_t nonce, bool by_node);
  struct Received;
  // Decodes and counts; nullopt, counted as dropped, for what no peer of ours
  // sent and what is no probe.
  std::optional<Received> Receive(const base::IpAddress& local,
                                  const base::IpAddress& remote,
                                  base::ByteSpan bytes);
  // Null for what no peer of ours sent.
  std::pair<Target*, Way*> Find(const base::IpAddress& local,
                                const base::IpAddress& remote);

  base::EventLoop* loop_;
  base::Clock* clock_;
  base::RandomSource* random_;
  ProbeLink* link_;
  std::function<void(ike::PeerId)> changed_;
  const Options options_;
  bool node_traffic_ = false;
  std::vector<base::IpAddress> local_;
  std::map<ike::PeerId, std::unique_ptr<Target>> targets_;
  std::map<base::IpAddress, Target*> by_remote_;
  uint64_t dropped_ = 0;
};

}  // namespace espalier::mesh

#endif  // ESPALIER_AGENT_MESH_PROBE_H_
