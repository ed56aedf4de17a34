"""espalier-controller against a real API server: what it verifies, and that its
death, its restart and a change of leader lose nothing."""

import json
import pathlib
import re
import signal

import pytest

from api_server import (CIDRS, SPACE, Client, add_node, espalier_node, install, report,
                        set_address)
from conftest import CHART
from lab import Process, binary, wait_until
from lab.kube import Cluster


@pytest.fixture(scope="module")
def control(kube_lab) -> Cluster:
    cluster = Cluster(kube_lab, nodes=0)
    cluster.up()
    install(cluster, CHART, metrics={"secure": {"enabled": True}})
    return cluster


@pytest.fixture(scope="module")
def admin(control) -> Client:
    return Client(control)


@pytest.fixture(scope="module")
def account(control) -> pathlib.Path:
    """The controller's own account: with no more than the chart's RBAC."""
    token = control.kubectl("create", "token", "espalier-controller", "-n",
                            SPACE).stdout.strip()
    return Client(control, token=token).config


class Replica:
    count = 0

    def __init__(self, control: Cluster, account: pathlib.Path, *flags: str):
        Replica.count += 1
        self.control = control
        self.identity = f"replica-{Replica.count}"
        self.port = 9500 + Replica.count
        self.process: Process = control.control.namespace.start(self.identity, [
            binary("espalier-controller"), f"--cluster-pod-cidr={','.join(CIDRS)}",
            "--node-cidr=192.0.2.0/24", f"--namespace={SPACE}",
            f"--identity={self.identity}", f"--listen=127.0.0.1:{self.port}",
            f"--kubeconfig={account}", *flags])

    def http(self, path: str) -> str:
        return self.control.control.namespace.run(
            ["curl", "-s", f"http://127.0.0.1:{self.port}{path}"], check=False).stdout

    def ready(self) -> "Replica":
        self.process.wait_for(lambda: self.http("/readyz").startswith("ok"), 30, "ready")
        return self


@pytest.fixture
def replica(control, account):
    replica = Replica(control, account).ready()
    yield replica
    replica.process.stop()


def status(admin: Client, name: str) -> dict:
    item = json.loads(admin.kubectl("get", "espaliernode", name, "-o", "json").stdout)
    return item.get("status", {})


def condition(admin: Client, name: str, kind: str = "Verified") -> dict:
    return next((c for c in status(admin, name).get("conditions", [])
                 if c["type"] == kind), {})


def leader(admin: Client) -> str:
    lease = json.loads(admin.kubectl("get", "lease", "espalier-controller", "-n", SPACE,
                                     "-o", "json").stdout)
    return lease["spec"].get("holderIdentity", "")


def test_it_verifies_owns_and_refuses(control, admin, replica):
    add_node(control, "a", 1)
    assert admin.apply(espalier_node("a"), report("a")) == ""
    wait_until(lambda: condition(admin, "a").get("status") == "True", 30, "a is verified")
    assert status(admin, "a")["addresses"] == ["192.0.2.1"]
    assert status(admin, "a")["podCIDRs"] == ["10.244.1.0/24", "fd00:244:0:1::/64"]
    uid = control.get("node", "a")["metadata"]["uid"]
    for kind in ("espaliernode", "espaliernodereport"):
        wait_until(lambda: [o["uid"] for o in control.get(kind, "a")["metadata"].get(
            "ownerReferences", [])] == [uid], 20, f"the {kind} is the Node's")

    # A Node that claims what a holds gets none; a keeps it.
    add_node(control, "claimant", 1, address="192.0.2.77")
    assert admin.apply(espalier_node("claimant")) == ""
    wait_until(lambda: condition(admin, "claimant", "Conflict").get("status") == "True", 30,
               "the conflict is told")
    assert "podCIDRs" not in status(admin, "claimant") or not status(
        admin, "claimant")["podCIDRs"]
    assert "held by node a" in condition(admin, "claimant")["message"]
    set_address(control, "claimant", "192.0.2.1")
    wait_until(lambda: not status(admin, "claimant").get("addresses"), 30,
               "nor does it get a's address")
    assert status(admin, "a")["addresses"] == ["192.0.2.1"]
    assert condition(admin, "a")["status"] == "True"
    metrics = replica.http("/metrics")
    assert "espalier_controller_conflicts 1" in metrics
    assert "espalier_controller_leader 1" in metrics

    # Outside the plan.
    add_node(control, "far", 9, address="203.0.113.1")
    assert admin.apply(espalier_node("far")) == ""
    wait_until(lambda: condition(admin, "far").get("reason") == "AddressRefused", 30,
               "an address outside nodeCIDRs")
    assert not status(admin, "far").get("addresses")

    # The Node goes, and with it the holder: the claimant may have it now.
    control.kubectl("delete", "node", "a")
    wait_until(lambda: status(admin, "claimant").get("podCIDRs") == [
        "10.244.1.0/24", "fd00:244:0:1::/64"], 60, "the next one gets it")
    wait_until(lambda: admin.kubectl("get", "espaliernode", "a", check=False).returncode != 0,
               60, "the API server collects what the Node owned")


