"""The chart without a cluster: what helm refuses, and what it makes of values."""

import json
import pathlib
import re
import subprocess

import pytest

from lab import go_program

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts/espalier"
CIDRS = {"clusterPodCIDRs": ["10.244.0.0/16", "fd00:244::/48"]}


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
    ({"cni": {"binDir": "opt/cni/bin"}}, "binDir"),
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


def test_monitoring_names_metrics_that_exist():
    """Those that docs/metrics.md lists."""
    text = template({"metrics": {"listen": "0.0.0.0:9469", "podMonitor": {"enabled": True},
                                 "rules": {"enabled": True}, "dashboard": {"enabled": True}}})
    known = set(re.findall(r"`(espalier_[a-z0-9_]+)`",
                           (CHART.parents[1] / "docs/metrics.md").read_text()))
    rules = document(text, "PrometheusRule", "espalier")
    dashboard = document(text, "ConfigMap", "espalier-dashboard")
    for part in (rules, dashboard):
        used = set(re.findall(r"\bespalier_[a-z0-9_]+", part))
        assert len(used) > 5 and used <= known, used - known
    json.loads((CHART / "monitoring/dashboard.json").read_text())
    assert "portNumber: 9469" in document(text, "PodMonitor", "espalier-agent")
    refused = helm("template", "espalier", str(CHART), values={
        **CIDRS, "metrics": {"podMonitor": {"enabled": True}}})
    assert refused.returncode != 0 and "metrics.listen" in refused.stderr


def test_the_image_by_digest():
    digest = "sha256:" + "a" * 64
    text = template({"image": {"repository": "registry.example/espalier", "digest": digest}})
    assert f"image: registry.example/espalier@{digest}" in text
