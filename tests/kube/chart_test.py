"""The chart without a cluster: what helm refuses, and what it makes of values."""

import json
import pathlib
import re
import subprocess

import pytest

from lab import go_program

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts/espalier"
CIDRS = {"clusterPodCIDRs": ["10.244.0.0/16", "fd00:244::/48"]}
WORKLOADS = (("DaemonSet", "espalier-agent"), ("DaemonSet", "espalier-espd"),
             ("Deployment", "espalier-controller"))


def helm(*words, values: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [go_program("helm.sh/helm/v4/cmd/helm", "helm"), *words, "--values", "-"],
        input=json.dumps(values or {}), capture_output=True, text=True, timeout=60)


def template(values: dict, *words) -> str:
    result = helm("template", "espalier", str(CHART), "--namespace", "espalier-system",
                  *words, values={**CIDRS, **values})
    assert result.returncode == 0, result.stderr
    return result.stdout


def document(text: str, kind: str, name: str) -> str:
    found = [part for part in re.split(r"^---$", text, flags=re.M)
             if re.search(rf"^kind: {kind}$", part, re.M)
             and re.search(rf"^  name: {name}$", part, re.M)]
    assert len(found) == 1, (kind, name, len(found))
    return found[0]


def test_lint():
    result = helm("lint", "--strict", str(CHART), values=CIDRS)
    assert result.returncode == 0, result.stdout + result.stderr


def test_without_pod_cidrs_it_says_how_to_find_them():
    result = helm("template", "espalier", str(CHART))
    assert result.returncode != 0
    for words in ("clusterPodCIDRs", "--cluster-cidr", "kubectl get nodes", "--set"):
        assert words in result.stderr


@pytest.mark.parametrize("values, word", [
    ({"defaultMode": "requird"}, "defaultMode"),
    ({"clusterPodCIDR": ["10.0.0.0/8"]}, "clusterPodCIDR"),
    ({"clusterPodCIDRs": ["10.0.0.0"]}, "clusterPodCIDRs"),
    ({"clusterPodCIDRs": "10.0.0.0/8"}, "clusterPodCIDRs"),
    ({"datapath": {"driver": "auto"}}, "driver"),
    ({"image": {"digest": "sha256:12"}}, "digest"),
    ({"apiServer": {"port": 0}}, "port"),
    ({"controller": {"replicas": 0}}, "replicas"),
    ({"metrics": {"listen": "everywhere"}}, "listen"),
    ({"metrics": {"secure": {"agentListen": "9470"}}}, "agentListen"),
    ({"cni": {"binDir": "opt/cni/bin"}}, "binDir"),
    ({"paths": {"state": "var/lib/espalier"}}, "state"),
    ({"paths": {"run": "/run/other"}}, "run"),
    ({"admission": {"hostNetworkInRequired": "perhaps"}}, "hostNetworkInRequired"),
])
def test_the_schema_refuses(values, word):
    result = helm("template", "espalier", str(CHART), values={**CIDRS, **values})
    assert result.returncode != 0
    assert word in result.stderr


def test_disabled_by_default_needs_a_plaintext_path():
    refused = helm("template", "espalier", str(CHART),
                   values={**CIDRS, "defaultMode": "disabled"})
    assert refused.returncode != 0 and "plaintextPath" in refused.stderr
    template({"defaultMode": "disabled", "plaintextPath": "direct"})


def test_an_older_kubernetes_is_refused():
    result = helm("template", "espalier", str(CHART), "--kube-version", "1.29.5",
                  values=CIDRS)
    assert result.returncode != 0 and "1.30" in result.stderr


def test_no_container_has_more_than_it_needs():
    text = template({})
    assert "privileged: true" not in text
    agent = document(text, "DaemonSet", "espalier-agent")
    espd = document(text, "DaemonSet", "espalier-espd")
    controller = document(text, "Deployment", "espalier-controller")
    for part in (agent, espd, controller):
        assert "readOnlyRootFilesystem: true" in part
        assert "allowPrivilegeEscalation: false" in part
        assert "drop: [ALL]" in part
        assert "ports:" not in part

    def added(part: str) -> set[str]:
        return set(re.findall(r"^ +- ([A-Z_]{4,})$", part, re.M))
    assert added(agent) == {"NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN"}
    assert added(espd) == {"NET_ADMIN", "NET_RAW", "SYS_RESOURCE"}
    assert added(controller) == set()
    assert "automountServiceAccountToken: false" in espd
    assert "runAsNonRoot: true" in controller


