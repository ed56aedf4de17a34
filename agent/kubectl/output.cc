#include "agent/kubectl/output.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/kubectl/table.h"
#include "agent/kubectl/yaml.h"

namespace espalier::kubectl {
namespace {

using google::protobuf::util::TimeUtil;
using Json = nlohmann::ordered_json;

std::string Join(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  return absl::StrJoin(texts, ",");
}

std::string Seconds(const google::protobuf::Duration& duration) {
  return HumanSeconds(duration.seconds());
}

constexpr char kFellBack[] = "protocol 50 does not pass: fell back to UDP 4500";

const char* YesNo(bool value) { return value ? "yes" : "no"; }

std::string Traffic(const v1::Counters& counters) {
  return absl::StrCat(counters.packets(), " / ", HumanBytes(counters.bytes()));
}

uint64_t Errors(const v1::Counters& c) {
  return c.replayed() + c.bad_icv() + c.selector_mismatch() + c.send_errors();
}

// One "name: value" line for each pair whose value is not empty.
std::string Properties(
    const std::vector<std::pair<std::string, std::string>>& pairs,
    size_t indent) {
  size_t width = 0;
  for (const auto& [name, value] : pairs) width = std::max(width, name.size());
  std::string text;
  for (const auto& [name, value] : pairs) {
    if (value.empty()) continue;
    text.append(indent, ' ');
    absl::StrAppend(&text, name, ":");
    text.append(width - name.size() + 2, ' ');
    absl::StrAppend(&text, Printable(value), "\n");
  }
  return text;
}

std::string CountersText(const v1::Counters& c) {
  std::string text =
      absl::StrCat(c.packets(), " packets, ", HumanBytes(c.bytes()));
  const std::pair<const char*, uint64_t> errors[] = {
      {"replayed", c.replayed()},
      {"bad ICV", c.bad_icv()},
      {"outside the selectors", c.selector_mismatch()},
      {"send errors", c.send_errors()}};
  for (const auto& [name, count] : errors) {
    if (count != 0) absl::StrAppend(&text, ", ", count, " ", name);
  }
  return text;
}

std::string ProbeText(const v1::Tunnel& t) {
  if (t.probe().empty() || t.probe() == "off") return t.probe();
  std::string text = absl::StrCat(t.probe(), ", ", t.probes_answered(), " of ",
                                  t.probes_sent(), " answered");
  if (t.has_probe_answer_age()) {
    const int64_t micros =
        TimeUtil::DurationToMicroseconds(t.probe_round_trip());
    absl::StrAppend(&text, ", the last ", Seconds(t.probe_answer_age()),
                    " ago in ", micros / 1000, ".",
                    absl::Dec(micros % 1000 / 100), " ms");
    if (t.probe_answered_by_node()) {
      absl::StrAppend(&text, " (by its node: the peer's agent is away)");
    }
  }
  return text;
}

std::string Lacking(const v1::Tunnel& t) {
  if (t.missing_families().empty()) return "";
  return absl::StrCat("no pod CIDR of ",
                      absl::StrJoin(t.missing_families(), ", "));
}

std::string GuardsText(const v1::AgentStatus& s) {
  std::string text;
  for (const v1::GuardState& guard : s.guards()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", guard.name(), " ",
                    !guard.on()      ? "off"
                    : guard.stands() ? "stands"
                                     : "does not stand");
    for (const std::string& problem : guard.problems()) {
      absl::StrAppend(&text, " (", problem, ")");
    }
  }
  return text;
}

std::string NatText(const v1::IkeSa& ike) {
  if (ike.nat_local() && ike.nat_remote()) return "before both ends";
  if (ike.nat_local()) return "before this node";
  return ike.nat_remote() ? "before the peer" : "";
}

// One agent's answer has no node's name beside it.
template <typename T>
bool IsNamed(const ByNode<T>& nodes) {
  return nodes.size() != 1 || !nodes[0].first.empty();
}

std::string RekeyIn(bool has, const google::protobuf::Duration& duration) {
  return has ? Seconds(duration) : "";
}

}  // namespace

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  // Fails only for an Any of a type that nobody knows; there is none.
  (void)google::protobuf::util::MessageToJsonString(message, &text, options);
  return Json::parse(text, nullptr, false).dump(2) + "\n";
}

