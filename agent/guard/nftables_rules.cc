#include "agent/guard/nftables_rules.h"

#include <netinet/in.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "agent/base/marks.h"
#include "agent/guard/block_ranges.h"

namespace espalier::guard {
namespace {

using base::Family;
using base::Mark;

// Sets of one family's addresses; 4 or 6 is appended.
constexpr const char* kRangeSets[] = {"pod_net", "inside", "plain_disabled",
                                      "plain_preferred", "plain_node"};
constexpr const char* kAddressSets[] = {"local",  "relaxed",    "disabled",
                                        "denied", "outside_in", "sealed"};

struct FamilyWords {
  Family family;
  const char* digit;
  const char* ip;
  const char* type;
  const char* link;  // what a pod may send besides, in place of its address
  // What neither end can send by the tunnel: errors about the packets outside
  // of it (anybody on the way may send those), and neighbour discovery.
  const char* errors;
};
constexpr FamilyWords kFamilies[] = {
    {Family::kIpv4, "4", "ip", "ipv4_addr", "",
     "    icmp type { destination-unreachable, time-exceeded, "
     "parameter-problem } return\n"},
    {Family::kIpv6, "6", "ip6", "ipv6_addr",
     "    ip6 saddr { ::, fe80::/10 } return\n",
     "    icmpv6 type { destination-unreachable, packet-too-big, "
     "time-exceeded, parameter-problem, nd-router-solicit, nd-router-advert, "
     "nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } return\n"}};

std::string Quoted(const std::string& interface) {
  return absl::StrCat("\"", interface, "\"");
}

std::string MarkIs(const DesiredGuard& desired, Mark mark) {
  return absl::StrFormat("meta mark & 0x%08x == 0x%08x", desired.mark_mask,
                         base::MarkValue(desired.mark_mask, mark));
}

std::string SetMark(const DesiredGuard& desired, Mark mark) {
  return absl::StrFormat("meta mark set meta mark & 0x%08x | 0x%08x",
                         ~desired.mark_mask,
                         base::MarkValue(desired.mark_mask, mark));
}

// Where the rules differ by how packets come out of ESP and go into it.
struct Tunnel {
  std::string from_esp;  // rules that let pass what came out of ESP
  std::string into_esp;  // ... what goes into it
  // Drops, for required pods, what came by its interface without an SA.
  std::string not_encrypted;
  std::string would_leave;  // matches what came out of ESP, in `leave`
};

Tunnel TunnelOf(const DesiredGuard& desired) {
  Tunnel tunnel;
  if (desired.policy_based) {
    // The mark alone could be somebody else's; the kernel's own word that the
    // packet went through a transform cannot.
    tunnel.from_esp = absl::StrCat(
        "    meta ipsec exists ", MarkIs(desired, Mark::kFromEsp), " return\n");
    tunnel.into_esp = "    rt ipsec exists return\n";
    // Not that word here: nftables knows it before routing only, and a strange
    // mark costs its owner a packet, no more.
    tunnel.would_leave = absl::StrCat(MarkIs(desired, Mark::kFromEsp), " ");
  } else if (!desired.tunnel_interface.empty()) {
    const std::string in =
        absl::StrCat("iifname ", Quoted(desired.tunnel_interface), " ");
    if (desired.tunnel_needs_mark) {
      tunnel.from_esp = absl::StrCat(
          "    ", in, MarkIs(desired, Mark::kFromEsp), " return\n");
      tunnel.not_encrypted =
          absl::StrCat("    ", in, "counter name unencrypted_tunnel drop\n");
      // The kernel's xfrm interface shows postrouting the inner packet on its
      // way to the uplink, before it is encrypted.
      tunnel.into_esp = "    rt ipsec exists return\n";
    } else {
      tunnel.from_esp = absl::StrCat("    ", in, "return\n");
    }
    tunnel.would_leave = in;
  }
  return tunnel;
}

// $F the family's digit, $IP its word, $T its type.
constexpr char kFamilyChains[] = R"(
  chain source$F {
    iifname . $IP saddr @source$F jump mark$F
    iifname . $IP saddr @source$F return
$LINK    counter name wrong_source drop
  }
  chain mark$F {
    $IP saddr @disabled$F $DISABLED
  }
  chain to_required$F {
$NOT_ENCRYPTED    $IP saddr @inside$F counter name plaintext_to_pod drop
    ct direction reply ct state established,related return
    ct state related return
    ct status dnat return
    $IP daddr @outside_in$F return
    counter name outside_in drop
  }
  chain leave$F {
    $IP daddr != @inside$F ct direction reply ct state established return
    $IP daddr != @inside$F $IP saddr @denied$F counter name outside_denied drop
    $IP daddr != @inside$F return
    $IP saddr @pod_net$F $IP saddr != @relaxed$F counter name leak_from_pod drop
    ct original $IP saddr @local$F ct original $IP saddr != @relaxed$F counter name leak_from_pod drop
    ct reply $IP saddr @local$F ct reply $IP saddr != @relaxed$F counter name leak_from_pod drop
$LEAVES    $IP saddr @disabled$F $IP daddr @plain_disabled$F return
    $IP saddr @disabled$F counter name leak_to_pod drop
    $IP saddr @relaxed$F $IP daddr @plain_preferred$F return
    $IP saddr @relaxed$F counter name leak_to_pod drop
    $IP daddr @plain_node$F return
    counter name leak_to_pod drop
  }
  chain sealed$F {
    meta l4proto { esp, ah } return
    udp dport { 500, 4500 } return
    meta l4proto . th sport @open_ports return
    meta l4proto . th dport @open_ports return
$LINK_LAYER    counter name node_plaintext drop
  }
)";

// `inner`: the pods' interfaces, the tunnel's, and loopback. What is not known
// to be one of these counts as a wire, new devices included. In output, a
// packet whose destination was translated (kube-proxy, for the node's own
// packets to a Service) still has the interface of its old route; postrouting
// sees the new.
constexpr char kChains[] = R"(
  chain arrive {
    iifname @pods return
    iifname "lo" return
$FROM_ESP    ip daddr @pod_net4 ip daddr != @relaxed4 jump to_required4
    ip6 daddr @pod_net6 ip6 daddr != @relaxed6 jump to_required6
  }
  chain leave {
$INTO_ESP    meta nfproto ipv4 jump leave4
    meta nfproto ipv6 jump leave6
  }
  chain prerouting {
    type filter hook prerouting priority -160; policy accept;
    iifname @pods meta nfproto ipv4 jump source4
    iifname @pods meta nfproto ipv6 jump source6
    iifname != @inner ip saddr @local4 counter name wire_plaintext drop
    iifname != @inner ip6 saddr @local6 counter name wire_plaintext drop
    iifname != @inner ip saddr @sealed4 fib daddr type local jump sealed4
    iifname != @inner ip6 saddr @sealed6 fib daddr type local jump sealed6
  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    jump arrive
    oifname != @inner jump leave
  }
  chain output {
    type filter hook output priority -10; policy accept;
    $BYPASS return
    ct status dnat return
    oifname != @inner jump leave
  }
  chain postrouting {
    type filter hook postrouting priority 300; policy accept;
    $BYPASS return
    oifname != @inner jump leave
  }
)";

