// NAT detection by hashes of addresses and ports (RFC 7296 2.23).
#ifndef ESPALIER_AGENT_IKE_NAT_DETECTION_H_
#define ESPALIER_AGENT_IKE_NAT_DETECTION_H_

#include <array>
#include <cstdint>
#include <vector>

#include "agent/base/bytes.h"
#include "agent/base/ip_address.h"
#include "agent/base/random.h"
#include "agent/ike/action.h"
#include "agent/ike/key_derivation.h"

namespace espalier::ike {

using NatHash = std::array<uint8_t, 20>;

// SHA-1(SPIi | SPIr | address | port); SHA-1 is what 2.23 fixes.
NatHash ComputeNatHash(const SpiPair& spis, const base::Endpoint& endpoint);

// What the sender of a message claims and what was seen of it.
struct NatVerdict {
  bool supported = false;  // the peer sent both kinds of notification
  bool local = false;      // we are behind a NAT
  bool remote = false;     // the peer is
  bool forced = false;     // we pretend to be, so that ESP goes in UDP
  bool any() const { return supported && (local || remote || forced); }
};

// `sources` and `destinations` are the data of all NAT_DETECTION_SOURCE_IP and
// NAT_DETECTION_DESTINATION_IP of one message that came over `path`.
NatVerdict DetectNat(const SpiPair& spis, const Path& path,
                     const std::vector<base::ByteSpan>& sources,
                     const std::vector<base::ByteSpan>& destinations);

// A source hash that matches no address, so that both ends encapsulate ESP in
// UDP (PeerConfig::force_encapsulation).
NatHash UnmatchableNatHash(base::RandomSource& random);

}  // namespace espalier::ike

#endif  // ESPALIER_AGENT_IKE_NAT_DETECTION_H_