std::string ToYaml(const google::protobuf::Message& message) {
  return YamlOf(Json::parse(ToJson(message), nullptr, false));
}

std::string StatusText(const v1::AgentStatus& s) {
  const int64_t up = TimeUtil::TimestampToSeconds(TimeUtil::GetCurrentTime()) -
                     s.started().seconds();
  return Properties(
      {{"Node", s.node()},
       {"Identity", s.identity()},
       {"Agent", absl::StrCat(s.version(), ", up ", HumanSeconds(up))},
       {"Ready",
        s.ready() ? "yes" : absl::StrCat("no: ", s.not_ready_reason())},
       {"Datapath",
        absl::StrCat(s.datapath(),
                     s.tunnel_interface().empty() ? "" : ", interface ",
                     s.tunnel_interface())},
       {"Tunnels",
        absl::StrCat(s.tunnels_up(), " of ", s.tunnels_wanted(), " up")},
       {"Pods", absl::StrCat(s.pods(), ", MTU ", s.pod_mtu())},
       {"Guards", GuardsText(s)},
       {"Plaintext blocks", Join(s.plaintext_blocks())},
       {"Configuration",
        absl::StrCat("loaded ", TimeUtil::ToString(s.config_loaded()))},
       {"Refused since", s.config_error()},
       {"Problems", absl::StrJoin(s.problems(), "; ")}},
      0);
}

std::string TunnelsText(const v1::ListTunnelsResponse& tunnels, bool wide) {
  return ClusterTunnelsText({{"", tunnels}}, wide);
}

std::string ClusterTunnelsText(const ByNode<v1::ListTunnelsResponse>& nodes,
                               bool wide) {
  const bool named = IsNamed(nodes);
  std::vector<std::string> heads = {"PEER", "STATE", "AGE",   "SUITE",
                                    "IN",   "OUT",   "ERRORS"};
  if (wide) {
    heads.insert(heads.end(),
                 {"UDP", "MTU", "PROBE", "IDENTITY", "ADDRESSES", "POD-CIDRS"});
  }
  heads.push_back("PROBLEM");
  if (named) heads.insert(heads.begin(), "NODE");
  Table table(std::move(heads));
  bool any = false;
  for (const auto& [node, tunnels] : nodes) {
    for (const v1::Tunnel& t : tunnels.tunnels()) {
      std::vector<std::string> row = {
          t.peer(),
          t.state(),
          Seconds(t.state_age()),
          t.suite(),
          Traffic(t.inbound()),
          Traffic(t.outbound()),
          absl::StrCat(Errors(t.inbound()) + Errors(t.outbound()))};
      if (wide) {
        row.insert(row.end(),
                   {YesNo(t.encapsulated()), absl::StrCat(t.mtu()), t.probe(),
                    t.identity(), Join(t.addresses()), Join(t.pod_cidrs())});
      }
      row.push_back(t.problem().empty() && t.fell_back() ? kFellBack
                                                         : t.problem());
      if (named) row.insert(row.begin(), node);
      table.Add(std::move(row));
      any = true;
    }
  }
  if (any) return table.Render();
  return named ? "There are no tunnels.\n" : "No peers are configured.\n";
}