std::string RulesOf(const DesiredGuard& desired) {
  const Tunnel tunnel = TunnelOf(desired);
  std::string rules;
  for (const FamilyWords& words : kFamilies) {
    const std::string leaves =
        tunnel.would_leave.empty()
            ? ""
            : absl::StrCat("    ", tunnel.would_leave,
                           "counter name leak_from_esp drop\n");
    absl::StrAppend(
        &rules,
        absl::StrReplaceAll(
            absl::StrReplaceAll(
                kFamilyChains,
                {{"$LINK_LAYER", words.errors},
                 {"$LINK", words.link},
                 {"$NOT_ENCRYPTED", tunnel.not_encrypted},
                 {"$LEAVES", leaves},
                 {"$DISABLED", SetMark(desired, Mark::kFromDisabled)}}),
            {{"$F", words.digit}, {"$IP", words.ip}, {"$T", words.type}}));
  }
  absl::StrAppend(&rules,
                  absl::StrReplaceAll(
                      kChains, {{"$FROM_ESP", tunnel.from_esp},
                                {"$INTO_ESP", tunnel.into_esp},
                                {"$BYPASS", MarkIs(desired, Mark::kBypass)}}));
  return rules;
}

std::vector<InsideBlock> InsideOf(const DesiredGuard& desired) {
  std::vector<InsideBlock> blocks = desired.inside;
  if (desired.in_sync) return blocks;
  // Nobody knows yet what is inside: everything, for pods.
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    blocks.push_back(
        {.prefix = *base::IpPrefix::Make(base::IpAddress::Any(family), 0),
         .pods = false,
         .plaintext_from_node = true});
  }
  return blocks;
}

