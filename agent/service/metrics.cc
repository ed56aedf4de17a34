#include "agent/service/metrics.h"

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace espalier::service {
namespace {

using Labels =
    std::initializer_list<std::pair<absl::string_view, absl::string_view>>;

// Writes the text as it goes: as objects, thousands of samples would take many
// times its memory.
class Builder {
 public:
  // Samples added until the next Family belong to this one.
  Builder& Counter(const char* name, const char* help) {
    return Family(name, help, "counter");
  }
  Builder& Gauge(const char* name, const char* help) {
    return Family(name, help, "gauge");
  }
  Builder& Add(double value, Labels labels = {}) {
    text_ += name_;
    const char* before = "{";
    for (const auto& [name, text] : labels) {
      absl::StrAppend(&text_, std::exchange(before, ","), name, "=\"");
      Escape(text);
      text_ += '"';
    }
    if (labels.size() > 0) text_ += '}';
    absl::StrAppendFormat(&text_, " %.16g\n", value);
    return *this;
  }
  std::string Render() { return std::move(text_); }

 private:
  Builder& Family(const char* name, const char* help, const char* type) {
    name_ = name;
    absl::StrAppend(&text_, "# HELP ", name, " ", help, "\n# TYPE ", name, " ",
                    type, "\n");
    return *this;
  }
  void Escape(absl::string_view text) {
    for (const char c : text) {
      if (c == '\n') {
        text_ += "\\n";
        continue;
      }
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += c;
    }
  }

  const char* name_ = "";
  std::string text_;
};

double D(uint64_t value) { return static_cast<double>(value); }

void AddProbes(const MetricsSnapshot& s, Builder* b) {
  b->Gauge("espalier_tunnel_no_packets",
           "1 while IKE is up with the peer but packets do not pass");
  for (const auto& t : s.tunnels) b->Add(t.no_packets, {{"peer", t.peer}});
  b->Gauge("espalier_tunnel_fell_back",
           "1 while ESP goes in UDP because protocol 50 did not pass");
  for (const auto& t : s.tunnels) b->Add(t.fell_back, {{"peer", t.peer}});
  b->Counter("espalier_tunnel_fallbacks_total",
             "Fallbacks from protocol 50 to UDP 4500")
      .Add(D(s.fallbacks));
  b->Counter("espalier_tunnel_probes_total",
             "Probes through the tunnel, sent and answered");
  for (const auto& t : s.tunnels) {
    b->Add(D(t.probes_sent), {{"peer", t.peer}, {"kind", "sent"}});
    b->Add(D(t.probes_answered), {{"peer", t.peer}, {"kind", "answered"}});
  }
  b->Gauge("espalier_tunnel_probe_round_trip_seconds",
           "Round trip of the last probe that was answered");
  for (const auto& t : s.tunnels) {
    b->Add(absl::ToDoubleSeconds(t.probe_round_trip), {{"peer", t.peer}});
  }
}

void AddTunnels(const MetricsSnapshot& s, Builder* b) {
  size_t up = 0, wanted = 0;
  b->Gauge("espalier_tunnel_up",
           "1 while packets pass to and from the peer through ESP");
  for (const auto& t : s.tunnels) {
    up += t.up;
    wanted += t.wanted;
    b->Add(t.up, {{"peer", t.peer}});
  }
  b->Gauge("espalier_tunnels_wanted", "Configured peers, idle ones excepted")
      .Add(D(wanted));
  b->Gauge("espalier_tunnels_up", "Peers whose tunnels pass packets")
      .Add(D(up));
  AddProbes(s, b);
  b->Counter("espalier_esp_packets_total", "Inner packets through ESP");
  for (const auto& t : s.tunnels) {
    b->Add(D(t.inbound.packets), {{"peer", t.peer}, {"direction", "in"}});
    b->Add(D(t.outbound.packets), {{"peer", t.peer}, {"direction", "out"}});
  }
  b->Counter("espalier_esp_bytes_total", "Octets of inner packets through ESP");
  for (const auto& t : s.tunnels) {
    b->Add(D(t.inbound.bytes), {{"peer", t.peer}, {"direction", "in"}});
    b->Add(D(t.outbound.bytes), {{"peer", t.peer}, {"direction", "out"}});
  }
  b->Counter("espalier_esp_errors_total", "ESP packets dropped, by reason");
  for (const auto& t : s.tunnels) {
    b->Add(D(t.inbound.replayed), {{"peer", t.peer}, {"reason", "replayed"}});
    b->Add(D(t.inbound.bad_icv), {{"peer", t.peer}, {"reason", "bad_icv"}});
    b->Add(D(t.inbound.selector_mismatch),
           {{"peer", t.peer}, {"reason", "selector_mismatch"}});
    b->Add(D(t.outbound.send_errors),
           {{"peer", t.peer}, {"reason", "send_error"}});
  }
}

void AddIke(const MetricsSnapshot& s, Builder* b) {
  b->Counter("espalier_ike_datagrams_total", "IKE datagrams")
      .Add(D(s.ike.datagrams_in), {{"direction", "in"}})
      .Add(D(s.ike.datagrams_out), {{"direction", "out"}});
  b->Counter("espalier_ike_dropped_total", "IKE datagrams dropped, by reason")
      .Add(D(s.ike.malformed), {{"reason", "malformed"}})
      .Add(D(s.ike.bad_integrity), {{"reason", "bad_integrity"}})
      .Add(D(s.ike.unknown_spi), {{"reason", "unknown_spi"}});
  b->Counter("espalier_ike_retransmissions_total", "IKE requests sent again")
      .Add(D(s.ike.retransmissions));
  b->Counter("espalier_ike_duplicate_requests_total",
             "Requests answered again out of the response cache")
      .Add(D(s.ike.duplicate_requests));
  b->Counter("espalier_ike_cookies_sent_total", "Initiators asked for a cookie")
      .Add(D(s.ike.cookies_sent));
  b->Gauge("espalier_ike_half_open", "IKE_SAs not yet authenticated")
      .Add(D(s.ike.half_open));
  b->Counter("espalier_sas_established_total", "SAs established, by kind")
      .Add(D(s.ike.ike_sas_established), {{"kind", "ike"}})
      .Add(D(s.ike.child_sas_established), {{"kind", "child"}});
  b->Counter("espalier_rekeys_total", "SAs rekeyed, by kind")
      .Add(D(s.ike_rekeys), {{"kind", "ike"}})
      .Add(D(s.child_rekeys), {{"kind", "child"}});
  b->Counter("espalier_ike_authentication_failures_total",
             "Peers that failed to authenticate")
      .Add(D(s.ike.authentication_failures));
  b->Counter("espalier_crypto_jobs_refused_total",
             "Key exchanges and signatures refused because too many waited")
      .Add(D(s.refused_crypto_jobs));
}

void AddSurroundings(const MetricsSnapshot& s, Builder* b) {
  b->Gauge("espalier_pods_unprotected",
           "Pods of this node that another CNI plugin attached, by the mode "
           "that was asked for them");
  for (const char* mode : {"required", "preferred", "disabled"}) {
    const auto found = s.unprotected_pods.find(mode);
    b->Add(found == s.unprotected_pods.end() ? 0 : D(found->second),
           {{"mode", mode}});
  }
  b->Gauge("espalier_foreign_cni_configs",
           "Other networks' configurations in the runtime's folder, by whether "
           "the runtime takes them before ours")
      .Add(D(s.foreign_cni_configs_before), {{"order", "before"}})
      .Add(D(s.foreign_cni_configs_after), {{"order", "after"}});
  b->Gauge("espalier_kube_proxy_unsupported",
           "1 while what translates Services on this node is not supported")
      .Add(s.kube_proxy_unsupported);
}

void AddGuards(const MetricsSnapshot& s, Builder* b) {
  b->Gauge("espalier_pods_by_mode", "Pods attached on this node, by mode");
  for (const char* mode : {"required", "preferred", "disabled"}) {
    const auto found = s.pods_by_mode.find(mode);
    b->Add(found == s.pods_by_mode.end() ? 0 : D(found->second),
           {{"mode", mode}});
  }
  b->Gauge("espalier_guard_up",
           "1 while all of a guard stands as it has to; 0 also for one that "
           "is switched off");
  for (const char* guard : {"bpf", "nftables"}) {
    const auto found = s.guards.find(guard);
    b->Add(found != s.guards.end() && found->second, {{"guard", guard}});
  }
  b->Counter("espalier_guard_repairs_total",
             "What somebody took away from a guard, noticed and made good");
  for (const char* guard : {"bpf", "nftables"}) {
    const auto found = s.guard_repairs.find(guard);
    b->Add(found == s.guard_repairs.end() ? 0 : D(found->second),
           {{"guard", guard}});
  }
  b->Counter("espalier_guard_packets_total",
             "Packets by what a guard found; result drop or pass");
  for (const auto& p : s.guard_packets) {
    b->Add(D(p.packets), {{"guard", p.guard},
                          {"pod", p.pod},
                          {"mode", p.mode},
                          {"verdict", p.verdict},
                          {"result", p.drop ? "drop" : "pass"}});
  }
}

void AddWatches(const MetricsSnapshot::Source& source, Builder* b) {
  b->Gauge("espalier_watch_silent_seconds",
           "Since the API server last said something; -1: never");
  for (const auto& watch : source.watches) {
    b->Add(watch.silent ? absl::ToDoubleSeconds(*watch.silent) : -1,
           {{"resource", watch.resource}});
  }
  b->Counter("espalier_watch_lists_total",
             "Complete lists read from the API server");
  for (const auto& watch : source.watches) {
    b->Add(D(watch.lists), {{"resource", watch.resource}});
  }
  b->Counter("espalier_watch_events_total",
             "Watch events that the API server sent");
  for (const auto& watch : source.watches) {
    for (const auto& [kind, count] : watch.events) {
      b->Add(D(count), {{"resource", watch.resource}, {"kind", kind}});
    }
  }
  b->Counter("espalier_watch_bytes_total",
             "Octets of lists and watch events, uncompressed");
  for (const auto& watch : source.watches) {
    b->Add(D(watch.bytes), {{"resource", watch.resource}});
  }
}

void AddTrust(const MetricsSnapshot& s, Builder* b) {
  b->Gauge("espalier_key_age_seconds",
           "Since this node's key in use was made (its file's time)");
  if (s.key_age) b->Add(absl::ToDoubleSeconds(*s.key_age));
  b->Gauge("espalier_source_current",
           "1 while the API server is believed, takes what this node "
           "publishes, and is watched");
  if (!s.source) return;
  b->Add(s.source->current);
  AddWatches(*s.source, b);
}

}  // namespace

std::string RenderMetrics(const MetricsSnapshot& s) {
  Builder b;
  b.Gauge("espalier_build_info", "1; which agent this is")
      .Add(1, {{"version", s.version}, {"node", s.node}});
  AddTunnels(s, &b);
  AddIke(s, &b);
  b.Counter("espalier_config_reloads_total", "Configuration reloads")
      .Add(D(s.config_reloads), {{"result", "ok"}})
      .Add(D(s.config_reload_failures), {{"result", "error"}});
  b.Gauge("espalier_config_stale",
          "1 while the configuration on disk is refused and an older one runs")
      .Add(s.config_stale);
  b.Gauge("espalier_datapath_connected", "1 while the datapath answers")
      .Add(s.datapath_connected);
  b.Gauge("espalier_pods", "Pods attached on this node").Add(D(s.pods));
  AddSurroundings(s, &b);
  AddGuards(s, &b);
  AddTrust(s, &b);
  b.Counter("espalier_datapath_events_total",
            "The datapath's own counters, by name");
  for (const auto& [name, value] : s.datapath) {
    b.Add(D(value), {{"name", name}});
  }
  return b.Render();
}

}  // namespace espalier::service
