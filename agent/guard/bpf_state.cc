#include "agent/guard/bpf_state.h"

#include <bit>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "agent/base/status_macros.h"

namespace espalier::guard {
namespace {

using base::IpAddress;
using base::IpPrefix;
using base::Mode;

constexpr uint32_t kPlain = ESPALIER_BLOCK_PLAIN_FROM_DISABLED |
                            ESPALIER_BLOCK_PLAIN_FROM_PREFERRED |
                            ESPALIER_BLOCK_PLAIN_FROM_NODE;

uint8_t BpfMode(Mode mode) {
  switch (mode) {
    case Mode::kDisabled:
      return ESPALIER_MODE_DISABLED;
    case Mode::kPreferred:
      return ESPALIER_MODE_PREFERRED;
    case Mode::kRequired:
      break;
  }
  return ESPALIER_MODE_REQUIRED;
}

uint8_t PodFlags(const GuardedPod& pod) {
  uint8_t flags = 0;
  for (const IpAddress& address : pod.addresses) {
    flags |= address.is_v4() ? ESPALIER_POD_HAS_IPV4 : ESPALIER_POD_HAS_IPV6;
  }
  if (pod.outside_denied) flags |= ESPALIER_POD_OUTSIDE_DENIED;
  if (pod.outside_in) flags |= ESPALIER_POD_OUTSIDE_IN;
  return flags;
}

espalier_pod ToBpfPod(const GuardedPod& pod, uint32_t slot) {
  espalier_pod out{};
  for (const IpAddress& address : pod.addresses) {
    (address.is_v4() ? out.ipv4 : out.ipv6) = ToBpfAddress(address);
  }
  out.link_local = ToBpfAddress(LinkLocalOf(pod.mac));
  std::memcpy(out.mac, pod.mac.data(), sizeof(out.mac));
  out.mode = BpfMode(pod.mode);
  out.flags = PodFlags(pod);
  out.slot = slot;
  return out;
}

absl::Status CheckPod(const GuardedPod& pod) {
  int ipv4 = 0, ipv6 = 0;
  for (const IpAddress& address : pod.addresses) {
    ++(address.is_v4() ? ipv4 : ipv6);
  }
  if (ipv4 > 1 || ipv6 > 1) {
    return absl::InvalidArgumentError(
        "more than one address of a family; the guard knows one");
  }
  return absl::OkStatus();
}

std::string BlockKey(const IpPrefix& prefix) {
  const base::ByteSpan bytes = prefix.address().bytes();
  if (prefix.address().is_v4()) {
    espalier_block4 key{};
    key.length = prefix.length();
    std::memcpy(key.address, bytes.data(), sizeof(key.address));
    return ToBytes(key);
  }
  espalier_block6 key{};
  key.length = prefix.length();
  std::memcpy(key.address, bytes.data(), sizeof(key.address));
  return ToBytes(key);
}

uint32_t BlockFlags(const InsideBlock& block) {
  uint32_t flags = block.pods ? ESPALIER_BLOCK_POD : ESPALIER_BLOCK_NODE;
  if (block.plaintext_from_disabled) {
    flags |= ESPALIER_BLOCK_PLAIN_FROM_DISABLED;
  }
  if (block.plaintext_from_preferred) {
    flags |= ESPALIER_BLOCK_PLAIN_FROM_PREFERRED;
  }
  if (block.plaintext_from_node) flags |= ESPALIER_BLOCK_PLAIN_FROM_NODE;
  return flags;
}

// Of two that speak of one prefix the stricter holds.
uint32_t Merge(uint32_t a, uint32_t b) {
  return ((a | b) & ~kPlain) | (a & b & kPlain);
}

void AddBlocks(const DesiredGuard& desired, BpfState* state) {
  std::map<IpPrefix, uint32_t> flags;
  for (const InsideBlock& block : desired.inside) {
    const auto [found, added] =
        flags.try_emplace(block.prefix, BlockFlags(block));
    if (!added) found->second = Merge(found->second, BlockFlags(block));
  }
  for (const IpAddress& address : desired.own_addresses) {
    const IpPrefix host = IpPrefix::Host(address);
    // Never leaves the node, so whoever may send there decides nothing.
    const uint32_t own = ESPALIER_BLOCK_NODE | ESPALIER_BLOCK_OWN | kPlain;
    const auto [found, added] = flags.try_emplace(host, own);
    if (!added) found->second = Merge(found->second, own);
  }
  MapContents& blocks4 = state->maps[BpfMap::kBlocks4];
  MapContents& blocks6 = state->maps[BpfMap::kBlocks6];
  for (const auto& [prefix, value] : flags) {
    (prefix.address().is_v4() ? blocks4 : blocks6)[BlockKey(prefix)] =
        ToBytes(value);
  }
}

void AddPod(const GuardedPod& pod, const BpfPlaces& places, BpfState* state) {
  const std::string item = absl::StrCat("pod on ", pod.host_interface);
  if (const absl::Status status = CheckPod(pod); !status.ok()) {
    state->problems.push_back({"bpf", item, status});
    return;
  }
  const auto index = places.ifindex.find(pod.host_interface);
  if (index == places.ifindex.end()) return;  // its device is gone
  const auto slot = places.slot.find(index->second);
  if (slot == places.slot.end()) {
    state->problems.push_back(
        {"bpf", item,
         absl::ResourceExhaustedError(absl::StrCat(
             "the guard has no room for more than ", ESPALIER_MAX_PODS - 1,
             " pods; this one's packets are dropped"))});
    return;
  }
  const espalier_pod entry = ToBpfPod(pod, slot->second);
  state->maps[BpfMap::kPods][ToBytes(index->second)] = ToBytes(entry);
  for (const IpAddress& address : pod.addresses) {
    espalier_local_address key{};
    key.address = ToBpfAddress(address);
    key.family = address.is_v4() ? 4 : 6;
    espalier_local_pod value{};
    value.slot = entry.slot;
    value.mode = entry.mode;
    value.flags = entry.flags;
    state->maps[BpfMap::kAddresses][ToBytes(key)] = ToBytes(value);
  }
}

bool WeakensMode(uint8_t current, uint8_t next) {
  // Their order is that of strength.
  return next > current;
}

}  // namespace

espalier_address ToBpfAddress(const IpAddress& address) {
  espalier_address out{};
  const base::ByteSpan bytes = address.bytes();
  std::memcpy(out.octets, bytes.data(), bytes.size());
  return out;
}

IpAddress FromBpfAddress(const espalier_address& address, int family) {
  std::array<uint8_t, 16> octets;
  std::memcpy(octets.data(), address.octets, octets.size());
  if (family == 4) {
    return IpAddress::V4({octets[0], octets[1], octets[2], octets[3]});
  }
  return IpAddress::V6(octets);
}

IpAddress LinkLocalOf(const std::array<uint8_t, 6>& mac) {
  return IpAddress::V6({0xfe, 0x80, 0, 0, 0, 0, 0, 0,
                        static_cast<uint8_t>(mac[0] ^ 2), mac[1], mac[2], 0xff,
                        0xfe, mac[3], mac[4], mac[5]});
}

BpfState MakeBpfState(const DesiredGuard& desired, const BpfPlaces& places) {
  BpfState state;
  for (const BpfMap map : {BpfMap::kConfig, BpfMap::kPods, BpfMap::kAddresses,
                           BpfMap::kBlocks4, BpfMap::kBlocks6}) {
    state.maps[map];
  }
  espalier_config config{};
  if (desired.in_sync) config.flags |= ESPALIER_CONFIG_IN_SYNC;
  if (desired.policy_based) config.flags |= ESPALIER_CONFIG_POLICY_BASED;
  if (desired.tunnel_needs_mark) {
    config.flags |= ESPALIER_CONFIG_TUNNEL_NEEDS_MARK;
  }
  config.tunnel_ifindex = places.tunnel_ifindex;
  config.vxlan_ifindex = places.vxlan_ifindex;
  config.mark_mask = desired.mark_mask;
  config.mark_shift =
      desired.mark_mask == 0 ? 0 : std::countr_zero(desired.mark_mask);
  state.maps[BpfMap::kConfig][ToBytes(uint32_t{0})] = ToBytes(config);
  AddBlocks(desired, &state);
  for (const GuardedPod& pod : desired.pods) AddPod(pod, places, &state);
  return state;
}

bool Weakens(BpfMap map, const std::string& current, const std::string& next) {
  switch (map) {
    case BpfMap::kPods: {
      if (current.empty()) return false;  // nothing was allowed, nor known
      const auto old_pod = FromBytes<espalier_pod>(current);
      const auto new_pod = FromBytes<espalier_pod>(next);
      return WeakensMode(old_pod.mode, new_pod.mode) ||
             (!(old_pod.flags & ESPALIER_POD_OUTSIDE_IN) &&
              (new_pod.flags & ESPALIER_POD_OUTSIDE_IN)) ||
             ((old_pod.flags & ESPALIER_POD_OUTSIDE_DENIED) &&
              !(new_pod.flags & ESPALIER_POD_OUTSIDE_DENIED));
    }
    case BpfMap::kAddresses: {
      if (current.empty()) return false;
      return WeakensMode(FromBytes<espalier_local_pod>(current).mode,
                         FromBytes<espalier_local_pod>(next).mode);
    }
    case BpfMap::kBlocks4:
    case BpfMap::kBlocks6: {
      const uint32_t old_flags =
          current.empty() ? 0 : FromBytes<uint32_t>(current);
      return (FromBytes<uint32_t>(next) & ~old_flags & kPlain) != 0;
    }
    default:
      return false;
  }
}

}  // namespace espalier::guard
