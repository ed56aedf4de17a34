// The number that says where a packet came from, in skb->mark (DESIGN 5).
// bpf/shared_types.h has the table of who writes and who reads each.
#ifndef ESPALIER_AGENT_BASE_MARKS_H_
#define ESPALIER_AGENT_BASE_MARKS_H_

#include <bit>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "bpf/shared_types.h"

namespace espalier::base {

enum class Mark : uint8_t {
  kNone = ESPALIER_MARK_NONE,
  kFromRequired = ESPALIER_MARK_FROM_REQUIRED,
  kFromRequiredInside = ESPALIER_MARK_FROM_REQUIRED_INSIDE,
  kFromPreferred = ESPALIER_MARK_FROM_PREFERRED,
  kFromDisabled = ESPALIER_MARK_FROM_DISABLED,
  kFromEsp = ESPALIER_MARK_FROM_ESP,
  kWireInside = ESPALIER_MARK_WIRE_INSIDE,
  kWireOutside = ESPALIER_MARK_WIRE_OUTSIDE,
  kWireToNode = ESPALIER_MARK_WIRE_TO_NODE,
  kBypass = ESPALIER_MARK_BYPASS,
};

inline constexpr uint32_t kDefaultMarkMask = ESPALIER_DEFAULT_MARK_MASK;

// The mask must be one run of at least four bits that leaves those of
// kube-proxy and portmap alone.
inline absl::Status CheckMarkMask(uint32_t mask) {
  constexpr uint32_t kTaken = 0xe000;
  const uint32_t run = mask == 0 ? 0 : mask >> std::countr_zero(mask);
  if ((run & (run + 1)) != 0 || std::popcount(mask) < ESPALIER_MARK_BITS) {
    return absl::InvalidArgumentError(
        absl::StrFormat("mark mask 0x%08x is not one run of at least %d bits",
                        mask, ESPALIER_MARK_BITS));
  }
  if ((mask & kTaken) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "mark mask 0x%08x takes bits of kube-proxy or portmap (0x2000, 0x4000, "
        "0x8000)",
        mask));
  }
  return absl::OkStatus();
}

// The value to set or compare under `mask`.
constexpr uint32_t MarkValue(uint32_t mask, Mark mark) {
  return static_cast<uint32_t>(mark) << std::countr_zero(mask) & mask;
}

}  // namespace espalier::base

#endif  // ESPALIER_AGENT_BASE_MARKS_H_
