// ESP Security Associations as values: what IKE negotiates, datapaths install
// and espalier-espd runs. RFC 4301 4.4.2, RFC 4303.
#ifndef ESPALIER_AGENT_BASE_SECURITY_ASSOCIATION_H_
#define ESPALIER_AGENT_BASE_SECURITY_ASSOCIATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "agent/base/ip_address.h"
#include "agent/base/secret_bytes.h"
#include "agent/base/strong_id.h"

namespace espalier::base {

// A security parameter index of ESP, host order. 0 to 255 are reserved
// (RFC 4303 2.1).
using Spi = StrongId<struct SpiTag, uint32_t>;

// Ties SAs and policies of one peer together and marks them as Espalier's
// (kOwnedReqidFirst..Last). Stable per peer across restarts.
using Reqid = StrongId<struct ReqidTag, uint32_t>;
inline constexpr uint32_t kOwnedReqidFirst = 0x45500000;
inline constexpr uint32_t kOwnedReqidLast = 0x455fffff;

// RFC 7296 3.13.1: a range of addresses, an IP protocol (0 is any) and a range
// of ports (0 to 65535 is any; 65535 to 0 is OPAQUE). Both addresses are of
// one family, first <= last.
struct TrafficSelector {
  uint8_t protocol = 0;
  uint16_t first_port = 0;
  uint16_t last_port = 65535;
  IpAddress first;
  IpAddress last;

  static TrafficSelector FromPrefix(const IpPrefix& prefix);
  bool Contains(const TrafficSelector& other) const;
  bool Contains(const IpAddress& address) const;
  // What both allow; nullopt when that is nothing. OPAQUE ports meet only
  // OPAQUE or any.
  std::optional<TrafficSelector> Intersect(const TrafficSelector& other) const;
  std::string ToString() const;
  friend bool operator==(const TrafficSelector&,
                         const TrafficSelector&) = default;
};

// Values are IANA's "IKEv2 Transform Type 1" and "Type 3" numbers.
enum class EspCipher : uint16_t {
  kAesCbc = 12,            // RFC 3602
  kAesGcm16 = 20,          // RFC 4106, 16-octet ICV
  kChaCha20Poly1305 = 28,  // RFC 7634
};
enum class EspIntegrity : uint16_t {
  kNone = 0,  // combined-mode ciphers
  kHmacSha2_256_128 = 12,
  kHmacSha2_384_192 = 13,
  kHmacSha2_512_256 = 14,
};

// Which protocol protects the packets. Values are IANA's "IKEv2 Security
// Protocol Identifiers".
enum class IpsecProtocol : uint8_t {
  kAh = 2,   // RFC 4302: authenticated, in plaintext; never for mesh peers
  kEsp = 3,  // RFC 4303
};

// RFC 4301 4.1. Transport mode protects the payload of packets between the two
// outer addresses themselves; never for mesh peers.
enum class SaMode : uint8_t { kTunnel = 0, kTransport = 1 };

struct EspSuite {
  // Of ESP; AH has none.
  EspCipher cipher = EspCipher::kAesGcm16;
  uint16_t key_bits = 256;  // without the salt
  EspIntegrity integrity = EspIntegrity::kNone;
  bool esn = true;  // RFC 4304 extended sequence numbers
  IpsecProtocol protocol = IpsecProtocol::kEsp;