def test_the_agents_configuration_is_one_that_it_takes():
    """What the chart's values become; the agent's own check of it is in
    install_test.py."""
    text = template({"nodeCIDRs": ["192.0.2.0/24"], "defaultMode": "required",
                     "agent": {"config": {"lifetimes": {"child": {"rekeyAfter": "30m"}}}}})
    config = document(text, "ConfigMap", "espalier-agent")
    for words in ("source: kubernetes", "- 192.0.2.0/24", "default: required",
                  "rekeyAfter: 30m", "driver: user"):
        assert words in config


def test_the_pod_that_cleans_a_node_is_the_agents_without_its_account():
    name = "nodes-keep-their-guards-until-kubectl-espalier-uninstall"
    text = template({"podLabels": {"team": "net"}, "defaultMode": "required",
                     "image": {"repository": "registry.example/espalier"}})
    kept = document(text, "ConfigMap", name)
    assert "helm.sh/resource-policy: keep" in kept and "default: required" in kept
    pod = json.loads(kept.partition("  pod.json: |")[2])
    # The DaemonSet's selector must not match it.
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "uninstall"
    assert pod["metadata"]["labels"]["team"] == "net"
    spec, (agent,) = pod["spec"], pod["spec"]["containers"]
    # What helm uninstall removes, a node's label, or a scheduler must not be needed.
    assert not {"serviceAccountName", "nodeSelector"} & spec.keys()
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never" and spec["hostNetwork"] is True
    assert spec["volumes"][0] == {"name": "config", "configMap": {"name": name}}
    assert {v["name"] for v in spec["volumes"]} == {m["name"] for m in agent["volumeMounts"]}
    assert agent["args"][-1] == "--uninstall" and "--install-cni" not in agent["args"]
    assert not any(key.endswith("Probe") for key in agent)
    assert agent["image"].startswith("registry.example/espalier:")
    assert set(agent["securityContext"]["capabilities"]["add"]) == {
        "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN"}


def test_espd_hands_over_in_user_mode_and_holds_sockets_in_kernel_mode():
    user = document(template({}), "DaemonSet", "espalier-espd")
    assert "maxSurge: 1" in user and "--take-over" in user
    assert "--wait-after-hand-over" in user and "/dev/net/tun" in user
    kernel = document(template({"datapath": {"driver": "kernel"}}), "DaemonSet",
                      "espalier-espd")
    assert "maxSurge: 0" in kernel and "--hold-udp-encap" in kernel
    assert "/dev/net/tun" not in kernel and "SYS_RESOURCE" not in kernel


def test_the_api_server_is_named_without_kube_proxy():
    named = template({"apiServer": {"host": "192.0.2.250", "port": 6443}})
    for kind, name in (("DaemonSet", "espalier-agent"), ("Deployment", "espalier-controller")):
        assert "KUBERNETES_SERVICE_HOST" in document(named, kind, name)
    assert "KUBERNETES_SERVICE_HOST" not in template({})


MONITORED = {"metrics": {"secure": {"enabled": True}, "podMonitor": {"enabled": True},
                         "rules": {"enabled": True}, "dashboard": {"enabled": True}}}


