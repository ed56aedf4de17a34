#include <map>
#include <ostream>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "agent/kubectl/cluster_views.h"
#include "agent/kubectl/command.h"
#include "agent/kubectl/table.h"

namespace espalier::kubectl {
namespace {

// An agent reports at most once a minute, and after some minutes at the latest.
constexpr absl::Duration kSilent = absl::Minutes(10);

struct NodeRow {
  std::string agent = "missing";
  std::string verified;
  bool published = false;
  bool reported = false;
  int64_t wanted = 0;
  int64_t up = 0;
  int64_t fallback = 0;
  int64_t required = 0;
  int64_t preferred = 0;
  int64_t disabled = 0;
  int64_t unprotected = 0;
  int64_t drops = 0;
  std::string datapath;
  std::string version;
  std::string age;
  std::vector<std::string> problems;
};

struct Workload {
  int64_t wanted = 0;
  int64_t ready = 0;
  bool there = false;
};

struct Overview {
  std::map<std::string, NodeRow> nodes;
  std::map<std::string, Workload> workloads;  // by component
  std::vector<std::string> problems;          // of no node
  bool healthy() const {
    if (nodes.empty() || !problems.empty()) return false;
    for (const auto& [name, row] : nodes) {
      if (!row.problems.empty()) return false;
    }
    return true;
  }
};

void AddEspalierNode(const Json& object, NodeRow* row) {
  row->published = true;
  row->datapath = TextAt(object, "/spec/datapath");
  const Condition verified = ConditionOf(object, "Verified");
  row->verified = !verified.there    ? "waiting"
                  : verified.is_true ? "yes"
                                     : verified.reason;
  if (!verified.there) {
    row->problems.push_back(
        "espalier-controller has not verified its addresses yet");
  } else if (!verified.is_true) {
    row->problems.push_back(verified.message);
  }
}

void AddReport(const Json& object, absl::Time now, NodeRow* row) {
  absl::Time reported;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, TextAt(object, "/status/lastReport"),
                       &reported, &error)) {
    return;
  }
  row->reported = true;
  row->age = HumanSeconds(absl::ToInt64Seconds(now - reported));
  row->wanted = NumberAt(object, "/status/tunnels/wanted");
  row->up = NumberAt(object, "/status/tunnels/up");
  row->fallback = NumberAt(object, "/status/tunnels/fallback");
  row->required = NumberAt(object, "/status/pods/required");
  row->preferred = NumberAt(object, "/status/pods/preferred");
  row->disabled = NumberAt(object, "/status/pods/disabled");
  row->unprotected = NumberAt(object, "/status/pods/unprotected");
  row->drops = NumberAt(object, "/status/drops/required");
  row->version = TextAt(object, "/status/agentVersion");
  if (row->up < row->wanted) {
    row->problems.push_back(
        absl::StrCat(row->wanted - row->up, " of its tunnels are not up"));
  }
  if (now - reported > kSilent) {
    row->problems.push_back(
        absl::StrCat("its agent has not reported for ", row->age));
  }
  for (const Json& condition : At(object, "/status/conditions")) {
    // Unknown is what cannot be seen, and no fault.
    if (TextAt(condition, "/status") != "False") continue;
    row->problems.push_back(absl::StrCat(
        TextAt(condition, "/type") == "Ready" ? "its agent is not ready: " : "",
        TextAt(condition, "/message")));
  }
}

void AddWorkload(const Json& object, Overview* overview) {
  const std::string component =
      TextAt(object, "/metadata/labels/app.kubernetes.io~1component");
  Workload& workload = overview->workloads[component];
  workload.there = true;
  if (TextAt(object, "/kind") == "DaemonSet") {
    workload.wanted += NumberAt(object, "/status/desiredNumberScheduled");
    workload.ready += NumberAt(object, "/status/numberReady");
  } else {
    workload.wanted += NumberAt(object, "/spec/replicas");
    workload.ready += NumberAt(object, "/status/readyReplicas");
  }
}

void AddPod(const Json& pod, Overview* overview) {
  if (TextAt(pod, "/metadata/labels/app.kubernetes.io~1component") != "agent" ||
      !TextAt(pod, "/metadata/deletionTimestamp").empty()) {
    return;
  }
  const std::string node = TextAt(pod, "/spec/nodeName");
  if (node.empty()) return;
  NodeRow& row = overview->nodes[node];
  row.agent = ConditionOf(pod, "Ready").is_true ? "ready"
              : TextAt(pod, "/status/phase") == "Running"
                  ? "not ready"
                  : TextAt(pod, "/status/phase");
  for (const Json& container : At(pod, "/status/containerStatuses")) {
    const std::string reason = TextAt(container, "/state/waiting/reason");
    if (!reason.empty()) row.agent = reason;
  }
}

