"""Debian's containerd and runc start real pods through espalier-cni on two
nodes, and the pods reach each other through the nodes' tunnel."""

import json

import pytest

from lab import CLUSTER_CIDRS, Capture, Node, Wire
from lab.session import wait_until
from runtime import Runtime

PSK = "containerd test's pre-shared key, long enough"


@pytest.fixture
def cluster(lab):
    wire = Wire(lab)
    nodes = [Node(lab, wire, name, number) for number, name in ((1, "a"), (2, "b"))]
    for node in nodes:
        node.write_config([peer for peer in nodes if peer is not node], PSK)
        node.start_espd()
    for node in nodes:
        node.start_agent()
    return wire, nodes


def tunnels_up(node: Node) -> bool:
    tunnels = json.loads(node.kubectl("tunnels", "-o", "json", check=False) or "{}")
    return any(tunnel.get("state") == "up" for tunnel in tunnels.get("tunnels", []))


def host_interfaces(node: Node) -> list[str]:
    shown = node.namespace.run(["ip", "-j", "link", "show", "type", "veth"])
    return [link["ifname"] for link in json.loads(shown.stdout or "[]")
            if link.get("ifname", "").startswith("esp")]


def fetch(pod, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return pod.run(["curl", "-sS", "--max-time", "10", f"http://{host}:8080/name"]).stdout


def test_pods_on_two_nodes(lab, cluster):
    wire, nodes = cluster
    runtimes = [Runtime(lab, node) for node in nodes]
    for node in nodes:
        wait_until(lambda node=node: tunnels_up(node), 20, f"{node.name}'s tunnel is up")
    capture = Capture(wire, lab.folder / "wire.pcap", CLUSTER_CIDRS)
    serve = "mkdir -p /www; echo -n {} > /www/name; exec httpd -f -p 8080 -h /www"
    pods = []
    for runtime in runtimes:
        for number in (1, 2):
            name = f"{runtime.node.name}{number}"
            pods.append(runtime.run_pod(name, ["sh", "-c", serve.format(name)]))
    for pod in pods:
        # The kubelet is told both addresses, out of the node's own CIDRs.
        prefixes = (f"10.244.{pod.runtime.node.number}.",
                    f"fd00:244:{pod.runtime.node.number:x}:")
        assert all(a.startswith(prefixes) for a in pod.addresses), pod.addresses
        assert len(pod.addresses) == 2
        shown = pod.execute("ip", "address", "show", "eth0")
        assert all(a in shown["output"] for a in pod.addresses), shown
    for client in pods:
        for server in pods:
            for family in (4, 6):
                assert fetch(client, server.address(family)) == server.name
    packets = capture.stop()
    assert packets.esp > 0
    assert packets.plaintext == 0

    # CNI DEL by the runtime: nothing of a pod stays on its node.
    runtimes[0].remove(pods[0])
    wait_until(lambda: len(host_interfaces(nodes[0])) == 1, 10, "its pair is gone")
    for runtime in runtimes:
        runtime.remove_all()
    for node in nodes:
        wait_until(lambda node=node: not host_interfaces(node), 10, "all pairs are gone")


def test_the_runtime_waits_for_the_agent(lab, cluster):
    """The agent away: RunPodSandbox fails with a reason that names it, removing
    pods succeeds, and when the agent is back all is as it should be."""
    _, (node, _) = cluster
    runtime = Runtime(lab, node)
    pod = runtime.run_pod("first", ["sleep", "1000"])
    node.agent.kill()
    answer = runtime.cri(check=False, Op="run", Pod="second", Uid="u2",
                         Cgroup=runtime.cgroup, LogFolder=str(runtime.folder))
    assert "espalier-agent does not answer" in answer["error"]
    runtime.remove(pod)
    # The namespace went with the pod, and the pair with it.
    wait_until(lambda: not host_interfaces(node), 10, "the pair is gone")
    node.start_agent()
    again = runtime.run_pod("second", ["sleep", "1000"])
    assert again.addresses != pod.addresses
    runtime.remove(again)
