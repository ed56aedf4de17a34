"""A mesh of nodes with one pod each, and what tests ask of it."""

import secrets

from lab.capture import Capture, Packets, send_plaintext
from lab.node import CLUSTER_CIDRS, Node
from lab.session import Lab, wait_until
from lab.wire import Wire

NAMES = ("node-a", "node-b", "node-c")


class Mesh:
    """Nodes on one wire, configured for each other with one pre-shared key;
    up() starts all, attaches a pod a node, and waits for the tunnels.

    `extra` goes into every node's configuration (Node.write_config). `driver` is
    the datapath of all nodes, or of each by its name; `kernel` goes into
    datapath.kernel."""

    def __init__(self, lab: Lab, count: int = 2, *, extra: dict | None = None,
                 key_log: bool = False, peer_fields: dict | None = None,
                 driver: str | dict[str, str] | None = None, kernel: dict | None = None):
        self.lab = lab
        self.wire = Wire(lab)
        drivers = driver if isinstance(driver, dict) else dict.fromkeys(NAMES, driver)
        self.nodes = [Node(lab, self.wire, name, number, driver=drivers.get(name))
                      for number, name in enumerate(NAMES[:count], 1)]
        for node in self.nodes:
            node.kernel_options = {**node.kernel_options, **(kernel or {})}
        self.psk = secrets.token_hex(32)
        self.extra = extra or {}
        self.key_log = key_log
        # The same for every peer.
        self.peer_fields = dict.fromkeys(NAMES, peer_fields or {})
        self.capture = Capture(self.wire, lab.folder / "wire.pcap", CLUSTER_CIDRS)
        self._controls = 0
        self.configure()

    def peers_of(self, node: Node) -> list[Node]:
        return [peer for peer in self.nodes if peer is not node]

    def configure(self) -> None:
        for node in self.nodes:
            node.write_config(self.peers_of(node), self.psk, key_log=self.key_log,
                              extra=self.extra, peer_fields=self.peer_fields)

    def up(self) -> "Mesh":
        for node in self.nodes:
            node.start_espd()
            node.start_agent()
        for node in self.nodes:
            node.add_pod("pod1")
        self.wait_for_tunnels()
        return self

    def wait_for_tunnels(self, seconds: float = 30) -> None:
        for node in self.nodes:
            node.wait_for_tunnels(len(self.nodes) - 1, seconds)

    @property
    def pods(self):
        return [node.pods["pod1"] for node in self.nodes]

    def assert_reachable(self) -> None:
        for source in self.pods:
            for target in self.pods:
                if source is not target:
                    assert source.ping(target.ipv4) == 1, (source.full_name, target.ipv4)
                    assert source.ping(target.ipv6) == 1, (source.full_name, target.ipv6)

    def wait_until_reachable(self, seconds: float = 30) -> None:
        """For after a fault; assert_reachable says who does not answer."""
        def all_answer():
            return all(source.ping(address, wait=1) == 1
                       for source in self.pods for target in self.pods
                       if source is not target
                       for address in (target.ipv4, target.ipv6))
        wait_until(all_answer, seconds, "all pods reach each other")

    def send_control(self) -> None:
        a, b = self.nodes[:2]
        self._controls += send_plaintext(
            a.namespace, a.uplink.device, a.uplink.mac, b.uplink.mac,
            [("10.244.1.250", "10.244.2.250"), ("fd00:244:1::fa", "fd00:244:2::fa")])

    def finish(self) -> Packets:
        """Stops the capture. No pod packet was on the wire in plaintext, and the
        capture would have seen one."""
        self.send_control()
        packets = self.capture.stop()
        assert packets.controls == self._controls > 0
        assert packets.plaintext == 0, [
            p for p in packets.packets if p.kind == "plaintext"][:5]
        assert packets.esp > 0
        return packets


def outbound_spis(node: Node, peer: Node) -> set[str]:
    """SPIs of the SAs that are in the datapath towards the peer."""
    return {sa["spi"] for sa in node.show(peer.name).get("esp_sas", [])
            if sa["direction"] == "out"}


def wait_for_new_spi(node: Node, peer: Node, old: set[str], seconds: float = 20) -> set[str]:
    """Until the datapath has an SA towards the peer that is not among the old."""
    return wait_until(lambda: outbound_spis(node, peer) - old, seconds,
                      f"a new SA from {node.name} to {peer.name}")