std::optional<Overview> Look(const Cluster& cluster, int* code) {
  // Both kinds in one request each: an absent CRD fails the first.
  std::optional<std::vector<Json>> objects =
      cluster.List({"espaliernodes,espaliernodereports"}, code);
  if (!objects.has_value()) return std::nullopt;
  std::optional<std::vector<Json>> workloads = cluster.List(
      {"daemonsets,deployments,pods", "--all-namespaces", "-l", kAllLabels},
      code);
  if (!workloads.has_value()) return std::nullopt;
  Overview overview;
  const absl::Time now = absl::Now();
  for (const Json& object : *objects) {
    NodeRow& row = overview.nodes[TextAt(object, "/metadata/name")];
    if (TextAt(object, "/kind") == "EspalierNode") {
      AddEspalierNode(object, &row);
    } else {
      AddReport(object, now, &row);
    }
  }
  for (const Json& object : *workloads) {
    if (TextAt(object, "/kind") == "Pod") {
      AddPod(object, &overview);
    } else {
      AddWorkload(object, &overview);
    }
  }
  for (auto& [name, row] : overview.nodes) {
    if (row.agent != "ready") {
      row.problems.insert(row.problems.begin(),
                          absl::StrCat("its agent: ", row.agent));
    }
    if (!row.published) {
      row.problems.push_back("its agent has not published its key yet");
    } else if (!row.reported) {
      row.problems.push_back("its agent has not reported yet");
    }
  }
  for (const char* component : {"controller", "agent", "espd"}) {
    const Workload& workload = overview.workloads[component];
    if (!workload.there) {
      overview.problems.push_back(
          absl::StrCat("the chart's ", component,
                       " is missing: helm list --all-namespaces"));
    } else if (workload.ready < workload.wanted) {
      overview.problems.push_back(absl::StrCat(component, ": ", workload.ready,
                                               " of ", workload.wanted,
                                               " are ready"));
    }
  }
  return overview;
}

std::string Text(const Overview& overview, bool wide) {
  std::string text;
  for (const char* component : {"controller", "agent", "espd"}) {
    const auto found = overview.workloads.find(component);
    if (found == overview.workloads.end() || !found->second.there) continue;
    absl::StrAppend(&text, component, ": ", found->second.ready, " of ",
                    found->second.wanted, " ready\n");
  }
  int64_t up = 0;
  int64_t wanted = 0;
  int64_t required = 0;
  int64_t preferred = 0;
  int64_t disabled = 0;
  int64_t unprotected = 0;
  std::vector<std::string> heads = {"NODE",     "AGENT", "VERIFIED", "TUNNELS",
                                    "REQUIRED", "DROPS", "REPORTED"};
  if (wide) {
    heads.insert(heads.end(),
                 {"FALLBACK", "PREFERRED", "DISABLED", "DATAPATH", "VERSION"});
  }
  heads.push_back("PROBLEM");
  Table table(std::move(heads));
  for (const auto& [name, row] : overview.nodes) {
    up += row.up;
    wanted += row.wanted;
    required += row.required;
    preferred += row.preferred;
    disabled += row.disabled;
    unprotected += row.unprotected;
    const auto number = [&](int64_t n) {
      return row.reported ? absl::StrCat(n) : "";
    };
    std::vector<std::string> cells = {
        name,
        row.agent,
        row.verified,
        row.reported ? absl::StrCat(row.up, "/", row.wanted) : "",
        number(row.required),
        number(row.drops),
        row.age};
    if (wide) {
      cells.insert(cells.end(),
                   {number(row.fallback), number(row.preferred),
                    number(row.disabled), row.datapath, row.version});
    }
    cells.push_back(absl::StrJoin(row.problems, "; "));
    table.Add(std::move(cells));
  }
  // Each tunnel has two ends, and each end counts its own.
  absl::StrAppend(
      &text, "tunnel ends: ", up, " of ", wanted, " up\npods: ", required,
      " required, ", preferred, " preferred, ", disabled, " disabled",
      unprotected == 0 ? ""
                       : absl::StrCat(", ", unprotected,
                                      " of another CNI plugin, unprotected"),
      "\n\n");
  text += overview.nodes.empty() ? "No node has an agent.\n" : table.Render();
  for (const std::string& problem : overview.problems) {
    absl::StrAppend(&text, "Problem: ", Printable(problem), "\n");
  }
  return text;
}

Json AsJson(const Overview& overview) {
  Json json = {{"healthy", overview.healthy()},
               {"components", Json::object()},
               {"nodes", Json::array()},
               {"problems", overview.problems}};
  for (const auto& [component, workload] : overview.workloads) {
    if (!workload.there) continue;
    json["components"][component] = {{"ready", workload.ready},
                                     {"wanted", workload.wanted}};
  }
  for (const auto& [name, row] : overview.nodes) {
    json["nodes"].push_back(
        {{"node", name},
         {"agent", row.agent},
         {"verified", row.verified == "yes"},
         {"tunnels",
          {{"wanted", row.wanted}, {"up", row.up}, {"fallback", row.fallback}}},
         {"pods",
          {{"required", row.required},
           {"preferred", row.preferred},
           {"disabled", row.disabled},
           {"unprotected", row.unprotected}}},
         {"drops", row.drops},
         {"datapath", row.datapath},
         {"version", row.version},
         {"reported", row.reported},
         {"problems", row.problems}});
  }
  return json;
}

}  // namespace

int ClusterStatus(const Cluster& cluster, const StatusOptions& options) {
  const absl::Time end = absl::Now() + options.timeout;
  while (true) {
    int code = kExitOk;
    // While waiting, what fails now may work in a moment.
    std::ostringstream quiet;
    const Cluster looking(&cluster.kubectl(), cluster.format(), &cluster.out(),
                          options.wait ? &quiet : &cluster.err());
    const std::optional<Overview> overview = Look(looking, &code);
    const bool healthy = overview.has_value() && overview->healthy();
    if (healthy || !options.wait || absl::Now() >= end) {
      if (!overview.has_value()) {
        cluster.err() << quiet.str();
        return code;
      }
      cluster.Print(AsJson(*overview), Text(*overview, cluster.wide()));
      if (!healthy && options.wait) {
        cluster.err() << "not healthy after "
                      << absl::FormatDuration(options.timeout) << "\n";
      }
      return healthy ? kExitOk : kExitDegraded;
    }
    absl::SleepFor(options.interval);
  }
}

}  // namespace espalier::kubectl