def test_monitoring_names_metrics_that_exist():
    """Those that docs/metrics.md lists."""
    text = template(MONITORED)
    known = set(re.findall(r"`(espalier_[a-z0-9_]+)`",
                           (CHART.parents[1] / "docs/metrics.md").read_text()))
    rules = document(text, "PrometheusRule", "espalier")
    dashboard = document(text, "ConfigMap", "espalier-dashboard")
    for part in (rules, dashboard):
        used = set(re.findall(r"\bespalier_[a-z0-9_]+", part))
        assert len(used) > 5 and used <= known, used - known
    json.loads((CHART / "monitoring/dashboard.json").read_text())
    names = re.findall(r"- alert: (\w+)$", (CHART / "monitoring/rules.yaml").read_text(), re.M)
    assert re.findall(r"alert: (\w+)$", rules, re.M) == names
    assert len(names) == len(set(names))
    # What nobody may have to find out otherwise.
    assert {"EspalierTunnelDown", "EspalierPlaintextRefused", "EspalierFallbackInUse",
            "EspalierKeyOld", "EspalierWatchStale", "EspalierAddressConflict",
            "EspalierPlaintextSent"} <= set(names)
    documented = (CHART.parents[1] / "docs/metrics.md").read_text().partition("## Alerts")[2]
    assert set(names) == set(re.findall(r"\bEspalier[A-Z]\w+", documented))


def metric_labels() -> dict[str, set[str]]:
    """As docs/metrics.md has them; which node and pod it was is Prometheus' to add."""
    rows = re.findall(r"^\| `(espalier_\w+)` \| \w+ \| ([^|]*)\|",
                      (CHART.parents[1] / "docs/metrics.md").read_text(), re.M)
    return {name: {word for word in labels.replace(",", " ").split()} | {"node", "instance"}
            for name, labels in rows}


def wrong_labels(expression: str, annotations: str, known: dict[str, set[str]]) -> set[str]:
    """Labels that a rule asks for, groups by or tells of, and does not have."""
    selectors = re.findall(r"\b(espalier_\w+)(?:{([^}]*)})?", expression)
    assert selectors
    asked = {label for name, matchers in selectors
             for label in re.findall(r"(\w+)\s*[!=]", matchers) if label not in known[name]}
    has = set.union(*(known[name] for name, _ in selectors))
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression)
               for label in group.split(",")}
    told = set(re.findall(r"\$labels\.(\w+)", annotations))
    aggregated = re.match(r"(sum|max|count|absent)\b", expression)
    return asked | (grouped - has) | (told - (grouped if aggregated else has))


def test_each_alert_asks_for_labels_that_its_metrics_have():
    """That it fires when it has to is not told here: that takes Prometheus."""
    known = metric_labels()
    parts = re.split(r"^ +- alert: ", (CHART / "monitoring/rules.yaml").read_text(),
                     flags=re.M)[1:]
    for part in parts:
        name = part.split()[0]
        match = re.search(r"^ +expr: (?:>-\n)?(.*?)^ +(?:for|labels):", part, re.M | re.S)
        expression = " ".join(match[1].split())
        for open_, close in ("()", "{}", "[]"):
            assert expression.count(open_) == expression.count(close), name
        assert not (wrong := wrong_labels(expression, part, known)), (name, wrong)
        assert re.search(r"^ +labels: {severity: (warning|critical)}$", part, re.M), name
        assert "summary:" in part and "description:" in part, name
        assert not re.search(r"^ +for: (?!\d+[mh]$)", part, re.M), name
    # Each of the three kinds is seen.
    for expression, told in (('espalier_tunnel_up{per="x"}', ""),
                             ("sum by (per) (espalier_tunnel_up)", ""),
                             ("sum by (node) (espalier_tunnel_up)", "{{ $labels.peer }}")):
        assert wrong_labels(expression, told, known)


def test_prometheus_reaches_both_over_tls():
    text = template(MONITORED)
    for component, port, mode in (("agent", 9470, "0400"), ("controller", 9478, "0440")):
        monitor = document(text, "PodMonitor", f"espalier-{component}")
        for words in ("scheme: https", f"$1:{port}", f'"[$1]:{port}"', "honorLabels: true",
                      "serverName: espalier-metrics", "name: espalier-metrics-token"):
            assert words in monitor, (component, words)
        # Its port is not declared: an endpoint that names it would find no target.
        assert not re.search(r"\b(port|portNumber|targetPort):", monitor)
        workload = document(text, "DaemonSet" if component == "agent" else "Deployment",
                            f"espalier-{component}")
        for words in ("secretName: espalier-metrics-tls", "optional: true",
                      "mountPath: /etc/espalier-metrics", f"defaultMode: {mode}"):
            assert words in workload, (component, words)
        role = document(text, "ClusterRole", f"espalier-{component}")
        assert "tokenreviews" in role and "subjectaccessreviews" in role
    assert "action: labeldrop" in document(text, "PodMonitor", "espalier-agent")
    assert "secureMetrics" in document(text, "ConfigMap", "espalier-agent")
    assert "--secure-metrics-listen=0.0.0.0:9478" in text
    assert "nonResourceURLs" in document(text, "ClusterRole", "espalier-metrics-reader")
    assert "account.name: espalier-metrics" in document(text, "Secret", "espalier-metrics-token")


