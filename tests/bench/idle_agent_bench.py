"""What agents cost while nothing happens: requests to the API server beside their
watches, by its audit log, and processor time, on a cluster of two nodes with a pod
each, their tunnel up.

    idle_agent_bench.py [SECONDS]      run by ./dev bench; needs root

The image is that of the release build; ESPALIER_IMAGE names another. What the kubelet
asks the agent for (its probes) is in the agent's processor time. The controller's
requests and espd's processor time are printed beside them.
"""

import collections
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from lab import Lab, wait_until  # noqa: E402
from lab.kube import Cluster, espalier  # noqa: E402
from lab.kube.audit import AuditLog, Request  # noqa: E402
from lab.kube.machine import processes_below  # noqa: E402
from lab.kube.pods import pod_object, run_pods  # noqa: E402

SECONDS = 300
SETTLE_SECONDS = 60
MOST_REQUESTS = 1  # in PER seconds
PER = 10
MOST_CPU = 0.01  # of one core
AGENT = f"{espalier.NAMESPACE}:espalier-agent"
CONTROLLER = f"{espalier.NAMESPACE}:espalier-controller"
PROGRAMS = ("agent", "espd", "controller")
UNKNOWN = ("nobody", "system:anonymous")
WATCHES = 3  # EspalierNodes, namespaces, the node's pods


def installed(lab: Lab, log: AuditLog) -> Cluster:
    cluster = Cluster(lab, nodes=2, apiserver_flags=log.flags)
    cluster.up()
    cluster.load_image(pathlib.Path(os.environ.get(
        "ESPALIER_IMAGE", ROOT / "build/image/release/espalier.tar")))
    espalier.install(cluster)
    cluster.wait_for_nodes()
    a, b = run_pods(cluster, *(pod_object("default", f"pod-{node.name}", node)
                               for node in cluster.nodes))
    wait_until(lambda: a.ping(b.ipv6, count=1) == 1, 60, "the tunnel is up")
    return cluster


def processor_seconds(cluster: Cluster) -> dict[tuple[int, str], float]:
    """By pid and what it is."""
    found = {}
    for node in cluster.nodes:
        for program in PROGRAMS:
            for pid in processes_below(node.pid, f"/usr/bin/espalier-{program}"):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                # utime and stime.
                found[pid, f"{program} on {node.name}"] = (
                    (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return found


def print_requests(who: str, requests: list[Request], seconds: float) -> float:
    """Beside watches, in PER seconds."""
    asked = [r for r in requests if not r.is_watch]
    watches = collections.Counter(r.what for r in requests if r.is_watch)
    rate = len(asked) * PER / seconds
    print(f"  {who.partition(':')[2]:32}{len(asked):>6}{rate:>8.2f}  "
          + ", ".join(f"{count} {what}" for what, count in collections.Counter(
              f"{r.verb} {r.what} ({r.code})" for r in asked).most_common()))
    print(f"  {'  watches opened again':32}{watches.total():>6}{'':10}"
          + ", ".join(f"{count} {what}" for what, count in watches.most_common()))
    return rate


def report(requests: list[Request], agents: list[str], seconds: float) -> bool:
    by_client: dict[str, list[Request]] = {name: [] for name in agents}
    for request in requests:
        if request.who.startswith((AGENT, CONTROLLER)):
            by_client.setdefault(request.who, []).append(request)
    print(f"Requests to the API server in {seconds:.0f} s, idle, beside watches")
    print(f"  {'':32}{'all':>6}{f'/ {PER} s':>8}")
    held = True
    for who, own in sorted(by_client.items()):
        rate = print_requests(who, own, seconds)
        if who.startswith(AGENT):
            held = held and rate <= MOST_REQUESTS
    refused = sum(r.who in UNKNOWN for r in requests)
    print(f"  must: at most {MOST_REQUESTS} / {PER} s of each agent; "
          f"{refused} requests of clients that showed no valid credential\n")
    return held and refused == 0


def report_processor(before: dict, after: dict, seconds: float) -> bool:
    if before.keys() != after.keys():
        print(f"a program was started anew: {before.keys()} became {after.keys()}")
        return False
    print(f"Processor time of {seconds:.0f} s, idle, percent of one core")
    held = True
    for key in sorted(before, key=lambda key: key[1]):
        share = (after[key] - before[key]) / seconds
        print(f"  {key[1]:32}{100 * share:>8.3f}")
        if key[1].startswith("agent"):
            held = held and share < MOST_CPU
    print(f"  must: agents below {100 * MOST_CPU:.0f} %\n")
    return held


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with Lab("idle-agent-bench") as lab:
        log = AuditLog(lab.folder)
        cluster = installed(lab, log)
        time.sleep(SETTLE_SECONDS)
        before, begin = processor_seconds(cluster), time.time()
        time.sleep(seconds)
        after, end = processor_seconds(cluster), time.time()
        agents = [f"{AGENT} on {node.name}" for node in cluster.nodes]
        # That the log has them is seen by what they did at their start.
        opened = collections.Counter(r.who for r in log.requests(0, begin) if r.is_watch)
        if any(opened[who] < WATCHES for who in agents):
            print(f"the audit log lacks watches of agents: {opened}")
            return 1
        held = report(log.requests(begin, end), agents, end - begin)
        held = report_processor(before, after, end - begin) and held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
