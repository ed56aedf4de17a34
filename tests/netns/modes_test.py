"""Modes as people set them and look at them: the file, its reload, and what
kubectl-espalier says. What they do to packets is in fail_closed_test.py and
traffic_table_test.py."""

import json
import time

import pytest

from lab.capture import Capture, send_plaintext
from lab.mesh import Mesh
from lab.node import CLUSTER_CIDRS
from lab.session import binary, wait_until

MODES = {"default": "preferred",
         "namespaces": {"shop": {"encryption": "required"},
                        "legacy": {"encryption": "disabled"}},
         "pods": {"legacy/strong": {"encryption": "required"},
                  "shop/weak": {"encryption": "disabled"}}}


def extra(node, modes):
    return {"cluster": {**json.loads(node.config_path.read_text())["cluster"],
                        "plaintextPath": "direct"},
            "modes": modes}


@pytest.fixture
def mesh(lab):
    mesh = Mesh(lab)
    for node in mesh.nodes:
        node.write_config(mesh.peers_of(node), mesh.psk, extra=extra(node, MODES))
    return mesh.up()


def reload_modes(mesh, modes):
    for node in mesh.nodes:
        node.write_config(mesh.peers_of(node), mesh.psk, extra=extra(node, modes))


def pod_of(node, name):
    pods = json.loads(node.kubectl("pods", "-o", "json"))["pods"]
    return {pod["name"]: pod for pod in pods}[name]


def verify(node, *words):
    return node.namespace.run(
        [binary("kubectl-espalier"), "--socket", node.agent_socket, "verify", *words],
        check=False)


def guards(node):
    return {guard["name"]: guard
            for guard in json.loads(node.kubectl("status", "-o", "json"))["guards"]}


def test_pods_show_their_modes_and_what_protects_them(mesh):
    node = mesh.nodes[0]
    for name, namespace in (("web", "shop"), ("old", "legacy"), ("strong", "legacy"),
                            ("weak", "shop")):
        node.add_pod(name, namespace)
    modes = {name: pod_of(node, name)["mode"]
             for name in ("pod1", "web", "old", "strong", "weak")}
    assert modes == {"pod1": "preferred", "web": "required", "old": "disabled",
                     "strong": "required", "weak": "required"}
    assert "may only strengthen" in pod_of(node, "weak")["problem"]
    standing = [name for name, guard in guards(node).items() if guard["stands"]]
    assert "nftables" in standing
    assert pod_of(node, "web")["protected_by"] == standing
    status = json.loads(node.kubectl("status", "-o", "json"))
    assert status["plaintext_blocks"] == ["10.244.1.240/28",
                                          "fd00:244:1:0:ffff:ffff:ffff:fff0/124"]
    assert pod_of(node, "old")["addresses"][0] == "10.244.1.240"
    metrics = node.metrics()
    assert metrics['espalier_pods_by_mode{mode="required"}'] == 3
    assert metrics['espalier_guard_up{guard="nftables"}'] == 1
    mesh.assert_reachable()
    mesh.finish()


def test_verify_says_what_is_proven(mesh):
    node = mesh.nodes[0]
    node.add_pod("web", "shop")
    both = all(guard["stands"] for guard in guards(node).values())
    result = verify(node, "shop/web")
    assert result.returncode == (0 if both else 5), result.stdout
    assert "nftables guard: stands" in result.stdout
    result = verify(node, "default/pod1")
    assert result.returncode == 5
    assert "its mode is preferred" in result.stdout
    assert verify(node, "shop/nobody").returncode == 1


def test_a_mode_changes_while_pods_run(mesh):
    a, b = mesh.nodes
    web = a.add_pod("web", "shop")
    outside_wire = a.pods["pod1"]
    assert pod_of(a, "pod1")["mode"] == "preferred"
    reload_modes(mesh, {**MODES, "default": "required"})
    wait_until(lambda: pod_of(a, "pod1")["mode"] == "required", 5, "the new mode")
    mesh.wait_until_reachable()
    # What is forged on the wire reaches it no more, and is counted.
    before = sum(value for key, value in a.metrics().items()
                 if key.startswith("espalier_guard_packets_total") and 'result="drop"' in key)
    send_plaintext(b.namespace, b.uplink.device, b.uplink.mac, a.uplink.mac,
                   [("10.244.2.77", outside_wire.ipv4), ("fd00:244:2::77", outside_wire.ipv6)])
    wait_until(lambda: sum(
        value for key, value in a.metrics().items()
        if key.startswith("espalier_guard_packets_total") and 'result="drop"' in key)
        >= before + 2, 5, "the drops are counted")
    assert "Nothing was dropped" not in a.kubectl("drops")
    assert web.ping(b.pods["pod1"].ipv4) == 1


# Octets of a ping's payload that nothing else on the wire has.
ODD_SIZE = 777


def test_one_end_that_is_required_is_enough(lab):
    """Between a `disabled` pod and a `required` one, from either: ESP."""
    mesh = Mesh(lab)
    for node in mesh.nodes:
        node.write_config(
            mesh.peers_of(node), mesh.psk, extra=extra(node, MODES),
            peer_fields={peer.name: {"plaintextBlocks": [
                f"10.244.{peer.number}.240/28",
                f"fd00:244:{peer.number:x}:0:ffff:ffff:ffff:fff0/124"]}
                for peer in mesh.peers_of(node)})
    mesh.up()
    old, web = ([node.add_pod(name, namespace) for node in mesh.nodes]
                for name, namespace in (("old", "legacy"), ("web", "shop")))
    for source, target in ((old[0], web[1]), (web[0], old[1])):
        for address in (target.ipv4, target.ipv6):
            assert source.ping(address, size=ODD_SIZE) == 1
    packets = mesh.finish()
    # Four requests and their answers.
    assert sum(p.kind.startswith("esp") and p.length > ODD_SIZE
               for p in packets.packets) == 8
    # The control: between two `disabled` ones the wire has plaintext, and sees it.
    capture = Capture(mesh.wire, lab.folder / "control.pcap", CLUSTER_CIDRS)
    for address in (old[1].ipv4, old[1].ipv6):
        assert old[0].ping(address, size=ODD_SIZE) == 1
    packets = capture.stop()
    assert sum(p.kind == "plaintext" and p.length > ODD_SIZE for p in packets.packets) == 4
    assert not [p for p in packets.packets if p.kind.startswith("esp") and p.length > ODD_SIZE]


def test_a_slip_of_the_pen_strengthens(mesh):
    node = mesh.nodes[0]
    reload_modes(mesh, {**MODES, "default": "disabld"})
    wait_until(lambda: pod_of(node, "pod1")["mode"] == "required", 5, "the strongest mode")
    check = node.namespace.run(
        [binary("espalier-agent"), "--config", node.config_path, "--check"], check=False)
    assert check.returncode == 0
    assert "'disabld'" in check.stderr and "taken as required" in check.stderr


def test_a_deleted_table_is_made_good_and_reported(mesh):
    node = mesh.nodes[0]
    node.namespace.run(["nft", "delete", "table", "inet", "espalier_guard"])
    wait_until(lambda: guards(node)["nftables"]["repairs"] == "1", 5, "the repair")
    assert guards(node)["nftables"]["stands"]
    node.namespace.run(["nft", "list", "table", "inet", "espalier_guard"])
    time.sleep(0.2)
    assert guards(node)["nftables"]["repairs"] == "1"