def test_metrics_and_health_stay_on_the_node_unless_asked_for():
    text = template({})
    for words in ("secureMetrics", "secure-metrics", "tokenreviews", "espalier-metrics",
                  "0.0.0.0"):
        assert words not in text
    for kind, name in (("DaemonSet", "espalier-agent"), ("Deployment", "espalier-controller")):
        probes = re.findall(r"httpGet:.*?path: \S+", document(
            template(MONITORED), kind, name), re.S)
        assert len(probes) >= 2
        assert all("127.0.0.1" in probe for probe in probes), probes
    moved = template({"metrics": {"listen": "[::1]:9469", "controllerListen": "[::1]:9499"}})
    assert "--listen=[::1]:9499" in moved and 'host: "::1", port: 9499' in moved
    for values, word in (({"listen": "0.0.0.0:9469"}, "metrics.secure"),
                         ({"listen": "192.0.2.1:9469"}, "metrics.secure"),
                         ({"controllerListen": "[::]:9477"}, "metrics.secure"),
                         ({"podMonitor": {"enabled": True}}, "metrics.secure.enabled")):
        refused = helm("template", "espalier", str(CHART),
                       values={**CIDRS, "metrics": values})
        assert refused.returncode != 0 and word in refused.stderr, values


def test_se_linux_options_are_every_workloads():
    labels = {"type": "spc_t", "level": "s0:c1"}
    text = template({"seLinuxOptions": labels})
    for kind, name in WORKLOADS:
        part = document(text, kind, name)
        assert re.search(r"^      securityContext:\n(?: {8}.*\n)*? {8}seLinuxOptions:\n"
                         r" {10}level: s0:c1\n {10}type: spc_t$", part, re.M), name
        assert "seLinuxOptions" not in document(template({}), kind, name)


def test_paths_of_the_host_are_values():
    """Mounted where they are, so that a path means the same inside and outside."""
    values = {"paths": {"state": "/data/espalier", "netns": "/data/netns"},
              "cni": {"binDir": "/data/bin", "confDir": "/data/conf"}}
    text = template(values)
    agent = document(text, "DaemonSet", "espalier-agent")
    for path in ("/data/espalier", "/data/netns", "/data/bin", "/data/conf"):
        assert f"hostPath: {{path: {path}, type: DirectoryOrCreate}}" in agent, path
        assert f"mountPath: {path}" in agent, path
    config = document(text, "ConfigMap", "espalier-agent")
    assert "stateDirectory: /data/espalier" in config
    assert "--cni-bin-dir=/data/bin" in agent and "--cni-conf-dir=/data/conf" in agent
    for old in ("/var/lib/espalier", "/run/netns", "/opt/cni", "/etc/cni"):
        assert old not in agent, old
    # These two are no values (values.yaml says why): one place for all programs.
    for part in (agent, document(text, "DaemonSet", "espalier-espd"),
                 document(text, "Pod", "espalier-test")):
        assert "hostPath: {path: /run/espalier, type: Directory" in part
        assert "mountPath: /run/espalier}" in part
    assert "hostPath: {path: /sys/fs/bpf, type: Directory}" in agent


def test_the_image_by_digest():
    digest = "sha256:" + "a" * 64
    text = template({"image": {"repository": "registry.example/espalier", "digest": digest}})
    assert f"image: registry.example/espalier@{digest}" in text
