"""CRDs, RBAC and admission policies on a real API server. Each refusal has its
control: the same request by who may, or about what one may."""

import json

import pytest

from api_server import (KEY, SPACE, Client, add_node, agent_token, espalier_node, install,
                        policies_answer, report)
from conftest import CHART
from lab import wait_until
from lab.kube import Cluster


@pytest.fixture(scope="module")
def control(kube_lab) -> Cluster:
    cluster = Cluster(kube_lab, nodes=0)
    cluster.up()
    install(cluster, CHART)
    add_node(cluster, "a", 1)
    add_node(cluster, "b", 2)
    policies_answer(Client(cluster))
    return cluster


@pytest.fixture(scope="module")
def admin(control) -> Client:
    return Client(control)


@pytest.fixture(scope="module")
def agent_a(control) -> Client:
    return Client(control, token=agent_token(control, "a"))


def namespace(name: str, **annotations) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": name, "annotations": {
            f"espalier.dev/{key.replace('_', '-')}": value
            for key, value in annotations.items()}}}


def pod(space: str, name: str, *, host_network: bool = False, **annotations) -> dict:
    item = namespace(name, **annotations)
    item["kind"] = "Pod"
    item["metadata"]["namespace"] = space
    item["spec"] = {"hostNetwork": host_network,
                    "containers": [{"name": "c", "image": "none"}]}
    return item


def create(client: Client, item: dict) -> str:
    result = client.kubectl("create", "-f", "-", input=json.dumps(item), check=False)
    return result.stderr


def test_an_agent_writes_its_own_nodes_objects(agent_a, admin):
    assert agent_a.apply(espalier_node("a")) == ""
    assert agent_a.apply(report("a")) == ""
    assert agent_a.apply(report("a", tunnels={"up": 1, "wanted": 1}),
                         subresource="status") == ""
    printed = admin.kubectl("get", "espaliernodes,espaliernodereports").stdout
    for head in ("VERIFIED", "DATAPATH", "POD CIDRS", "READY", "WANTED", "DROPS"):
        assert head in printed


@pytest.mark.parametrize("item, subresource", [
    (espalier_node("b"), ""), (report("b"), ""),
    (report("b", tunnels={"up": 1}), "status")])
def test_and_no_other_nodes(agent_a, admin, item, subresource):
    assert admin.apply(espalier_node("b"), report("b")) == ""
    words = agent_a.apply(item, subresource=subresource)
    assert "this token is of node a and may not write" in words


def test_a_token_that_names_no_node_is_refused(control):
    stolen = Client(control, token=agent_token(control, "a", bound=False))
    assert "names no node" in stolen.apply(espalier_node("a"))


def test_an_agent_has_no_word_in_what_peers_trust(agent_a, admin):
    assert agent_a.apply(espalier_node("a")) == ""
    claim = espalier_node("a")
    claim["status"] = {"addresses": ["192.0.2.66"], "podCIDRs": ["10.244.66.0/24"]}
    assert "cannot patch resource \"espaliernodes/status\"" in agent_a.apply(
        claim, subresource="status")
    # In the object itself it is ignored.
    assert agent_a.apply(claim) == ""
    assert "status" not in json.loads(
        admin.kubectl("get", "espaliernode", "a", "-o", "json").stdout)


def test_even_with_every_right_an_agent_stays_with_its_node(control, agent_a, admin):
    """RBAC gives agents no DELETE and no status: the policy must hold without it."""
    admin.kubectl("create", "clusterrole", "too-much", "--verb=*",
                  "--resource=espaliernodes.espalier.dev,espaliernodes.espalier.dev/status")
    admin.kubectl("create", "clusterrolebinding", "too-much", "--clusterrole=too-much",
                  f"--serviceaccount={SPACE}:espalier-agent")
    try:
        assert admin.apply(espalier_node("a"), espalier_node("b")) == ""
        claim = espalier_node("b")
        claim["status"] = {"podCIDRs": ["10.244.66.0/24"]}

        def refused_by_the_policy() -> bool:
            return "may not write" in agent_a.apply(claim, subresource="status")
        wait_until(refused_by_the_policy, 20, "the role is in force")
        gone = agent_a.kubectl("delete", "espaliernode", "b", check=False)
        assert gone.returncode != 0 and "may not write" in gone.stderr
        everything = agent_a.kubectl("delete", "espaliernodes", "--all", check=False)
        assert "may not write" in everything.stderr
        assert admin.kubectl("get", "espaliernode", "b").returncode == 0
        assert admin.apply(espalier_node("a")) == ""
        agent_a.kubectl("delete", "espaliernode", "a")
    finally:
        admin.kubectl("delete", "clusterrolebinding,clusterrole", "too-much")
        admin.apply(espalier_node("a"), espalier_node("b"))


