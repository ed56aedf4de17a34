// The control protocol between the agent and espalier-espd: values, and their
// octets. One frame is one datagram of a SOCK_SEQPACKET unix socket:
//
//   version u8 | type u8 | reserved u16 (0) | id u32 | body
//
// All numbers are in network order. A request carries an id of the agent's
// choice (not 0); its answer repeats it. Events carry id 0. Requests are
// carried out in the order they are sent.
//
// IKE over UDP 4500 goes through this protocol: espd alone holds that socket
// in user mode (two readers would steal each other's datagrams), hands up what
// carries the non-ESP marker as IkeDatagram and sends what SendIke asks for.
// So the socket outlives the agent, and the agent needs no descriptor of it.
#ifndef ESPALIER_AGENT_ESP_CONTROL_MESSAGES_H_
#define ESPALIER_AGENT_ESP_CONTROL_MESSAGES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/base/bytes.h"
#include "agent/base/ip_address.h"
#include "agent/base/secret_bytes.h"
#include "agent/base/security_association.h"

namespace espalier::esp::control {

inline constexpr uint8_t kVersion = 1;
// An IKE datagram of the largest UDP size fits.
inline constexpr size_t kMaxFrame = 66000;
// Lists longer than this come in several frames.
inline constexpr size_t kMaxEntriesPerFrame = 200;
inline constexpr size_t kMaxSelectors = 255;  // RFC 7296 3.13: a count octet
inline constexpr size_t kMaxPrefixes = 256;

// --- agent to espd ---

// First on every connection. With `subscribe` the connection becomes the
// agent's: it gets the events, and an earlier agent's connection is closed.
struct Hello {
  bool subscribe = false;
};
// Answered by Reply: AlreadyExists when that SA, or its key under another
// name, was ever installed since espd started.
struct InstallSa {
  base::EspSa sa;
};
struct RemoveSa {  // Reply: OK when it is already gone
  base::SaKey key;
};
struct WatchInbound {  // Reply; then one InboundSeen
  base::SaKey key;
};
struct SetPolicy {  // Reply; replaces the policy of that reqid
  base::TunnelPolicy policy;
};
struct RemovePolicy {  // Reply
  base::Reqid reqid;
};
struct ListSas {};       // SaList frames, the last with more == false
struct ListPolicies {};  // PolicyList frames, likewise
struct GetStatistics {};
// Not answered. `bytes` is an IKE message without the non-ESP marker.
struct SendIke {
  base::Endpoint local;
  base::Endpoint remote;
  base::Bytes bytes;
};
// Not answered. Sends one NAT keepalive (RFC 3948 2.3), and remembers the
// path: while no agent is connected espd goes on every 20 s, as long as it
// holds an encapsulated outbound SA towards `remote`.
struct SendKeepalive {
  base::Endpoint local;
  base::Endpoint remote;
};

// --- espd to agent ---

struct HelloReply {
  // Chosen at random by each espd process: another value than before says
  // that all SAs are gone.
  uint64_t instance = 0;
  std::string tunnel_interface;
};
struct Reply {
  absl::Status status;
};
struct SaList {
  bool more = false;
  std::vector<base::InstalledSa> sas;
};
struct PolicyList {
  bool more = false;
  std::vector<base::TunnelPolicy> policies;
};
// Names and values of espd's counters, for metrics.
struct Statistics {
  std::vector<std::pair<std::string, uint64_t>> counters;
};
struct SaExpired {  // event
  base::SaKey key;
  bool hard = false;
};
struct InboundSeen {  // event
  base::SaKey key;
};
struct Acquire {  // event: traffic for a policy that has no SA
  base::Reqid reqid;
};
struct IkeDatagram {  // event
  base::Endpoint local;
  base::Endpoint remote;
  base::Bytes bytes;  // without the non-ESP marker
};

// --- from one espd to the next (agent/esp/hand_over.h) ---

// From the next espd, in place of an agent's requests. Answered by
// HandOverBegin, UsedKeys, SetPolicy, SendKeepalive, PathMtu, AdoptSa and
// HandOverEnd frames, all with id 0, while espd does nothing else.
struct HandOver {};
// Comes with descriptors (SCM_RIGHTS): control listener, TUN, then of the
// outer sockets those whose bit is set, in the order of OuterSockets::Kind.
struct HandOverBegin {
  uint64_t instance = 0;
  std::string tunnel_interface;
  uint16_t port = 0;
  bool udp_offload = false;  // of the TUN
  uint8_t outer_sockets = 0;
  // Under which UsedKeys are named; kFingerprintKey octets.
  base::SecretBytes fingerprint_key;
};
struct UsedKeys {  // crypto::KeyFingerprint of keys, the oldest first
  std::vector<uint64_t> fingerprints;
};
struct PathMtu {  // what a router said
  base::IpAddress destination;
  uint32_t mtu = 0;
  absl::Duration remaining;  // until it is forgotten
};
// A living SA with its keys, and how far it has come.
struct AdoptSa {
  base::SaCounters counters;
  uint64_t last_sequence = 0;  // outbound
  uint64_t replay_top = 0;     // inbound
  std::vector<uint64_t> replay_words;
  absl::Duration age;
  bool soft_expired = false;
  bool watched = false;
  base::EspSa sa;
};
struct HandOverEnd {};
// From the next espd: from here on it alone uses the keys and reads the
// sockets. Not answered.
struct HandedOver {};

inline constexpr size_t kFingerprintKey = 32;
inline constexpr size_t kUsedKeysPerFrame = 8000;
inline constexpr size_t kMaxReplayWords = 2048;

using Message =
    std::variant<Hello, InstallSa, RemoveSa, WatchInbound, SetPolicy,
                 RemovePolicy, ListSas, ListPolicies, GetStatistics, SendIke,
                 SendKeepalive, HelloReply, Reply, SaList, PolicyList,
                 Statistics, SaExpired, InboundSeen, Acquire, IkeDatagram,
                 HandOver, HandOverBegin, UsedKeys, PathMtu, AdoptSa,
                 HandOverEnd, HandedOver>;

struct Frame {
  uint32_t id = 0;
  Message message;
};

// The frame may hold keys, so it is a secret: wiped when it goes.
base::SecretBytes Encode(const Frame& frame);

// InvalidArgument for anything that Encode would not have written, and
// Unimplemented for another version. The caller wipes `bytes`.
absl::StatusOr<Frame> Decode(base::ByteSpan bytes);

}  // namespace espalier::esp::control

#endif  // ESPALIER_AGENT_ESP_CONTROL_MESSAGES_H_