std::string TunnelText(const v1::Tunnel& t) {
  std::string text = Properties(
      {{"Peer", t.peer()},
       {"Identity", t.identity()},
       {"State", absl::StrCat(t.state(), " for ", Seconds(t.state_age()))},
       {"Problem", t.problem()},
       {"Addresses", Join(t.addresses())},
       {"Pod CIDRs", Join(t.pod_cidrs())},
       {"Dropped", Lacking(t)},
       {"Suite", t.suite()},
       {"ESP in UDP", t.fell_back() ? absl::StrCat(YesNo(t.encapsulated()),
                                                   " (", kFellBack, ")")
                                    : YesNo(t.encapsulated())},
       {"MTU", absl::StrCat(t.mtu())},
       {"Packets came in", YesNo(t.inbound_seen())},
       {"Probe", ProbeText(t)},
       {"Node traffic",
        absl::StrCat(t.node_traffic_required() ? "only by the tunnel"
                                               : "not only by the tunnel",
                     t.node_traffic_confirmed()
                         ? "; the peer says that it uses it"
                         : "; the peer does not say that it uses it")},
       {"In", CountersText(t.inbound())},
       {"Out", CountersText(t.outbound())}},
      0);
  for (const v1::IkeSa& ike : t.ike_sas()) {
    absl::StrAppend(&text, "\nIKE_SA ", ike.initiator_spi(), " ",
                    ike.responder_spi(), "\n");
    text +=
        Properties({{"State", ike.state()},
                    {"Begun by", ike.initiator() ? "this node" : "the peer"},
                    {"Path", absl::StrCat(ike.local(), " to ", ike.remote())},
                    {"NAT", NatText(ike)},
                    {"Suite", ike.suite()},
                    {"Age", Seconds(ike.age())},
                    {"Rekey in", RekeyIn(ike.has_rekey_in(), ike.rekey_in())}},
                   2);
    for (const v1::ChildSa& child : ike.children()) {
      absl::StrAppend(&text, "  CHILD_SA in ", child.inbound_spi(), " out ",
                      child.outbound_spi(), "\n");
      text += Properties(
          {{"State", child.state()},
           {"Suite", child.suite()},
           {"ESP in UDP", YesNo(child.encapsulated())},
           {"Age", Seconds(child.age())},
           {"Rekey in", RekeyIn(child.has_rekey_in(), child.rekey_in())},
           {"Here", Join(child.local_selectors())},
           {"There", Join(child.remote_selectors())}},
          4);
    }
  }
  if (t.esp_sas().empty()) return text;
  Table table({"ESP", "SPI", "TO", "SUITE", "UDP", "PACKETS", "BYTES", "ERRORS",
               "NOTE"});
  for (const v1::EspSa& sa : t.esp_sas()) {
    table.Add({sa.direction(), sa.spi(), sa.destination(), sa.suite(),
               YesNo(sa.encapsulated()), absl::StrCat(sa.counters().packets()),
               HumanBytes(sa.counters().bytes()),
               absl::StrCat(Errors(sa.counters())),
               sa.left_over() ? "until its successor carries traffic"
               : sa.has_cpu() ? absl::StrCat("of CPU ", sa.cpu())
                              : ""});
  }
  return absl::StrCat(text, "\n", table.Render());
}

std::string PodsText(const v1::ListPodsResponse& pods, bool wide) {
  return ClusterPodsText({{"", pods}}, wide);
}

std::string ClusterPodsText(const ByNode<v1::ListPodsResponse>& nodes,
                            bool wide) {
  const bool named = IsNamed(nodes);
  std::vector<std::string> heads = {"NAMESPACE", "NAME",         "ADDRESSES",
                                    "MODE",      "PROTECTED-BY", "MTU"};
  if (wide) {
    heads.insert(heads.end(), {"OUTSIDE", "OUTSIDE-IN", "INTERFACE",
                               "HOST-INTERFACE", "CONTAINER"});
  }
  heads.push_back("PROBLEM");
  if (named) heads.insert(heads.begin(), "NODE");
  Table table(std::move(heads));
  bool any = false;
  for (const auto& [node, pods] : nodes) {
    for (const v1::Pod& p : pods.pods()) {
      std::vector<std::string> row = {
          p.namespace_(),
          p.name(),
          Join(p.addresses()),
          p.settling() ? p.mode() + " (settling)" : p.mode(),
          Join(p.protected_by()),
          absl::StrCat(p.mtu())};
      if (wide) {
        row.insert(row.end(),
                   {p.outside_denied() ? "deny" : "allow",
                    p.outside_in_allowed() ? "allow" : "deny", p.interface(),
                    p.host_interface(), p.container_id()});
      }
      row.push_back(p.problem());
      if (named) row.insert(row.begin(), node);
      table.Add(std::move(row));
      any = true;
    }
  }
  return any ? table.Render() : "No pods are attached.\n";
}

std::string DropsText(const v1::ListDropsResponse& drops, bool wide) {
  return ClusterDropsText({{"", drops}}, wide, /*counters=*/true);
}

