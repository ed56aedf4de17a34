// What keeps plaintext of required pods off the wire (DESIGN 5). Two
// implementations over one DesiredGuard, BpfGuard and NftablesGuard, of which
// each alone must hold.
#ifndef ESPALIER_AGENT_GUARD_GUARD_H_
#define ESPALIER_AGENT_GUARD_GUARD_H_

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/base/ip_address.h"
#include "agent/base/mode.h"

namespace espalier::guard {

// One attached pod of this node. What its mode is made of (namespace,
// annotation, cluster default) is the caller's; a mode not known yet is
// kRequired.
struct GuardedPod {
  std::string host_interface;              // the host's end of its pair
  std::vector<base::IpAddress> addresses;  // at most one a family
  std::array<uint8_t, 6> mac{};            // of the pod's end
  base::Mode mode = base::Mode::kRequired;
  bool outside_denied = false;  // espalier.dev/outside: deny
  bool outside_in = false;      // espalier.dev/outside-in: allow
  std::string name;             // "namespace/pod", for people
  friend bool operator==(const GuardedPod&, const GuardedPod&) = default;
};

// Addresses that are inside, and who besides ESP may reach them. Of blocks
// that overlap the longest prefix alone decides, so a peer's plaintext block
// is a block of its own inside the peer's pod CIDR.
struct InsideBlock {
  base::IpPrefix prefix;
  bool pods = false;  // of pods; else of nodes
  // Who may send there in plaintext: this node's disabled pods, its preferred
  // ones, and the node itself with what it routes for others. Required pods
  // never.
  bool plaintext_from_disabled = false;
  bool plaintext_from_preferred = false;
  bool plaintext_from_node = false;
  friend auto operator<=>(const InsideBlock&, const InsideBlock&) = default;

  // The cluster's pod CIDRs, and every agent's own: ESP or drop for all.
  static InsideBlock Pods(const base::IpPrefix& prefix);
  // A block that a peer published: for senders that are disabled.
  static InsideBlock PlaintextPods(const base::IpPrefix& prefix);
  // Pods of a node without an agent: preferred reaches them in plaintext.
  static InsideBlock PodsWithoutAgent(const base::IpPrefix& prefix);
  // The address of a node with an agent: pods reach it through the tunnel,
  // the node itself as it likes (IKE, the API server, kubelet).
  static InsideBlock AgentNode(const base::IpPrefix& prefix);
  // nodeCIDRs, and nodes without an agent.
  static InsideBlock OtherNodes(const base::IpPrefix& prefix);
};

struct DesiredGuard {
  // The tunnel's interface: an xfrm interface or espalier-espd's TUN. Empty:
  // not there yet, or policy-based.
  std::string tunnel_interface;
  // The plaintext path's own device, a VXLAN; empty: there is none. It is a
  // wire like others, but what is judged there leaves by another wire in an
  // outer packet of the node's.
  std::string vxlan_interface;
  // The kernel datapath: what its interface delivers must also carry the mark
  // that encrypting inbound SAs set.
  bool tunnel_needs_mark = false;
  // Kernel policies on the plain uplink: the mark alone tells.
  bool policy_based = false;
  // base/marks.h: at least four adjacent bits.
  uint32_t mark_mask = 0x0f000000;

  std::vector<GuardedPod> pods;
  std::vector<InsideBlock> inside;
  std::vector<base::IpAddress> own_addresses;  // of this node's devices
  // What comes off a wire to this node itself with one of these sources was
  // forged, or sent by a node that ought to use its tunnel: it is dropped, but
  // for ESP, AH, IKE, and what uses one of the ports at either end. By the
  // nftables guard alone.
  std::vector<base::IpAddress> sealed_nodes;
  struct Port {
    uint8_t ip_protocol = 0;
    uint16_t port = 0;
    friend auto operator<=>(const Port&, const Port&) = default;
  };
  std::vector<Port> open_ports;

  // Whether the rest is complete. While it is false nothing that stands is
  // removed or weakened: what a restarted agent does not know yet stays as its
  // predecessor left it, and on a fresh node everything counts as inside.
  bool in_sync = false;
  friend bool operator==(const DesiredGuard&, const DesiredGuard&) = default;
};

// Packets of one pod by verdict since the guard was loaded on this node (an
// agent's restart does not reset it).
struct VerdictCount {
  std::string interface;  // of the pod; empty: of the node
  std::string pod;        // GuardedPod::name
  std::string verdict;    // key, "leak_from_pod"
  std::string text;       // for people
  bool drop = false;
  uint64_t packets = 0;
};

// One packet that was dropped. Rate-limited per pod; `suppressed` tells how
// many were left out since the last.
struct DropEvent {
  absl::Time time;
  std::string guard;  // "bpf", "nftables"
  std::string hook;   // "from_pod", "to_pod", "uplink_in", "uplink_out"
  std::string verdict;
  std::string text;
  std::string interface;        // where it was dropped
  std::string input_interface;  // where it came in; empty: made here
  std::string pod;              // the local pod it is about; may be empty
  // Unset where the packet is not IP.
  std::optional<base::IpAddress> source;
  std::optional<base::IpAddress> destination;
  uint8_t protocol = 0;
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
  uint32_t length = 0;
  uint32_t suppressed = 0;
};

// What does not stand as desired and is being retried, or what somebody took
// away and was made good (`repaired`; told once, by the callback).
struct GuardProblem {
  std::string guard;  // "bpf", "nftables"
  std::string item;   // "from_pod on esp0123456789a"
  absl::Status status;
  bool repaired = false;
};

class Guard {
 public:
  using DropCallback = std::function<void(const DropEvent&)>;
  using RepairCallback = std::function<void(const GuardProblem&)>;

  virtual ~Guard() = default;

  // Replaces the whole; applied before this returns as far as it succeeds, and
  // retried after. The loop's thread.
  virtual void SetDesired(DesiredGuard desired) = 0;

  // In ADD, before the host's end of the pod's interface comes up: the guard
  // stands on it when this returns OK, and no packet passes before. It stays
  // until a SetDesired that is in sync and was made after it lacks the pod.
  // Any thread.
  virtual absl::Status Protect(const GuardedPod& pod) = 0;

  // Any thread.
  virtual std::vector<GuardProblem> Problems() const = 0;
  virtual std::vector<VerdictCount> Counters() const = 0;

  // On the loop's thread. To be set before the first SetDesired.
  virtual void OnDrop(DropCallback callback) = 0;
  virtual void OnRepair(RepairCallback callback) = 0;
};

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_GUARD_H_