  bool ah() const { return protocol == IpsecProtocol::kAh; }
  bool aead() const { return !ah() && cipher != EspCipher::kAesCbc; }
  // Octets of EspSa::encryption_key: the key, then the 4-octet salt of
  // combined-mode ciphers (RFC 4106 8.1, RFC 7634 3).
  size_t encryption_key_size() const {
    return ah() ? 0 : key_bits / 8u + (aead() ? 4 : 0);
  }
  size_t integrity_key_size() const;
  size_t iv_size() const { return ah() ? 0 : aead() ? 8 : 16; }
  size_t icv_size() const;
  // What the padding must reach a multiple of (at least 4, RFC 4303 2.4).
  size_t block_size() const { return aead() ? 4 : 16; }
  std::string ToString() const;  // "aes256gcm16-esn", "ah-hmacsha256-esn"
  friend bool operator==(const EspSuite&, const EspSuite&) = default;
};

// 0 is no limit. Soft limits ask for a rekey; at a hard limit the SA dies.
struct SaLimits {
  absl::Duration soft_time, hard_time;
  uint64_t soft_bytes = 0, hard_bytes = 0;
  uint64_t soft_packets = 0, hard_packets = 0;
};

enum class Direction : uint8_t { kInbound = 1, kOutbound = 2 };

// One direction of a CHILD_SA.
struct EspSa {
  Direction direction = Direction::kInbound;
  Spi spi;  // chosen by the receiving end
  IpAddress outer_source;
  IpAddress outer_destination;
  // Present: ESP in UDP (RFC 3948) with these ports, host order.
  struct Encapsulation {
    uint16_t source_port = 4500;
    uint16_t destination_port = 4500;
    friend bool operator==(const Encapsulation&,
                           const Encapsulation&) = default;
  };
  std::optional<Encapsulation> encapsulation;
  SaMode mode = SaMode::kTunnel;
  // RFC 9611: traffic of this CPU of ours takes this SA; nullopt is the
  // fallback SA, for every CPU that has none of its own.
  std::optional<uint32_t> cpu;
  EspSuite suite;
  SecretBytes encryption_key;     // empty for AH
  SecretBytes integrity_key;      // empty for combined-mode ciphers
  uint32_t replay_window = 4096;  // packets; inbound only
  Reqid reqid;
  // As negotiated, this node's side and the peer's. After decapsulation the
  // inner addresses must match (RFC 4301 5.2).
  std::vector<TrafficSelector> local_selectors;
  std::vector<TrafficSelector> remote_selectors;
  SaLimits limits;

  EspSa Clone() const;  // copies the keys
};

// What a datapath counts for one SA, from its start.
struct SaCounters {
  uint64_t packets = 0;
  uint64_t bytes = 0;  // of inner packets
  uint64_t replayed = 0;
  uint64_t bad_icv = 0;
  uint64_t selector_mismatch = 0;
  uint64_t send_errors = 0;
};

// What names an SA: RFC 4301 4.1 (destination, protocol ESP, SPI).
struct SaKey {
  Direction direction = Direction::kInbound;
  IpAddress outer_destination;
  Spi spi;
  std::string ToString() const;  // "out 0xc0ffee01 to 192.0.2.1"
  friend auto operator<=>(const SaKey&, const SaKey&) = default;
};

// Which inner traffic goes to which peer. Between policies of one table the
// most specific remote prefix wins. An outbound packet that meets a policy
// without an SA is held or dropped, never sent in plaintext.
struct TunnelPolicy {
  Reqid reqid;
  std::vector<IpPrefix> local;
  std::vector<IpPrefix> remote;
  // Where the tunnel goes; for the driver's templates and for on-demand.
  IpAddress outer_source;
  IpAddress outer_destination;
  // What its SAs are; beyond ESP tunnels only in the kernel datapath.
  IpsecProtocol protocol = IpsecProtocol::kEsp;
  SaMode mode = SaMode::kTunnel;
  friend bool operator==(const TunnelPolicy&, const TunnelPolicy&) = default;
};

// An SA as it stands in the datapath; keys are never read back.
struct InstalledSa {
  SaKey key;
  IpAddress outer_source;
  Reqid reqid;
  SaCounters counters;
  EspSuite suite;
  bool encapsulated = false;
  absl::Duration age;  // since it was installed
  // A hard limit was reached: it passes nothing, and waits to be removed.
  bool expired = false;
};

// Octets that ESP or AH in tunnel mode adds around an inner packet of `inner`
// octets with this suite, outer family and encapsulation: outer IP header, UDP
// header, ESP or AH header, IV, padding, trailer, ICV.
size_t EspOverhead(const EspSuite& suite, Family outer, bool udp, size_t inner);
// The largest inner packet whose ESP or AH packet fits into `link_mtu`.
size_t InnerMtu(const EspSuite& suite, Family outer, bool udp, size_t link_mtu);

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_SECURITY_ASSOCIATION_H_
