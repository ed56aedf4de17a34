// The second guard's table as nft's language has it. Pure.
#ifndef ESPALIER_AGENT_GUARD_NFTABLES_RULES_H_
#define ESPALIER_AGENT_GUARD_NFTABLES_RULES_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "agent/guard/guard.h"

namespace espalier::guard {

// Family inet. Nobody else's.
inline constexpr char kGuardTable[] = "espalier_guard";

// The members of the table's sets, by the set's name.
using GuardSets = std::map<std::string, std::set<std::string>>;

struct GuardTable {
  // Chains and rules: the same text as long as only members of sets change.
  std::string rules;
  GuardSets sets;
};

// Names of the sets whose members are ranges: those are replaced as a whole,
// members of the others one by one.
bool HoldsRanges(const std::string& set);

// What drops a packet; also the names of the table's counters, and
// the keys of bpf/shared_types.h where the two guards mean the same.
struct GuardCounter {
  const char* name;
  const char* text;
};
const std::vector<GuardCounter>& GuardCounters();

GuardTable TableOf(const DesiredGuard& desired);

// One transaction that makes the table stand as `wanted`, whatever stood
// there; counters begin at zero.
std::string ReplaceTable(const GuardTable& wanted);
// The same, but chains, sets and counters that stand as declared go on: a
// packet that is under way meets the old rules or the new ones. Between a chain
// that is added and one that is deleted it can meet neither. Fails when
// something is declared otherwise.
std::string RefillTable(const GuardTable& wanted);
// One transaction from `standing` to `wanted`; empty when there is nothing to
// do. Counters go on.
std::string ChangeTable(const GuardTable& standing, const GuardTable& wanted);

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_NFTABLES_RULES_H_
