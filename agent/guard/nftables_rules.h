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
  // Each set of ranges is there twice, "inside4_a" and "inside4_b"; the rules
  // in the kernel use those of this side. Kernels before 6.17 miss in a set of
  // ranges whose members are flushed and added again, until the transaction is
  // through: so the side that is filled is never the one in use.
  char side = 'a';
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
// something is declared otherwise. One transaction after the other;
// `wanted.side` must not be in use.
std::vector<std::string> RefillTable(const GuardTable& wanted);
// Transactions from `standing` to `wanted`, whose side is chosen; none when
// there is nothing to do. Counters go on.
std::vector<std::string> ChangeTable(const GuardTable& standing,
                                     GuardTable* wanted);
// The side that the rules of nft's listing do not use.
char FreeSide(const std::string& listing);

}  // namespace espalier::guard

#endif  // ESPALIER_AGENT_GUARD_NFTABLES_RULES_H_
