"""Two clusters on one wire whose nodes have the same names and pod CIDRs, and
each of which takes an address of the other's for a node of its own: as when a
machine went from one to the other. They refuse each other, and nobody is hurt."""

import json
import secrets

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from lab import CLUSTER_CIDRS, Capture, Node, Wire, send_plaintext, wait_until
from lab.traffic import Traffic

IDENTITIES = ("node-a", "node-b", "node-c")
FAILURES = "espalier_ike_authentication_failures_total"
ENOUGH = 3  # failures at either end of the foreign pair
TIMERS = {"grace": "1s", "retransmitFirst": "100ms", "retransmitMax": "500ms",
          "retransmitTries": 3}


def public_key() -> str:
    """PEM, of a private key that nobody has."""
    return ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


class Cluster:
    """Two of the three nodes that it believes in; the address of the third is the
    other cluster's. Nodes are called NAME-a and so on in the lab only."""

    def __init__(self, lab, wire: Wire, name: str, numbers: dict[str, int]):
        self.nodes: dict[str, Node] = {}
        for identity, number in numbers.items():
            node = Node(lab, wire, f"{name}-{identity[-1]}", number)
            node.pod_cidrs = pod_cidrs(identity)
            self.nodes[identity] = node
        self.psk = secrets.token_hex(32)

    def configure(self, other: "Cluster", auth: str) -> None:
        places = {**other.nodes, **self.nodes}
        key_of_the_absent = public_key()
        for identity, node in self.nodes.items():
            peers = []
            for peer in IDENTITIES:
                if peer == identity:
                    continue
                entry = {"name": peer, "addresses": places[peer].addresses,
                         "podCIDRs": pod_cidrs(peer)}
                if auth == "public-keys":
                    entry["auth"] = (
                        {"publicKeyFiles": [str(self.nodes[peer].folder / "node.key.pub")]}
                        if peer in self.nodes else {"publicKeys": [key_of_the_absent]})
                peers.append(entry)
            own_auth = ({"pskFile": "mesh.psk"} if auth == "psk" else
                        {"privateKeyFile": "node.key", "generatePrivateKey": True})
            place = {"name": identity, "addresses": node.addresses,
                     "podCIDRs": node.pod_cidrs, "uplinkMTU": node.uplink_mtu}
            # Without peers a node makes its key, and waits for a reload.
            node.write_config([], self.psk, extra={
                "node": place, "auth": own_auth, "timers": TIMERS, "peers": []})
            node.peers = peers

    def up(self) -> None:
        for node in self.nodes.values():
            node.start_espd()
            node.start_agent()
            node.add_pod("pod1")

    def name_peers(self) -> None:
        for node in self.nodes.values():
            config = json.loads(node.config_path.read_text())
            draft = node.config_path.with_suffix(".new")
            draft.write_text(json.dumps({**config, "peers": node.peers}))
            draft.rename(node.config_path)

    @property
    def pods(self):
        return [node.pods["pod1"] for node in self.nodes.values()]


def pod_cidrs(identity: str) -> list[str]:
    number = 1 + IDENTITIES.index(identity)
    return [f"10.244.{number}.0/24", f"fd00:244:{number}::/64"]


def tunnel(node: Node, peer: str) -> dict:
    return next((t for t in node.tunnels() if t["peer"] == peer), {"state": "down"})


@pytest.mark.parametrize("auth", ["public-keys", "psk"])
def test_they_refuse_each_other(lab, auth):
    wire = Wire(lab)
    red = Cluster(lab, wire, "red", {"node-a": 1, "node-b": 2})
    blue = Cluster(lab, wire, "blue", {"node-b": 12, "node-c": 13})
    red.configure(blue, auth)
    blue.configure(red, auth)
    capture = Capture(wire, lab.folder / "wire.pcap", CLUSTER_CIDRS)
    for cluster in (red, blue):
        cluster.up()
    for cluster in (red, blue):
        cluster.name_peers()
    a, c = red.nodes["node-a"], blue.nodes["node-c"]
    own = [(a, "node-b"), (red.nodes["node-b"], "node-a"),
           (c, "node-b"), (blue.nodes["node-b"], "node-c")]
    for node, peer in own:
        wait_until(lambda: tunnel(node, peer)["state"] == "up", 30,
                   f"{peer} at {node.name}")

    traffic = Traffic(lab)
    for name, cluster in (("red", red), ("blue", blue)):
        traffic.both_ways(name, *cluster.pods, rate=100)
    traffic.wait_for_flow()
    before = {node.name: node.metrics()[FAILURES] for node in (a, c)}
    foreign = [(a, "node-c"), (red.nodes["node-b"], "node-c"),
               (c, "node-a"), (blue.nodes["node-b"], "node-a")]

    def refused() -> bool:
        assert [tunnel(node, peer)["state"] for node, peer in foreign] == ["down"] * 4
        assert [tunnel(node, peer)["state"] for node, peer in own] == ["up"] * 4
        return all(node.metrics()[FAILURES] >= before[node.name] + ENOUGH
                   for node in (a, c))
    wait_until(refused, 60, "they refuse each other again and again")
    for node, peer in ((a, "node-c"), (c, "node-a")):
        assert "authentication failed" in tunnel(node, peer)["problem"]
        assert not node.show(peer).get("esp_sas")
    there = c.pods["pod1"]
    for address in (there.ipv4, there.ipv6):
        assert a.pods["pod1"].ping(address, wait=1) == 0

    for name, count in traffic.pause().items():
        assert count.received >= 100, (name, count)
        assert (count.missing, count.doubled) == (0, 0), (name, count)
    sent = send_plaintext(a.namespace, a.uplink.device, a.uplink.mac, c.uplink.mac,
                          [(a.pods["pod1"].ipv4, there.ipv4), (a.pods["pod1"].ipv6, there.ipv6)])
    packets = capture.stop()
    assert packets.controls == sent == 2
    assert packets.plaintext == 0
    strangers = {frozenset((one.uplink.ipv4, other.uplink.ipv4))
                 for one in red.nodes.values() for other in blue.nodes.values()}
    assert not [p for p in packets.packets if p.kind in ("esp", "esp-udp")
                and frozenset((p.source, p.destination)) in strangers]
