"""What a promise is proven on: nodes whose `required` pods talk to a pod of
node-b without a pause, a router that would carry their plaintext, an attacker on
the wire, and a witness that judges every frame."""

import ipaddress
import os
import secrets
import shutil
import signal

from lab.capture import send_plaintext
from lab.drivers import KernelDatapath, UserDatapath
from lab.namespace import Namespace
from lab.node import CLUSTER_CIDRS, Node, default_driver
from lab.session import Lab, binary, wait_until
from lab.traffic import Count, Traffic
from lab.wire import Wire
from lab.witness import Witness

PEER = "node-b"
UNGUARDED = "node-x"
PLAIN = "plain"  # a namespace, and the pod in it
NO_GUARD = {"guard": {"bpf": "off", "nftables": "off"}}
CONTROL_RATE = 40 if "ESPALIER_GUEST" in os.environ else 100
ROUTER, ATTACKER = 254, 253
DIVERSION = 999  # a routing table
# Of each of a victim's four flows: 1,000 packets a second from its pod, and as
# many to it. An emulated processor carries half of that: 1,000 in all.
RATE = 250 if "ESPALIER_GUEST" in os.environ else 500
# Quick to notice, or each event would take minutes.
TIMERS = {"liveness": "2s", "grace": "1s", "drain": "1s", "retransmitFirst": "200ms",
          "retransmitMax": "1s", "retransmitTries": 6}


