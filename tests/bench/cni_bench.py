"""Wall time of CNI ADD and DEL: espalier-cni with its agent against the
reference plugins ptp and host-local, in turn, in one run.

    cni_bench.py [COUNT]      run by ./dev bench; needs root

Each call is timed from the start of the plugin's process to its end, as a
container runtime waits for it. Espalier's DEL answers once the way to the pod
is taken and leaves the kernel's deletion of the interface pair to the
background; ptp's waits for it. The last column is the time until the interface
is gone, for both. With IPv6, ptp's ADD waits for duplicate address detection,
which Espalier's needs not: the ratio of IPv4 is the one to go by.
"""

import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cni"))

from lab import Lab, LabError, binary  # noqa: E402
from pods_node import PodsNode, Sandbox  # noqa: E402

COUNT = 33
MUST, TOWARD = 0.5, 0.25
PLUGINS = pathlib.Path("/usr/lib/cni")
CIDRS = {"IPv4": ["10.244.7.0/24"], "dual-stack": ["10.244.7.0/24", "fd00:244:7::/64"]}
COLUMNS = ("ADD", "DEL", "until gone")


def enter(node: PodsNode) -> None:
    """Once, so that no nsenter is timed."""
    fd = os.open(node.namespace.path, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


def leave(home: int) -> None:
    ctypes.CDLL(None).setns(home, 0)


def interfaces() -> set[str]:
    return {line.split(":")[0].strip()
            for line in pathlib.Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]}


def timed(program: str, command: str, sandbox: Sandbox, configuration: str) -> tuple[float, str]:
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": sandbox.id, "CNI_IFNAME": "eth0",
                   "CNI_NETNS": sandbox.path, "CNI_PATH": str(PLUGINS), "PATH": os.environ["PATH"]}
    start = time.perf_counter()
    result = subprocess.run([program], input=configuration.encode(), env=environment,
                            stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    if result.returncode != 0:
        raise LabError(f"{program} {command}: {result.stdout.decode()}")
    return seconds * 1e3, result.stdout.decode()


def sample(program: str, sandbox: Sandbox, configuration: str) -> tuple[float, float, float]:
    before = interfaces()
    time.sleep(0.05)
    add, _ = timed(program, "ADD", sandbox, configuration)
    made = interfaces() - before
    if len(made) != 1:
        raise LabError(f"ADD made the interfaces {made}")
    time.sleep(0.05)
    start = time.perf_counter()
    delete, _ = timed(program, "DEL", sandbox, configuration)
    while interfaces() & made:
        time.sleep(0.0005)
    return add, delete, (time.perf_counter() - start) * 1e3


def measure(lab: Lab, layout: str, count: int) -> bool:
    cidrs = CIDRS[layout]
    node = PodsNode(lab, layout[:4].lower(), pod_cidrs=cidrs)
    plugins = {
        "espalier-cni": (binary("espalier-cni"), json.dumps(node.configuration("1.0.0"))),
        "ptp + host-local": (str(PLUGINS / "ptp"), json.dumps({
            "cniVersion": "1.0.0", "name": "bench", "type": "ptp", "mtu": 1400,
            "ipam": {"type": "host-local", "dataDir": str(node.folder / "host-local"),
                     "ranges": [[{"subnet": cidr}] for cidr in cidrs],
                     "routes": [{"dst": "::/0" if ":" in cidr else "0.0.0.0/0"}
                                for cidr in cidrs]}})),
    }
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in plugins}
    sandboxes = [Sandbox(lab, f"{layout[0]}{i}") for i in range(2 * (count + 1))]
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    enter(node)
    try:
        for turn in range(count + 1):
            # Who goes first changes, and the first turn only warms up.
            names = list(plugins) if turn % 2 else list(plugins)[::-1]
            for name in names:
                times = sample(plugins[name][0], sandboxes.pop(), plugins[name][1])
                if turn:
                    results[name].append(times)
    finally:
        leave(home)
        os.close(home)

    print(f"{layout}, {count} samples each, in turn; wall ms: mean / median / p95")
    print(f"  {'':18}" + "".join(f"{column:>24}" for column in COLUMNS))
    for name, rows in results.items():
        cells = ""
        for column in range(3):
            values = sorted(row[column] for row in rows)
            p95 = values[min(len(values) - 1, round(0.95 * len(values)))]
            cells += f"{statistics.mean(values):>9.1f} /{statistics.median(values):>5.1f} /{p95:>5.1f}"
        print(f"  {name:18}{cells}")
    ours, theirs = results.values()
    ratios = [statistics.mean(row[c] for row in ours) / statistics.mean(row[c] for row in theirs)
              for c in range(3)]
    total = (statistics.mean(row[0] + row[1] for row in ours) /
             statistics.mean(row[0] + row[1] for row in theirs))
    print(f"  {'ratio of means':18}" + "".join(f"{ratio:>24.2f}" for ratio in ratios))
    print(f"  ADD and DEL together: {total:.2f} (must {MUST}, toward {TOWARD})\n")
    return total <= MUST


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    if not (PLUGINS / "ptp").exists():
        print("ptp is missing: apt-get install containernetworking-plugins")
        return 1
    with Lab("cni-bench") as lab:
        held = [measure(lab, layout, count) for layout in CIDRS]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