@pytest.mark.parametrize("spec, words", [
    ({"publicKeys": []}, "publicKeys"),
    ({"publicKeys": [KEY] * 4}, "publicKeys"),
    ({"publicKeys": ["no base64!" * 8]}, "publicKeys"),
    ({"publicKeys": ["short"]}, "publicKeys"),
    ({"publicKeys": ["A" * 2000]}, "publicKeys"),
    ({"datapath": "magic"}, "datapath"),
    ({"ports": {"ike": 70000}}, "ports"),
    ({"plaintextBlocks": ["10.244.1.0"]}, "plaintextBlocks"),
    ({"plaintextBlocks": ["everything"]}, "plaintextBlocks")])
def test_the_schema_refuses(agent_a, spec, words):
    assert words in agent_a.apply(espalier_node("a", **spec))


def test_the_schema_takes_what_is_right(agent_a):
    assert agent_a.apply(espalier_node(
        "a", publicKeys=[KEY, KEY[:-4] + "AAA="], datapath="kernel",
        plaintextBlocks=["10.244.1.0/28", "fd00:244:0:1::/124"],
        ports={"ike": 500, "natt": 4500})) == ""


def test_the_schema_of_the_status(admin):
    wrong = espalier_node("a")
    for status in ({"addresses": ["192.0.2.300"]}, {"addresses": ["node"]},
                   {"podCIDRs": ["10.244.1.0"]}):
        wrong["status"] = status
        assert next(iter(status)) in admin.apply(wrong, subresource="status")
    wrong["status"] = {"addresses": ["192.0.2.1", "2001:db8::1"],
                       "podCIDRs": ["10.244.1.0/24", "fd00:244:0:1::/64"]}
    assert admin.apply(wrong, subresource="status", manager="test") == ""
    wrong["status"] = {"addresses": [], "podCIDRs": []}
    assert admin.apply(wrong, subresource="status", manager="test") == ""


def test_unknown_words_are_refused(admin):
    assert 'expected one of required, preferred, disabled' in create(
        admin, namespace("w1", encryption="requird"))
    assert "outside" in create(admin, namespace("w1", outside="yes"))
    assert "outside-in" in create(admin, namespace("w1", outside_in="yes"))
    assert create(admin, namespace("w1", encryption="required", outside="deny",
                                   outside_in="deny")) == ""
    changed = admin.kubectl("annotate", "--overwrite", "namespace", "w1",
                            "espalier.dev/encryption=strong", check=False)
    assert "expected one of" in changed.stderr
    wait_for_account(admin, "w1")
    assert "expected one of" in create(admin, pod("w1", "p", encryption="strong"))
    assert create(admin, pod("w1", "p", encryption="required")) == ""


def wait_for_account(admin: Client, space: str) -> None:
    wait_until(lambda: admin.kubectl("get", "serviceaccount", "default", "-n", space,
                                     check=False).returncode == 0, 30, "its account")


def test_host_network_in_required_namespaces(admin):
    for name, annotations in (("h-req", {"encryption": "required"}),
                              ("h-pref", {"encryption": "preferred"}), ("h-none", {})):
        assert create(admin, namespace(name, **annotations)) == ""
        wait_for_account(admin, name)
    assert "hostNetwork" in create(admin, pod("h-req", "p", host_network=True))
    assert create(admin, pod("h-req", "p")) == ""
    assert create(admin, pod("h-pref", "p", host_network=True)) == ""
    assert create(admin, pod("h-none", "p", host_network=True)) == ""
    assert "hostNetwork" in create(
        admin, pod("h-none", "q", host_network=True, encryption="required"))