void AddPod(const GuardedPod& pod, GuardSets* sets) {
  const std::string interface = Quoted(pod.host_interface);
  (*sets)["pods"].insert(interface);
  (*sets)["inner"].insert(interface);
  for (const base::IpAddress& address : pod.addresses) {
    const std::string digit = address.is_v4() ? "4" : "6";
    const std::string text = address.ToString();
    (*sets)["local" + digit].insert(text);
    (*sets)["source" + digit].insert(absl::StrCat(interface, " . ", text));
    if (pod.mode != base::Mode::kRequired) {
      (*sets)["relaxed" + digit].insert(text);
    }
    if (pod.mode == base::Mode::kDisabled) {
      (*sets)["disabled" + digit].insert(text);
    }
    if (pod.outside_denied) (*sets)["denied" + digit].insert(text);
    if (pod.outside_in) (*sets)["outside_in" + digit].insert(text);
  }
}

GuardSets SetsOf(const DesiredGuard& desired) {
  GuardSets sets;
  sets["pods"];
  sets["inner"].insert(Quoted("lo"));
  if (!desired.tunnel_interface.empty() && !desired.policy_based) {
    sets["inner"].insert(Quoted(desired.tunnel_interface));
  }
  const std::vector<InsideBlock> blocks = InsideOf(desired);
  for (const FamilyWords& words : kFamilies) {
    const auto add = [&](const char* set, const auto& holds,
                         const std::vector<BlockRange>& ranges) {
      const std::vector<std::string> texts = RangesWhere(ranges, holds);
      sets[absl::StrCat(set, words.digit)].insert(texts.begin(), texts.end());
    };
    const std::vector<BlockRange> ranges = RangesOf(blocks, words.family);
    add("inside", [](const InsideBlock&) { return true; }, ranges);
    add("pod_net", [](const InsideBlock& b) { return b.pods; }, ranges);
    add(
        "plain_disabled",
        [](const InsideBlock& b) { return b.plaintext_from_disabled; }, ranges);
    add(
        "plain_preferred",
        [](const InsideBlock& b) { return b.plaintext_from_preferred; },
        ranges);
    add(
        "plain_node",
        [](const InsideBlock& b) { return b.plaintext_from_node; }, ranges);
    for (const char* name : kAddressSets) sets[absl::StrCat(name, words.digit)];
    sets[absl::StrCat("source", words.digit)];
  }
  for (const GuardedPod& pod : desired.pods) AddPod(pod, &sets);
  sets["open_ports"];
  for (const DesiredGuard::Port& port : desired.open_ports) {
    // As nft lists it.
    sets["open_ports"].insert(absl::StrCat(
        port.ip_protocol == IPPROTO_TCP ? "tcp" : "udp", " . ", port.port));
  }
  for (const base::IpAddress& node : desired.sealed_nodes) {
    sets[node.is_v4() ? "sealed4" : "sealed6"].insert(node.ToString());
  }
  return sets;
}

std::string Declarations() {
  std::string out;
  for (const GuardCounter& counter : GuardCounters()) {
    absl::StrAppend(&out, "  counter ", counter.name, " { }\n");
  }
  absl::StrAppend(&out,
                  "  set pods { type ifname; }\n"
                  "  set inner { type ifname; }\n"
                  "  set open_ports { type inet_proto . inet_service; }\n");
  for (const FamilyWords& words : kFamilies) {
    for (const char* name : kRangeSets) {
      for (const char* side : {"_a", "_b"}) {
        absl::StrAppend(&out, "  set ", name, words.digit, side, " { type ",
                        words.type, "; flags interval; }\n");
      }
    }
    for (const char* name : kAddressSets) {
      absl::StrAppend(&out, "  set ", name, words.digit, " { type ", words.type,
                      "; }\n");
    }
    absl::StrAppend(&out, "  set source", words.digit, " { type ifname . ",
                    words.type, "; }\n");
  }
  return out;
}

std::string ElementCommand(const char* verb, const std::string& set,
                           const std::vector<std::string>& members) {
  if (members.empty()) return "";
  return absl::StrCat(verb, " element inet ", kGuardTable, " ", set, " { ",
                      absl::StrJoin(members, ", "), " }\n");
}

std::string NameInTable(const std::string& set, char side) {
  return HoldsRanges(set) ? absl::StrCat(set, "_", std::string(1, side)) : set;
}