class Scene:
    """victims: name to what their configuration has besides (Node.write_config's
    `extra`); `peer`: the same of node-b. What is done to a scene is done to each victim at once, so that
    variants of a node cost one run.

    node-x is no victim but the control of all that happens: without guards, and
    with its routing broken from the start, its pod's packets are on the wire in
    plaintext all the time, where the witness must see them. `control`: False for
    what is about loss, not about leaks. `plain`: each victim and the peer also
    have a pod "plain" that is `disabled`, and these talk in plaintext."""

    def __init__(self, lab: Lab, victims: dict[str, dict], *, common: dict | None = None,
                 udp: bool = True, rate: float = RATE, tick: int = 4000,
                 control: bool = True, plain: bool = False,
                 peer: dict | None = None):
        self.lab = lab
        self.common = {"timers": TIMERS, "logLevel": "debug", **(common or {})}
        self.extras = {PEER: peer or {}, UNGUARDED: NO_GUARD, **victims}
        self.udp = udp
        self.plain = plain
        self.plain_mode = "disabled"
        self.driver = KernelDatapath() if default_driver() == "kernel" else UserDatapath()
        self.rate = rate
        self.psk = secrets.token_hex(32)
        self.wire = Wire(lab)
        self.witness = Witness(lab, self.wire, CLUSTER_CIDRS)
        self.peer = Node(lab, self.wire, PEER, 2)
        numbers = (number for number in range(1, 200) if number != 2)
        self.victims = [Node(lab, self.wire, name, number)
                        for name, number in zip(victims, numbers)]
        self.unguarded = Node(lab, self.wire, UNGUARDED, 200) if control else None
        if self.unguarded:
            # Policies on its uplink would catch what its broken routing loses.
            self.unguarded.kernel_options = {}
        self.nodes = [self.peer, *self.victims, *self._controls_of_all()]
        self.traffic = Traffic(lab, tick=tick)
        self.addresses: dict[str, tuple[str, str]] = {}  # of each node's pod
        self.second_uplinks: set[str] = set()
        self._lay_ways_out()
        self.attacker = Namespace(lab, "attacker")
        self.attacker_uplink = self.wire.attach(self.attacker, ATTACKER)
        self.witness.attacker(f"port{ATTACKER}")

    def _lay_ways_out(self) -> None:
        """Without a way out, nothing that fails could leak."""
        router = Namespace(self.lab, "router")
        uplink = self.wire.attach(router, ROUTER)
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
        for node in self.nodes:
            for family, address, cidr in zip((4, 6), node.addresses, node.pod_cidrs):
                router.run(["ip", "route", "add", cidr, "via", address])
                node.namespace.run(["ip", f"-{family}", "route", "add", "default", "via",
                                    uplink.ipv4 if family == 4 else uplink.ipv6])
            # What a node's reverse-path filter would drop is not the guard's merit.
            for device in ("all", "default", node.uplink.device):
                node.namespace.sysctl(f"net.ipv4.conf.{device}.rp_filter", 0)

    def peers_of(self, node: Node) -> list[Node]:
        if node is not self.peer:
            return [self.peer]
        return [*self.victims, *self._controls_of_all()]

    def configure(self, node: Node, *, without_peers: bool = False, **changes) -> None:
        peers = [] if without_peers else self.peers_of(node)
        fields = {peer.name: {"forceEncapsulation": self.udp, **self._plain_blocks(peer)}
                  for peer in peers}
        # The peer's keys are known: it may come to cheat with them.
        node.write_config(peers, self.psk, key_log=node is self.peer, peer_fields=fields,
                          extra={
            **self._modes(), **self.common, **self.extras[node.name], **changes})

    def up(self) -> "Scene":
        for node in self.nodes:
            self.configure(node)
            node.start_espd()
            node.start_agent()
        for node in self.nodes:
            node.add_pod("pod")
        for node in self.nodes:
            node.wait_for_tunnels(len(self.peers_of(node)))
        for node in self.victims:
            self.start_flows(node)
        if self.plain:
            self.start_plain()
        self.traffic.wait_for_flow()
        if self.unguarded:
            self._start_control()
        return self

    def _controls_of_all(self) -> list[Node]:
        return [self.unguarded] if self.unguarded else []

    def _modes(self) -> dict:
        if not self.plain:
            return {"modes": {"default": "required"}}
        return {"modes": {"default": "required",
                          "namespaces": {PLAIN: {"encryption": self.plain_mode}}},
                "cluster": {"podCIDRs": CLUSTER_CIDRS, "plaintextPath": "direct"}}

    def _plain_blocks(self, node: Node) -> dict:
        if not self.plain or self.plain_mode != "disabled":
            return {}
        pod = node.pods.get(PLAIN)
        # Where the first `disabled` pod gets its addresses: the last block.
        addresses = (pod.ipv4, pod.ipv6) if pod else (
            f"10.244.{node.number}.254", f"fd00:244:{node.number:x}::ffff:ffff:ffff:fffe")
        return {"plaintextBlocks": [
            str(ipaddress.ip_network(f"{address}/{length}", strict=False))
            for address, length in zip(addresses, (28, 124))]}

    def set_plain_mode(self, mode: str) -> None:
        """On every node; returns when each has read its file."""
        self.plain_mode = mode
        for node in self.nodes:
            self.reload(node)

    def plain_addresses(self) -> list[str]:
        pods = [node.pods[PLAIN] for node in (self.peer, *self.victims)]
        return [address for pod in pods for address in (pod.ipv4, pod.ipv6)]

    def plain_flows(self) -> list[str]:
        return [f"{node.name}-plain-{way}{family}" for node in self.victims
                for way in ("out", "in") for family in (4, 6)]

    def start_plain(self) -> None:
        for node in (self.peer, *self.victims):
            node.add_pod(PLAIN, namespace=PLAIN)
        self.witness.allow_plaintext(*self.plain_addresses())
        for node in self.victims:
            self.traffic.both_ways(f"{node.name}-plain", node.pods[PLAIN],
                                   self.peer.pods[PLAIN], rate=CONTROL_RATE)

    def end_plain(self) -> None:
        for name in self.plain_flows():
            self.traffic.remove(name)
        for node in (self.peer, *self.victims):
            node.delete_pod(node.pods[PLAIN])

    def _start_control(self) -> None:
        pod = self.unguarded.pods["pod"]
        self.witness.unguarded(*self.unguarded.pod_cidrs)
        self.divert(self.unguarded)
        for name in self.traffic.both_ways("control", pod, self.peer.pods["pod"],
                                           rate=CONTROL_RATE):
            # Whether it arrives is the peer's guard's business.
            del self.traffic.rates[name]

    def restart_agent(self, node: Node) -> None:
        """With what configure() wrote last."""
        if node.agent.running():
            self.stop_agent(node)
        node.start_agent()

    def start_flows(self, node: Node) -> list[str]:
        pod = node.pods["pod"]
        self.addresses[node.name] = (pod.ipv4, pod.ipv6)
        return self.traffic.both_ways(node.name, node.pods["pod"], self.peer.pods["pod"],
                                      rate=self.rate)

    def stop_flows(self, node: Node) -> None:
        for name in self.flows(node):
            self.traffic.remove(name)

    def flows(self, node: Node, ways=("out", "in")) -> list[str]:
        return [f"{node.name}-{way}{family}" for way in ways for family in (4, 6)]

    def all_flows(self, ways=("out", "in")) -> list[str]:
        return [name for node in self.victims for name in self.flows(node, ways)]

    def each(self, action) -> None:
        for node in self.victims:
            action(node)

    # --- what happens to nodes ---

    def kill_agent(self, node: Node) -> None:
        node.agent.kill()

    def stop_agent(self, node: Node) -> None:
        node.agent.signal(signal.SIGTERM)
        node.agent.wait(10)

    def upgrade_agent(self, node: Node) -> None:
        """Another file in the place of the program, and a restart, as when a
        new image starts."""
        program = node.folder / "espalier-agent"
        fresh = program.with_suffix(".new")
        shutil.copy2(binary("espalier-agent"), fresh)
        fresh.rename(program)
        self.stop_agent(node)
        node.agent_binary = program
        node.start_agent()

    def restart_espd(self, node: Node) -> None:
        node.espd.kill()
        node.espd_socket.unlink(missing_ok=True)
        node.start_espd()

    def reload(self, node: Node, **changes) -> None:
        def reloads():
            return node.metrics()['espalier_config_reloads_total{result="ok"}']
        before = reloads()
        self.configure(node, **changes)
        wait_until(lambda: reloads() > before, 10, f"{node.name} reads its file again")

    def divert(self, node: Node, device: str = "eth0", *, own: bool = False) -> None:
        """As when somebody, or a bug, breaks the routing: a rule of nobody's that
        comes before all of ours sends packets to the peer's pods directly, and
        only a guard is left between them and the wire. `own`: what came out of
        ESP for the node's own pods goes back out instead."""
        # Of the wire's own net, or of that of Wire.second_uplink().
        gateways = (self.peer.addresses if device == "eth0" else
                    [f"198.51.100.{self.peer.number}", f"2001:db8:2::{self.peer.number:x}"])
        cidrs = node.pod_cidrs if own else self.peer.pod_cidrs
        for family, cidr, via in zip((4, 6), cidrs, gateways):
            node.namespace.run(["ip", f"-{family}", "route", "add", cidr, "via", via,
                                "dev", device, "table", DIVERSION])
            node.namespace.run(["ip", f"-{family}", "rule", "add", "pref", 5, "to", cidr,
                                "lookup", DIVERSION])

    def mend(self, node: Node) -> None:
        """Ends divert()."""
        for family in (4, 6):
            node.namespace.run(["ip", f"-{family}", "rule", "del", "pref", 5])
            node.namespace.run(["ip", f"-{family}", "route", "flush", "table", DIVERSION])

    def has_guard(self, node: Node, guard: str) -> bool:
        return self.extras[node.name].get("guard", {}).get(guard) != "off"

    def detach_bpf(self, node: Node) -> None:
        """By hand: without its pin a link is gone, and the program with it."""
        pins = list(node.bpf_pins.glob("v*/links/*"))
        assert pins, f"no links under {node.bpf_pins}"
        for pin in pins:
            pin.unlink()

    # --- what is seen ---

    def send_controls(self) -> int:
        """From each victim's uplink, past its guards, with the very addresses of
        its pod's traffic. Returns how many a family."""
        there = self.peer.pods["pod"]
        for node in self.victims:
            send_plaintext(node.namespace, node.uplink.device, node.uplink.mac,
                           self.peer.uplink.mac,
                           list(zip(self.addresses[node.name], (there.ipv4, there.ipv6))))
        return len(self.victims)


class Stage:
    """One scene for many tests, one after the other; after a test that failed, a
    new one."""

    def __init__(self, name: str, make):
        self._name = name
        self._make = make
        self._lab: Lab | None = None
        self._scene: Scene | None = None

    def scene(self) -> Scene:
        if self._scene is None:
            self._lab = Lab(self._name)
            self._lab.__enter__()
            try:
                self._scene = self._make(self._lab).up()
            except BaseException:
                self._lab.failed = True
                self.close()
                raise
        return self._scene

    def judge(self, reports) -> None:
        if any(report.failed for report in reports):
            self._lab.failed = True
            self.close()

    def close(self) -> None:
        if self._lab is not None:
            self._lab.__exit__(None, None, None)
        self._lab = self._scene = None


def growth(before: dict[str, Count], after: dict[str, Count], name: str) -> tuple[int, int]:
    """(sent, received) of a flow between two looks."""
    return (after[name].sent - before[name].sent,
            after[name].received - before[name].received)