std::string ClusterDropsText(const ByNode<v1::ListDropsResponse>& nodes,
                             bool wide, bool counters) {
  const bool named = IsNamed(nodes);
  std::vector<std::string> heads = {"TIME", "POD",   "FROM",
                                    "TO",   "PROTO", "REASON"};
  if (wide) {
    heads.insert(heads.end(),
                 {"GUARD", "HOOK", "INTERFACE", "CAME-IN", "SUPPRESSED"});
  }
  std::vector<std::string> count_heads = {"GUARD", "POD", "PACKETS", "REASON"};
  if (named) {
    heads.insert(heads.begin(), "NODE");
    count_heads.insert(count_heads.begin(), "NODE");
  }
  Table table(std::move(heads));
  Table counts(std::move(count_heads));
  bool any = false;
  bool counted = false;
  bool counts_node = false;
  const auto end = [](const std::string& address, uint32_t port) {
    return port == 0 ? address : absl::StrCat(address, " ", port);
  };
  for (const auto& [node, drops] : nodes) {
    for (const v1::Drop& d : drops.drops()) {
      std::vector<std::string> row = {
          TimeUtil::ToString(d.time()),
          d.pod(),
          end(d.source(), d.source_port()),
          end(d.destination(), d.destination_port()),
          absl::StrCat(d.protocol()),
          d.reason()};
      if (wide) {
        row.insert(row.end(),
                   {d.guard(), d.hook(), d.interface(), d.input_interface(),
                    absl::StrCat(d.suppressed())});
      }
      if (named) row.insert(row.begin(), node);
      table.Add(std::move(row));
      any = true;
    }
    for (const v1::VerdictCount& c : drops.counters()) {
      if (!c.drop() || c.packets() == 0) continue;
      counts_node |= c.pod().empty();
      std::vector<std::string> row = {c.guard(),
                                      c.pod().empty() ? "(node)" : c.pod(),
                                      absl::StrCat(c.packets()), c.text()};
      if (named) row.insert(row.begin(), node);
      counts.Add(std::move(row));
      counted = true;
    }
  }
  if (!counters) return any ? table.Render() : "";
  const std::string text = any ? absl::StrCat(table.Render(), "\n") : "";
  if (!counted) return text + "Nothing was dropped.\n";
  return absl::StrCat(text, counts.Render(),
                      counts_node ? "\nA guard that names no pod counts for "
                                    "the whole node, and tells no single "
                                    "packets.\n"
                                  : "");
}

std::string ProofText(const v1::VerifyResponse& proof) {
  std::string text;
  for (const v1::GuardState& guard : proof.guards()) {
    absl::StrAppend(&text, guard.name(), " guard: ",
                    !guard.on()      ? "off"
                    : guard.stands() ? "stands"
                                     : "does not stand");
    if (guard.repairs() != 0) {
      absl::StrAppend(&text, ", made good ", guard.repairs(), " times");
    }
    text += "\n";
  }
  absl::StrAppend(&text, "ESP packets: ", proof.esp_out(), " out, ",
                  proof.esp_in(), " in\n");
  if (!proof.pods().empty()) {
    Table table({"NAMESPACE", "NAME", "MODE", "PROVEN", "STOPPED", "FINDINGS"});
    for (const v1::PodProof& pod : proof.pods()) {
      table.Add({pod.namespace_(), pod.name(), pod.mode(), YesNo(pod.proven()),
                 absl::StrCat(pod.stopped()), Join(pod.findings())});
    }
    text += table.Render();
  } else if (proof.findings().empty()) {
    text +=
        "Not proven: no pod here is `required`, so there is nothing to "
        "prove\n";
  }
  for (const std::string& warning : proof.warnings()) {
    absl::StrAppend(&text, "Warning: ", Printable(warning), "\n");
  }
  for (const std::string& finding : proof.findings()) {
    absl::StrAppend(&text, "Not proven: ", Printable(finding), "\n");
  }
  return text;
}

std::string EventText(const v1::Event& event) {
  std::string text;
  if (event.missed() != 0) {
    absl::StrAppend(&text, "(", event.missed(), " events were missed)\n");
  }
  absl::StrAppend(&text, TimeUtil::ToString(event.time()), "  ", event.kind());
  if (!event.peer().empty()) {
    absl::StrAppend(&text, "  ", Printable(event.peer()));
  }
  if (!event.detail().empty()) {
    absl::StrAppend(&text, "  ", Printable(event.detail()));
  }
  return text + "\n";
}

}  // namespace espalier::kubectl