std::string FillSet(const GuardTable& table, const std::string& set) {
  const std::set<std::string>& members = table.sets.at(set);
  const std::string name = NameInTable(set, table.side);
  return absl::StrCat(
      "flush set inet ", kGuardTable, " ", name, "\n",
      ElementCommand("add", name, {members.begin(), members.end()}));
}

std::string RulesInTable(const GuardTable& table) {
  std::vector<std::pair<std::string, std::string>> names;
  for (const auto& [set, members] : table.sets) {
    if (HoldsRanges(set)) {
      names.emplace_back("@" + set, "@" + NameInTable(set, table.side));
    }
  }
  return absl::StrReplaceAll(table.rules, names);
}

std::string Block(const std::string& content) {
  return absl::StrCat("table inet ", kGuardTable, " {\n", content, "}\n");
}

}  // namespace

bool HoldsRanges(const std::string& set) {
  return std::ranges::any_of(kRangeSets, [&](const char* name) {
    return set.size() == std::string(name).size() + 1 && set.starts_with(name);
  });
}

const std::vector<GuardCounter>& GuardCounters() {
  static const auto* const counters = new std::vector<GuardCounter>{
      {"leak_from_pod", "plaintext of a required pod towards the inside"},
      {"leak_from_esp",
       "what came out of ESP would have left again in plaintext"},
      {"leak_to_pod",
       "plaintext to an inside address where plaintext is not allowed"},
      {"outside_denied",
       "to the outside from a pod with espalier.dev/outside: deny"},
      {"plaintext_to_pod",
       "plaintext from inside the cluster to a required pod"},
      {"unencrypted_tunnel",
       "from the tunnel's interface without the mark of an encrypting SA"},
      {"outside_in",
       "from the outside to a required pod without espalier.dev/outside-in"},
      {"wrong_source", "its source address is not the pod's"},
      {"wire_plaintext", "off the wire with the source of a pod of this node"},
      {"node_plaintext",
       "plaintext to this node with the address of a node that uses ESP"},
  };
  return *counters;
}

GuardTable TableOf(const DesiredGuard& desired) {
  return {.rules = RulesOf(desired), .sets = SetsOf(desired)};
}

std::string ReplaceTable(const GuardTable& wanted) {
  std::string out =
      absl::StrCat(Block(""), "delete table inet ", kGuardTable, "\n",
                   Block(Declarations() + RulesInTable(wanted)));
  for (const auto& [set, members] : wanted.sets) {
    absl::StrAppend(&out, FillSet(wanted, set));
  }
  return out;
}

std::vector<std::string> RefillTable(const GuardTable& wanted) {
  std::string ranges = Block(Declarations());
  std::string rules =
      absl::StrCat(Block(""), "flush table inet ", kGuardTable, "\n",
                   Block(Declarations() + RulesInTable(wanted)));
  std::string unused;
  const char other = wanted.side == 'a' ? 'b' : 'a';
  for (const auto& [set, members] : wanted.sets) {
    if (HoldsRanges(set)) {
      absl::StrAppend(&ranges, FillSet(wanted, set));
      absl::StrAppend(&unused, "flush set inet ", kGuardTable, " ",
                      NameInTable(set, other), "\n");
    } else {
      absl::StrAppend(&rules, FillSet(wanted, set));
    }
  }
  return {ranges, rules, unused};
}

std::vector<std::string> ChangeTable(const GuardTable& standing,
                                     GuardTable* wanted) {
  wanted->side = standing.side;
  bool refill = standing.rules != wanted->rules;
  std::string out;
  for (const auto& [set, members] : wanted->sets) {
    const auto found = standing.sets.find(set);
    const std::set<std::string> before =
        found == standing.sets.end() ? std::set<std::string>() : found->second;
    if (before == members) continue;
    if (HoldsRanges(set)) {
      refill = true;
      continue;
    }
    std::vector<std::string> added, removed;
    std::ranges::set_difference(members, before, std::back_inserter(added));
    std::ranges::set_difference(before, members, std::back_inserter(removed));
    absl::StrAppend(&out, ElementCommand("delete", set, removed),
                    ElementCommand("add", set, added));
  }
  if (refill) {
    wanted->side = standing.side == 'a' ? 'b' : 'a';
    return RefillTable(*wanted);
  }
  if (out.empty()) return {};
  return {out};
}

char FreeSide(const std::string& listing) {
  return listing.find("@inside4_a") == std::string::npos ? 'a' : 'b';
}

}  // namespace espalier::guard
