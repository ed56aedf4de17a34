// NETLINK_XFRM (linux/xfrm.h): requests for ESP SAs and policies, and what the
// kernel answers. Tunnel mode; RFC 4301 names the databases SAD and SPD.
#ifndef ESPALIER_AGENT_NETLINK_XFRM_TYPES_H_
#define ESPALIER_AGENT_NETLINK_XFRM_TYPES_H_

#include <linux/xfrm.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "agent/base/ip_address.h"
#include "agent/base/security_association.h"
#include "agent/netlink/message.h"

namespace espalier::netlink {

// Attributes younger than the headers this is built with; the numbers are the
// kernel's ABI. Older kernels ignore them without a word: an attribute is
// there only when a state that is read back carries it.
inline constexpr uint16_t kXfrmaSaDir = 33;                 // 6.10
inline constexpr uint16_t kXfrmaNatKeepaliveInterval = 34;  // 6.11
inline constexpr uint16_t kXfrmaSaPcpu = 35;                // 6.13

// What a state has beyond the SA that was negotiated. 0 leaves it out.
struct XfrmStateOptions {
  uint32_t if_id = 0;          // route-based: the xfrm interface's
  bool direction = false;      // XFRMA_SA_DIR; outbound then has no window
  uint32_t nat_keepalive = 0;  // seconds; outbound, encapsulated
  // Marks what came out of this inbound SA, or the outer packets of this
  // outbound one (value, mask).
  uint32_t set_mark = 0;
  uint32_t set_mark_mask = 0;
};

// One state of the SAD, as read back. Keys are dropped while decoding.
struct XfrmState {
  base::Spi spi;
  base::IpAddress source, destination;
  base::Reqid reqid;
  uint8_t protocol = 0;  // IPPROTO_ESP, IPPROTO_AH...
  base::EspSuite suite;  // what of it is known; `esn` from the flags
  bool encapsulated = false;
  uint32_t if_id = 0;
  uint32_t replay_window = 0;
  // Only on kernels that store it.
  std::optional<base::Direction> direction;
  uint32_t nat_keepalive = 0;
  // 0xffffffff or absent: any CPU (RFC 9611).
  std::optional<uint32_t> cpu;
  uint64_t packets = 0, bytes = 0;
  uint64_t replayed = 0, bad_icv = 0;
  uint64_t added = 0;  // seconds since the Unix epoch, of the wall clock
  base::SaLimits limits;
};

// One policy of the SPD: selector and the one template, of ESP or AH.
struct XfrmPolicy {
  enum class Way : uint8_t {
    kIn = XFRM_POLICY_IN,
    kOut = XFRM_POLICY_OUT,
    kForward = XFRM_POLICY_FWD,
  };
  Way way = Way::kOut;
  base::IpPrefix source, destination;
  uint32_t priority = 0;  // lower wins
  base::Reqid reqid;
  // Unset in templates that match any outer address.
  base::IpAddress outer_source, outer_destination;
  base::IpsecProtocol protocol = base::IpsecProtocol::kEsp;
  base::SaMode mode = base::SaMode::kTunnel;
  uint32_t if_id = 0;
  bool blocks = false;  // no template: matching packets are dropped

  std::string ToString() const;
  friend bool operator==(const XfrmPolicy&, const XfrmPolicy&) = default;
};

struct XfrmExpire {
  base::Spi spi;
  base::IpAddress destination;
  base::Reqid reqid;
  bool hard = false;
};

struct XfrmAcquire {
  base::Reqid reqid;
  base::IpAddress outer_source, outer_destination;
};

// XFRM_MSG_NEWSA: AlreadyExists when (destination, SPI) is taken. Carries keys;
// the request wipes itself. InvalidArgument when the key sizes are not the
// suite's.
absl::StatusOr<Request> AddStateRequest(const base::EspSa& sa,
                                        const XfrmStateOptions& options);
Request DeleteStateRequest(
    const base::SaKey& key,
    base::IpsecProtocol protocol = base::IpsecProtocol::kEsp);
// XFRM_MSG_GETSA of one.
Request GetStateRequest(const base::SaKey& key, base::IpsecProtocol protocol =
                                                    base::IpsecProtocol::kEsp);
Request DumpStatesRequest();

// XFRM_MSG_UPDPOLICY: adds or replaces by selector, way and if_id.
Request SetPolicyRequest(const XfrmPolicy& policy);
Request DeletePolicyRequest(const XfrmPolicy& policy);
Request DumpPoliciesRequest();

// RTM_NEWLINK of an xfrm interface (kind "xfrm"), up. What is routed into it
// leaves by the policies and SAs that carry `if_id`, or not at all.
Request AddXfrmInterfaceRequest(const std::string& name, uint32_t if_id,
                                uint32_t mtu);

// Of the payload behind nlmsghdr; total. InvalidArgument on what does not
// parse. The state's payload holds keys: wipe it afterwards.
absl::StatusOr<XfrmState> DecodeState(base::ByteSpan payload);
absl::StatusOr<XfrmPolicy> DecodePolicy(base::ByteSpan payload);
absl::StatusOr<XfrmExpire> DecodeExpire(base::ByteSpan payload);
absl::StatusOr<XfrmAcquire> DecodeAcquire(base::ByteSpan payload);

}  // namespace espalier::netlink

#endif  // ESPALIER_AGENT_NETLINK_XFRM_TYPES_H_