def test_host_network_may_be_only_warned_of(control, admin):
    install(control, CHART, admission={"hostNetworkInRequired": "warn"})
    try:
        assert create(admin, namespace("h-warn", encryption="required")) == ""
        wait_for_account(admin, "h-warn")

        def warned() -> bool:
            result = admin.kubectl("create", "--dry-run=server", "-f", "-", check=False,
                                   input=json.dumps(pod("h-warn", "p", host_network=True)))
            return result.returncode == 0 and "Warning" in result.stderr
        wait_until(warned, 30, "a warning in place of a refusal")
    finally:
        install(control, CHART)


@pytest.fixture(scope="module")
def editor(control, admin) -> Client:
    admin.kubectl("create", "clusterrole", "edit-namespaces", "--verb=get,patch,update,create",
                  "--resource=namespaces,namespaces/status,namespaces/finalize")
    admin.kubectl("create", "clusterrolebinding", "edit-namespaces",
                  "--clusterrole=edit-namespaces", "--user=eve", "--user=mallory")
    admin.kubectl("create", "clusterrolebinding", "may-weaken",
                  "--clusterrole=espalier-weaken", "--user=mallory")
    client = Client(control, user="eve")
    wait_until(lambda: client.kubectl("get", "namespace", "default", check=False).returncode == 0,
               20, "the role is in force")
    return client


def annotate(client: Client, space: str, *words) -> str:
    return client.kubectl("annotate", "--overwrite", "namespace", space, *words,
                          check=False).stderr


@pytest.mark.parametrize("before, change", [
    ({"encryption": "required"}, "espalier.dev/encryption=preferred"),
    ({"encryption": "required"}, "espalier.dev/encryption=disabled"),
    ({"encryption": "required"}, "espalier.dev/encryption-"),
    ({"encryption": "preferred"}, "espalier.dev/encryption=disabled"),
    ({"encryption": "preferred"}, "espalier.dev/encryption-"),
    ({}, "espalier.dev/encryption=disabled"),
    ({"outside": "deny"}, "espalier.dev/outside=allow"),
    ({"outside": "deny"}, "espalier.dev/outside-"),
    ({}, "espalier.dev/outside-in=allow")])
def test_weakening_needs_its_verb(control, admin, editor, request, before, change):
    name = f"weak-{abs(hash(request.node.name)) % 10**8}"
    assert create(admin, namespace(name, **before)) == ""
    refused = annotate(editor, name, change)
    assert "may not weaken" in refused and "espalier-weaken" in refused
    assert "unchanged" not in refused
    may = Client(control, user="mallory")
    wait_until(lambda: annotate(may, name, change) == "", 20, "who has the verb may")


@pytest.mark.parametrize("before, change", [
    ({}, "espalier.dev/encryption=required"),
    ({"encryption": "disabled"}, "espalier.dev/encryption=preferred"),
    ({"encryption": "disabled"}, "espalier.dev/encryption-"),
    ({}, "espalier.dev/outside=deny"),
    ({"encryption": "required"}, "team=blue")])
def test_strengthening_and_all_else_does_not(admin, editor, request, before, change):
    name = f"strong-{abs(hash(request.node.name)) % 10**8}"
    assert create(admin, namespace(name, **before)) == ""
    assert annotate(editor, name, change) == ""


def test_a_subresource_is_no_way_around(admin, editor):
    assert create(admin, namespace("around", encryption="required")) == ""
    weak = namespace("around", encryption="disabled")
    words = editor.apply(weak, subresource="status", manager="eve")
    kept = json.loads(admin.kubectl("get", "namespace", "around", "-o", "json").stdout)
    assert "may not weaken" in words
    assert kept["metadata"]["annotations"]["espalier.dev/encryption"] == "required"


def test_helm_uninstall_keeps_the_crds(control, admin):
    """Last: nothing works after it."""
    control.helm("uninstall", "espalier", "--namespace", SPACE, timeout=120)
    assert admin.kubectl("get", "espaliernodes").returncode == 0
