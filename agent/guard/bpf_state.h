// What the maps are to hold, out of DesiredGuard. Pure.
#ifndef ESPALIER_AGENT_GUARD_BPF_STATE_H_
#define ESPALIER_AGENT_GUARD_BPF_STATE_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "agent/guard/bpf_object.h"
#include "agent/guard/guard.h"

namespace espalier::guard {

// Interface names and slots as they are now.
struct BpfPlaces {
  uint32_t tunnel_ifindex = 0;              // 0: not there
  uint32_t vxlan_ifindex = 0;               // the same
  std::map<std::string, uint32_t> ifindex;  // of pods' host interfaces
  std::map<uint32_t, uint32_t> slot;        // by ifindex
};

struct BpfState {
  std::map<BpfMap, MapContents> maps;
  // Pods that could not be entered: their packets are dropped.
  std::vector<GuardProblem> problems;
};

BpfState MakeBpfState(const DesiredGuard& desired, const BpfPlaces& places);

espalier_address ToBpfAddress(const base::IpAddress& address);
base::IpAddress FromBpfAddress(const espalier_address& address, int family);
// fe80:: with the modified EUI-64 of the MAC (RFC 4291 appendix A): what Linux
// gives an interface by default.
base::IpAddress LinkLocalOf(const std::array<uint8_t, 6>& mac);

// Whether `next` in place of `current` (empty: nothing) allows what was not
// allowed before.
bool Weakens(BpfMap map, const std::string& current, const std::string& next);

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_BPF_STATE_H_
