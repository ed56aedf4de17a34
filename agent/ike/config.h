// What the owner tells the core about this node and its peers, and what the
// core shows of itself.
#ifndef ESPALIER_AGENT_IKE_CONFIG_H_
#define ESPALIER_AGENT_IKE_CONFIG_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/ip_address.h"
#include "agent/base/secret_bytes.h"
#include "agent/base/security_association.h"
#include "agent/crypto/algorithms.h"
#include "agent/ike/action.h"

namespace espalier::ike {

// RFC 7296 3.5. Compared octet by octet.
struct Identity {
  enum class Type : uint8_t {
    kIpv4 = 1,
    kFqdn = 2,
    kRfc822 = 3,
    kIpv6 = 5,
    kDerAsn1Dn = 9,
    kKeyId = 11,
  };
  Type type = Type::kFqdn;
  base::Bytes data;

  static Identity Fqdn(const std::string& name);
  static Identity Address(const base::IpAddress& address);
  std::string ToString() const;
  friend auto operator<=>(const Identity&, const Identity&) = default;
};

// One proposal for the IKE_SA, most preferred first in each list. Combined
// with an AEAD cipher, `integrity` is kNone.
struct IkeProposal {
  crypto::Cipher cipher = crypto::Cipher::kAesGcm16;
  uint16_t key_bits = 256;
  crypto::Integrity integrity = crypto::Integrity::kNone;
  std::vector<crypto::Prf> prfs = {crypto::Prf::kHmacSha2_384};
  std::vector<crypto::Group> groups = {crypto::Group::kX25519};
};

// One proposal for CHILD_SAs. `groups`: for PFS on rekeys and additional
// children, empty for none. `esn`: both are offered when true, ESN first.
struct ChildProposal {
  base::EspCipher cipher = base::EspCipher::kAesGcm16;
  uint16_t key_bits = 256;
  base::EspIntegrity integrity = base::EspIntegrity::kNone;
  std::vector<crypto::Group> groups = {crypto::Group::kX25519};
  bool esn = true;
  // AH (RFC 4302) has no cipher: `cipher` and `key_bits` are not looked at. All
  // proposals of a peer are for one protocol. Never for mesh peers.
  base::IpsecProtocol protocol = base::IpsecProtocol::kEsp;
};

struct PskAuth {
  base::SecretBytes secret;
};
// RFC 7670 raw public keys with RFC 7427 signatures. More than one peer key:
// rotation. Keys are DER SubjectPublicKeyInfo, parsed by crypto::.
struct PublicKeyAuth {
  std::vector<std::shared_ptr<const crypto::PublicKey>> peer_keys;
};

struct PeerConfig {
  PeerId id;
  std::string name;                        // for logs
  Identity identity;                       // of the peer
  std::optional<Identity> local_identity;  // else CoreConfig::identity
  base::Endpoint remote;                   // where to initiate to; port 500
  base::IpAddress local;                   // source of our IKE messages to it
  std::variant<PskAuth, PublicKeyAuth> auth;
  std::vector<IkeProposal> ike_proposals = {IkeProposal{}};
  std::vector<ChildProposal> child_proposals = {ChildProposal{}};
  std::vector<base::TrafficSelector> local_selectors;
  std::vector<base::TrafficSelector> remote_selectors;
  base::Reqid reqid;
  // ESP in UDP even without a NAT (the fallback for networks that drop
  // protocol 50, and the user datapath's fast path).
  bool force_encapsulation = false;
  // True for the end that begins: the lower identity of a pair (DESIGN 3). The
  // other end begins after `grace` without an IKE_SA.
  bool initiate = true;
  absl::Duration grace = absl::Seconds(10);
  // Establish is for one tunnel, begun at once by either end: after a Delete,
  // whoever sent it, there is none until the next Establish. A peer that does
  // not answer is tried as long as CHILD_SAs of the lost IKE_SA stand, else a
  // few times.
  bool on_demand = false;
  // Never begun with by this end, not even in place of a lost tunnel on demand.
  bool passive = false;
  // RFC 9611: this many CPUs, 0 to max_cpu_sas - 1, may get a CHILD_SA of their
  // own beside the fallback one that all others use. 0: none.
  uint32_t max_cpu_sas = 0;
  // CHILD_SAs are in transport mode, between `local` and `remote` themselves,
  // or not at all (RFC 7296 1.3.1). Never for mesh peers.
  bool transport_mode = false;
};

// Soft lifetimes are jittered downwards by up to a tenth, so that a mesh does
// not rekey in one instant.
struct CoreConfig {
  Identity identity;
  // For PublicKeyAuth peers; null when this node has none.
  std::shared_ptr<const crypto::PrivateKey> private_key;
  absl::Duration ike_soft_lifetime = absl::Hours(4);
  absl::Duration ike_hard_lifetime = absl::Hours(5);
  base::SaLimits child_limits = {.soft_time = absl::Hours(1),
                                 .hard_time = absl::Minutes(80)};
  uint32_t replay_window = 4096;
  // The old inbound SA stays this long after a rekey (packets under way).
  absl::Duration drain_time = absl::Seconds(5);
  absl::Duration liveness_interval = absl::Seconds(30);
  absl::Duration nat_keepalive_interval = absl::Seconds(20);  // RFC 3948 4
  // Retransmission (RFC 7296 2.1, 2.4): first after `base`, then doubled up to
  // `max`, `tries` in all before the peer counts as gone.
  absl::Duration retransmit_base = absl::Milliseconds(500);
  absl::Duration retransmit_max = absl::Seconds(15);
  int retransmit_tries = 8;
  absl::Duration half_open_timeout = absl::Seconds(30);
  // Between attempts towards a peer that does not answer or refuses: doubled
  // up to `max`, each jittered by a quarter.
  absl::Duration retry_base = absl::Seconds(1);
  absl::Duration retry_max = absl::Seconds(60);
  // RFC 7296 2.2: an IKE_SA that would need a higher one for its next request
  // is closed.
  uint32_t last_message_id = UINT32_MAX - 1;
  // RFC 7296 2.6: from so many half-open IKE_SAs on, a COOKIE is asked for.
  size_t cookie_threshold = 64;
  size_t max_half_open = 4096;
  // RFC 7383: largest IKE datagram without fragmenting, IP and UDP excluded.
  size_t fragment_size = 1200;
  bool key_log = false;
};

// --- what Core shows ---

struct ChildSaInfo {
  ChildSaId id;
  base::Spi inbound_spi, outbound_spi;
  base::EspSuite suite;
  bool encapsulated = false;
  base::SaMode mode = base::SaMode::kTunnel;
  std::optional<uint32_t> cpu;  // nullopt: the fallback SA
  base::Instant established;
  std::optional<base::Instant> rekey_at;
  std::vector<base::TrafficSelector> local_selectors, remote_selectors;
  std::string state;  // "installing", "installed", "rekeying", "draining"
};

struct IkeSaInfo {
  IkeSaId id;
  PeerId peer;
  uint64_t initiator_spi = 0, responder_spi = 0;
  bool initiator = false;
  std::string state;  // "init", "auth", "established", "rekeying", "deleting"
  Path path;
  bool nat_local = false, nat_remote = false;
  crypto::Cipher cipher{};
  uint16_t key_bits = 0;
  crypto::Prf prf{};
  crypto::Group group{};
  base::Instant established;
  std::optional<base::Instant> rekey_at;
  std::vector<ChildSaInfo> children;
};

struct CoreCounters {
  uint64_t datagrams_in = 0, datagrams_out = 0;
  uint64_t malformed = 0;      // dropped: header or payloads do not parse
  uint64_t bad_integrity = 0;  // dropped: the AEAD or ICV did not verify
  uint64_t unknown_spi = 0;
  uint64_t retransmissions = 0;
  uint64_t duplicate_requests = 0;  // answered out of the response cache
  uint64_t cookies_sent = 0;
  uint64_t half_open = 0;  // now
  uint64_t ike_sas_established = 0, child_sas_established = 0;
  uint64_t authentication_failures = 0;
};

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_CONFIG_H_