def test_death_and_a_change_of_leader_lose_nothing(control, admin, account):
    first = Replica(control, account).ready()
    wait_until(lambda: leader(admin) == first.identity, 30, "the first leads")
    second = Replica(control, account).ready()
    add_node(control, "c", 3)
    assert admin.apply(espalier_node("c")) == ""
    wait_until(lambda: condition(admin, "c").get("status") == "True", 30, "c is verified")
    before = status(admin, "c")
    version = control.get("espaliernode", "c")["metadata"]["resourceVersion"]

    first.process.signal(signal.SIGKILL)
    # It comes while nobody leads.
    add_node(control, "d", 4)
    assert admin.apply(espalier_node("d")) == ""
    wait_until(lambda: leader(admin) == second.identity, 40, "the second takes over")
    wait_until(lambda: condition(admin, "d").get("status") == "True", 30, "d is verified")
    assert status(admin, "c") == before
    assert control.get("espaliernode", "c")["metadata"]["resourceVersion"] == version, \
        "a new leader wrote what had not changed"

    # A graceful end gives the Lease back: the next one need not wait for it.
    third = Replica(control, account).ready()
    second.process.signal(signal.SIGTERM)
    assert second.process.wait(15) == 0
    wait_until(lambda: leader(admin) == third.identity, 8, "the third takes over at once")
    third.process.stop()


def test_a_weakened_namespace_leaves_an_event(control, admin, replica):
    wait_until(lambda: leader(admin) == replica.identity, 30, "it leads")

    def seen() -> int:
        return int(re.search(r'^espalier_controller_watch_events_total{kind="Namespace"} (\d+)$',
                             replica.http("/metrics"), re.M)[1])
    before = seen()
    admin.kubectl("create", "namespace", "shop")
    admin.kubectl("annotate", "namespace", "shop", "espalier.dev/encryption=required")
    # Seen before it is weakened: an informer that saw both at once saw nothing.
    wait_until(lambda: seen() >= before + 2, 30, "the namespace and its annotation are seen")
    admin.kubectl("annotate", "namespace", "shop", "espalier.dev/encryption-")
    wait_until(lambda: "was required and is preferred" in admin.kubectl(
        "get", "events", "-n", "shop").stdout, 30, "the event")


def test_metrics_for_others_ask_the_api_server(control, admin, account):
    """With the controller's own account: what the chart lets it ask."""
    authority = control.settings.authority
    authority.issue("metrics", "espalier-metrics", server=["espalier-metrics", "127.0.0.1"])
    replica = Replica(control, account, "--secure-metrics-listen=0.0.0.0:9478",
                      f"--secure-metrics-certificate={authority.folder}/metrics.crt",
                      f"--secure-metrics-key={authority.folder}/metrics.key").ready()
    for name in ("scraper", "stranger"):
        admin.kubectl("create", "serviceaccount", name, "-n", SPACE)
    admin.kubectl("create", "clusterrolebinding", "scraper",
                  "--clusterrole=espalier-metrics-reader", f"--serviceaccount={SPACE}:scraper")

    def ask(*words: str, path: str = "/metrics") -> str:
        return control.control.namespace.run(
            ["curl", "-s", "--cacert", authority.certificate, "-w", "\n%{http_code}", *words,
             f"https://127.0.0.1:9478{path}"], check=False).stdout

    def token(name: str) -> list[str]:
        text = admin.kubectl("create", "token", name, "-n", SPACE).stdout.strip()
        return ["-H", f"Authorization: Bearer {text}"]
    wait_until(lambda: ask().endswith("401"), 30, "the certificate is served")
    assert ask("-H", "Authorization: Bearer none").endswith("401")
    assert ask(*token("stranger")).endswith("403")
    scraper = token("scraper")
    wait_until(lambda: ask(*scraper).endswith("200"), 30, "its role is in force")
    assert "espalier_controller_leader" in ask(*scraper)
    # Health is not for others, whoever they are.
    assert ask(*scraper, path="/healthz").endswith("404")
    assert control.control.namespace.run(
        ["curl", "-s", "http://127.0.0.1:9478/metrics"], check=False).stdout == ""
    replica.process.stop()


def test_without_its_rights_it_says_so(control):
    token = control.kubectl("create", "token", "espalier-agent", "-n", SPACE).stdout.strip()
    replica = Replica(control, Client(control, token=token).config)
    replica.process.wait_for(lambda: "nodes" in replica.http("/readyz"), 30, "its refusal")
    assert "forbidden" in replica.http("/readyz")
    replica.process.stop()
