"""RunPodSandbox of Debian's containerd, as a kubelet waits for it: on a node whose
network is Espalier's against one with ptp and host-local, in turn, in one run.

    sandbox_bench.py [COUNT]      run by ./dev bench; needs root

The two nodes are on one wire, each with a containerd of its own and portmap behind
the network plugin. Espalier's has its agent and espd, and a tunnel to a third node.
Timed is the call of the CRI alone; what makes room for the next is not. With IPv6,
ptp waits for duplicate address detection, which Espalier needs not: the ratio of
IPv4 is the one to go by.
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cni"))

from lab import Lab, Node, Wire  # noqa: E402
from runtime import Runtime  # noqa: E402

COUNT = 40
MUST = 1.0
PSK = "sandbox bench's pre-shared key, long enough"
FAMILIES = {"IPv4": 1, "dual-stack": 2}
# What a deleted pod leaves to the kernel's background is over by then.
PAUSE_SECONDS = 0.2


def espalier(lab: Lab, wire: Wire, families: int) -> Runtime:
    nodes = [Node(lab, wire, name, number) for number, name in ((1, "ours"), (2, "peer"))]
    for node in nodes:
        node.pod_cidrs = node.pod_cidrs[:families]
    for node, peer in zip(nodes, reversed(nodes)):
        # As the chart installs it: a line for each step of an ADD is not its default.
        node.write_config([peer], PSK, extra={"logLevel": "info"})
        node.start_espd()
    for node in nodes:
        node.start_agent()
    nodes[0].wait_for_tunnels(1)
    return Runtime(lab, nodes[0])


def ptp(lab: Lab, wire: Wire, families: int) -> Runtime:
    node = Node(lab, wire, "ptp", 3)
    cidrs = node.pod_cidrs[:families]
    return Runtime(lab, node, [
        {"type": "ptp", "mtu": 1400, "ipam": {
            "type": "host-local", "dataDir": str(node.folder / "host-local"),
            "ranges": [[{"subnet": cidr}] for cidr in cidrs],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}][:families]}},
        {"type": "portmap", "capabilities": {"portMappings": True}}])


def sample(runtime: Runtime, name: str, families: int) -> float:
    time.sleep(PAUSE_SECONDS)
    pod = runtime.run_sandbox(name)
    assert len(pod.addresses) == families, pod.addresses
    runtime.remove(pod)
    return pod.seconds_to_run * 1e3


def measure(layout: str, families: int, count: int) -> bool:
    with Lab("sandbox-bench") as lab:
        wire = Wire(lab)
        runtimes = {"Espalier": espalier(lab, wire, families),
                    "ptp + host-local": ptp(lab, wire, families)}
        results: dict[str, list[float]] = {name: [] for name in runtimes}
        for turn in range(count + 1):
            # Who goes first changes, and the first turn only warms up.
            for name in list(runtimes) if turn % 2 else list(runtimes)[::-1]:
                milliseconds = sample(runtimes[name], f"pod{turn}", families)
                if turn:
                    results[name].append(milliseconds)

    print(f"{layout}, {count} sandboxes each, in turn; RunPodSandbox in ms")
    print(f"  {'':18}{'median':>9}{'p90':>9}{'least':>9}")
    for name, values in results.items():
        p90 = statistics.quantiles(values, n=10)[-1]
        print(f"  {name:18}{statistics.median(values):>9.1f}{p90:>9.1f}{min(values):>9.1f}")
    ours, theirs = results.values()
    ratio = statistics.median(ours) / statistics.median(theirs)
    faster = sum(a < b for a, b in zip(ours, theirs))
    print(f"  ratio of medians: {ratio:.2f} (must {MUST:.2f}); "
          f"Espalier was the faster one in {faster} of {count} turns\n", flush=True)
    return ratio <= MUST


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    held = [measure(layout, families, count) for layout, families in FAMILIES.items()]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
