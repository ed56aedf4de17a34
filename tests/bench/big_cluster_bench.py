"""What a large cluster costs one agent: memory and CPU at 1,000 EspalierNodes, 1,000
namespaces and 110 local pods; and what it hears of pods' lives and nodes'
restarts, for the rate at 5,000 nodes.

    big_cluster_bench.py [NODES]      run by ./dev bench; needs root

A real API server, scheduler, controller manager and two nodes with kubelet and
containerd, under the chart's RBAC and admission policies; espd, agents and
controller as they are built, user datapath. Lives and restarts are real, between
the two. The other nodes of the large cluster are EspalierNodes with the status
that the controller writes, and nobody behind them; its 110 pods are real. Events
and octets are the agents' own metrics, octets uncompressed.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "kube"))

from bare_mesh import Mesh  # noqa: E402
from lab import Lab, LabError, binary, wait_until  # noqa: E402
from lab.kube import Cluster, KubeNode  # noqa: E402
from lab.kube.machine import children  # noqa: E402
from lab.kube.pods import pod_object  # noqa: E402

NODES = 1000
NAMESPACES = 1000
PODS = 110
LIVES = 20
MUST_MB, TOWARD_MB = 60, 30
MUST_CPU = 1  # per cent
SETTLE_SECONDS, IDLE_SECONDS = 30, 90
# Of the cluster that is computed.
LARGE, RESTARTS_AN_HOUR, PODS_A_SECOND = 5000, 0.01, 100
MUST_EVENTS = 5
RESOURCES = ("espaliernodes", "namespaces", "pods")
# Of the EspalierNodes that kube-api-fill makes.
FILLED_CIDRS = ("100.0.0.0/8", "fd64::/16")
STATE = "var/lib/espalier"


@dataclasses.dataclass
class Heard:
    """Of one collection, since the agent's start or between two looks."""
    events: float = 0  # with those that were known already
    bookmarks: float = 0
    octets: float = 0
    lists: float = 0

    def __sub__(self, other: "Heard") -> "Heard":
        return Heard(*(a - b for a, b in zip(dataclasses.astuple(self),
                                             dataclasses.astuple(other))))


class Agent:
    """The one that runs on a node now."""

    def __init__(self, node: KubeNode):
        self.node = node

    @property
    def pid(self) -> int:
        return children(self.node.processes["agent"].pid)[0]

    def metrics(self) -> dict[str, float]:
        """Empty while it does not answer."""
        text = self.node.namespace.run(
            ["curl", "-s", "-m", "5", "http://127.0.0.1:9469/metrics"], check=False).stdout
        lines = (line.rpartition(" ") for line in text.splitlines()
                 if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def heard(self) -> dict[str, Heard]:
        metrics = self.metrics()
        if not metrics:
            raise LabError(f"the agent of {self.node.name} does not answer")

        def of(name: str, resource: str, kind: str = "") -> float:
            label = f',kind="{kind}"' if kind else ""
            return metrics[f'espalier_watch_{name}_total{{resource="{resource}"{label}}}']
        return {r: Heard(of("events", r, "object") + of("events", r, "ignored"),
                         of("events", r, "bookmark"), of("bytes", r), of("lists", r))
                for r in RESOURCES}

    def in_sync(self, peers: int) -> bool:
        metrics = self.metrics()
        tunnels = sum(name.startswith("espalier_tunnel_up{") for name in metrics)
        return (metrics.get("espalier_source_current") == 1 and tunnels == peers and all(
            metrics.get(f'espalier_watch_lists_total{{resource="{r}"}}', 0) for r in RESOURCES))

    def memory(self) -> dict[str, float]:
        """MB; of what /proc says."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return {key: int(fields[key].split()[0]) * 1024 / 1e6
                for key in ("VmRSS", "VmHWM", "RssAnon", "RssFile", "RssShmem")}

    def cpu_seconds(self) -> float:
        text = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def hearing(*agents: Agent):
    """Fills a list with what each of them heard meanwhile, and five seconds after."""
    before = [agent.heard() for agent in agents]
    heard: list[dict[str, Heard]] = []
    yield heard
    time.sleep(5)
    for agent, old in zip(agents, before):
        heard.append({r: now - old[r] for r, now in agent.heard().items()})


def say(text: str, *cells) -> None:
    print(f"{text:62}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def space(name: str, mode: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": name, "annotations": {"espalier.dev/encryption": mode}}}


def wait_for_account(cluster: Cluster, namespace: str) -> None:
    """No pod is admitted before."""
    wait_until(lambda: cluster.kubectl("get", "-n", namespace, "serviceaccount", "default",
                                       check=False).returncode == 0, 300,
               f"the service account of {namespace}")


def run_pods(cluster: Cluster, pods: list[dict], seconds: int) -> None:
    cluster.apply(*pods)
    for namespace in sorted({pod["metadata"]["namespace"] for pod in pods}):
        cluster.kubectl("wait", "-n", namespace, "pod", "--all", "--for=condition=Ready",
                        f"--timeout={seconds}s", timeout=seconds + 10)


def fill(cluster: Cluster, *words) -> None:
    config = cluster.settings.authority.folder / "admin.conf"
    cluster.control.namespace.run(
        [binary("kube-api-fill"), config, *(str(word) for word in words)], timeout=600)


# --- lives and restarts, between two nodes ---

def live(cluster: Cluster, node: KubeNode, mode: str, count: int) -> None:
    """Pods from their creation to their end, all at once."""
    pods = [pod_object(mode, f"life-{n}", node) for n in range(count)]
    for pod in pods:
        pod["spec"]["terminationGracePeriodSeconds"] = 1
    run_pods(cluster, pods, 120)
    cluster.kubectl("delete", "-n", mode, "pod", "--all", "--timeout=120s", timeout=130)


def measure_lives(cluster: Cluster) -> tuple[Heard, float]:
    """One pod's on its own node, events and octets; and the most events that
    another node hears of one that is not disabled."""
    own, other = (Agent(node) for node in cluster.nodes)
    for mode in ("required", "preferred", "disabled"):
        cluster.apply(space(mode, mode))
        wait_for_account(cluster, mode)
    mine, theirs = Heard(), 0.0
    for mode, count in (("required", LIVES), ("preferred", LIVES), ("disabled", LIVES),
                        ("disabled", 1)):
        with hearing(own, other) as heard:
            live(cluster, own.node, mode, count)
        at_own, at_other = heard
        each = Heard(at_own["pods"].events / count, 0, at_own["pods"].octets / count)
        mine = max(mine, each, key=lambda one: one.events)
        elsewhere = sum(at_other[r].events for r in RESOURCES) / count
        if mode != "disabled":
            theirs = max(theirs, elsewhere)
        say(f"  a pod's life, {mode}, {count} at once", f"{each.events:.1f}",
            f"{each.octets:.0f}", f"{elsewhere:.2f}")
    return mine, theirs


def reboot(mesh: Mesh, node: KubeNode, *, disk_lost: bool) -> None:
    def ready(word: str) -> bool:
        return mesh.cluster.ready_conditions()[node.name]["status"] == word
    node.power_off()
    wait_until(lambda: ready("Unknown"), 90, f"{node.name} is NotReady")
    if disk_lost:
        shutil.rmtree(node.folder / STATE)
    node.boot()
    mesh.start(node)
    wait_until(lambda: ready("True"), 120, f"{node.name} is Ready")


def restart_agent(mesh: Mesh, node: KubeNode) -> None:
    node.kill("agent")
    mesh.start_agent(node)


def measure_restarts(mesh: Mesh) -> float:
    """The most events that one restart makes on another node's watches."""
    own, other = mesh.cluster.nodes
    restarts = {
        "agent killed and started": lambda: restart_agent(mesh, other),
        "node off until NotReady, Ready": lambda: reboot(mesh, other, disk_lost=False),
        "the same with its disk lost (another key)": lambda: reboot(mesh, other, disk_lost=True)}
    most = 0
    for name, restart in restarts.items():
        with hearing(Agent(own)) as heard:
            restart()
            wait_until(lambda: mesh.up(other), 120, "its tunnel is up")
        events = {r: heard[0][r].events for r in RESOURCES}
        most = max(most, sum(events.values()))
        say(f"  {name}", "", "", f"{sum(events.values()):.0f}")
    return most


# --- the large cluster ---

def start(mesh: Mesh, node: KubeNode, mode: str, peers: int) -> float:
    """The agent anew; seconds until it is in sync."""
    if "agent" in node.processes:
        node.kill("agent")
    mesh.extra = {"mesh": mode}
    begin = time.monotonic()
    mesh.start_agent(node)
    wait_until(lambda: Agent(node).in_sync(peers), 120, f"in sync with {peers} peers")
    return time.monotonic() - begin


def idle(agent: Agent, seconds: float) -> dict:
    """The most that was resident of looks each second. Its metrics are read each
    half a minute, as Prometheus does; the CPU for that is told by itself."""
    heard = agent.heard()
    begin, cpu, looks, scrapes = time.monotonic(), agent.cpu_seconds(), [], []
    while (passed := time.monotonic() - begin) < seconds:
        time.sleep(1)
        if len(looks) % 30 == 29:
            before = agent.cpu_seconds()
            agent.metrics()
            scrapes.append(agent.cpu_seconds() - before)
        looks.append(agent.memory())
    cpu = agent.cpu_seconds() - cpu - sum(scrapes)
    after = agent.heard()
    return {**max(looks, key=lambda look: look["VmRSS"]), "cpu": 100 * cpu / passed,
            "scrape": 1000 * statistics.mean(scrapes),
            "median": statistics.median(look["VmRSS"] for look in looks),
            "bookmarks": sum((after[r] - heard[r]).bookmarks for r in RESOURCES) / passed,
            "events": sum((after[r] - heard[r]).events for r in RESOURCES),
            "octets": sum((after[r] - heard[r]).octets for r in RESOURCES) / passed}


def row(name: str, found: dict, seconds: float) -> None:
    say(f"  {name}", *(f"{found[key]:.1f}" for key in (
        "VmRSS", "median", "RssAnon", "RssFile", "VmHWM")),
        f"{found['cpu']:.2f}", f"{found['scrape']:.0f}", f"{seconds:.1f}")


def fill_cluster(mesh: Mesh, nodes: int) -> None:
    """No agent or controller runs meanwhile: what has no Node is not verified."""
    cluster = mesh.cluster
    cluster.control.kill("controller")
    for node in cluster.nodes:
        node.kill("agent")
    fill(cluster, "nodes", 0, nodes - len(cluster.nodes))
    there = len(cluster.get("namespaces")["items"])
    fill(cluster, "namespaces", 0, NAMESPACES - there)


def measure_start(mesh: Mesh, mode: str, name: str, peers: int) -> dict:
    node = mesh.cluster.nodes[0]
    seconds = start(mesh, node, mode, peers)
    time.sleep(SETTLE_SECONDS)
    found = idle(Agent(node), IDLE_SECONDS)
    row(name, found, seconds)
    return found


def measure_memory(mesh: Mesh, nodes: int) -> dict[str, dict]:
    cluster, node = mesh.cluster, mesh.cluster.nodes[0]
    agent, peers = Agent(node), nodes - 1
    say(f"{nodes} EspalierNodes, {NAMESPACES} namespaces, {PODS} pods attached", "RSS MB",
        "median", "anonymous", "files", "peak", "CPU %", "scrape ms", "in sync s")
    seconds = start(mesh, node, "on-demand", peers)
    teams = [f"team-{n}" for n in range(10)]
    for team in teams:
        wait_for_account(cluster, team)
    run_pods(cluster, [pod_object(teams[n % 10], f"pod-{n}", node) for n in range(PODS)], 600)
    wait_until(lambda: agent.metrics()["espalier_pods"] == PODS, 30, f"{PODS} pods")
    time.sleep(SETTLE_SECONDS)
    found = {"attached": idle(agent, IDLE_SECONDS)}
    row("on-demand, since it attached them", found["attached"], seconds)
    found["anew"] = measure_start(mesh, "on-demand", "on-demand, started anew", peers)
    lists = agent.heard()
    found["eager"] = measure_start(mesh, "eager", "eager, no peer answers (information)", peers)
    start(mesh, node, "on-demand", peers)
    print("of a list, octets for each object: " + ", ".join(
        f"{resource} {lists[resource].octets / count:.0f}" for resource, count in
        (("espaliernodes", nodes), ("namespaces", NAMESPACES), ("pods", PODS))))
    return found


def measure_large(mesh: Mesh, nodes: int) -> Heard:
    """An hour's restarts with another key each, by the generator, and pods of other
    nodes. One such event."""
    cluster, agent = mesh.cluster, Agent(mesh.cluster.nodes[0])
    restarted = round(nodes * RESTARTS_AN_HOUR)
    with hearing(agent) as heard:
        fill(cluster, "nodes", 0, restarted, 1)
    got = heard[0]["espaliernodes"]
    say(f"  {restarted} nodes with another key", f"{got.events:.0f}",
        f"{got.octets / got.events:.0f}", "of each event")
    cluster.apply(space("elsewhere", "required"))
    wait_for_account(cluster, "elsewhere")
    count = nodes - len(cluster.nodes)
    begin = time.monotonic()
    with hearing(agent) as heard:
        fill(cluster, "pods", 0, count)
        made = time.monotonic() - begin
        # In one request: kubectl by itself sends a few a second.
        cluster.kubectl("delete", "--raw", "/api/v1/namespaces/elsewhere/pods", timeout=120)
        wait_until(lambda: not cluster.get("-n", "elsewhere", "pod")["items"], 120,
                   "they are gone")
    say(f"  {count} pods of other nodes, {count / made:.0f} a second, and their end",
        f"{sum(heard[0][r].events for r in RESOURCES):.0f}")
    return Heard(1, 0, got.octets / got.events)


def compute(life: Heard, at_others: float, restart: float, event: Heard, quiet: dict) -> float:
    restarts = LARGE * RESTARTS_AN_HOUR / 3600
    pods = PODS_A_SECOND / LARGE
    parts = {
        f"restarts: {restarts:.4f} a second, {restart:.0f} events of {event.octets:.0f}":
            (restarts * restart, restarts * restart * event.octets),
        f"own pods: {pods:.3f} a second, {life.events:.1f} events, {life.octets:.0f} octets":
            (pods * life.events, pods * life.octets),
        f"others' pods, not disabled: {PODS_A_SECOND} a second, {at_others:.0f} events":
            (PODS_A_SECOND * at_others, PODS_A_SECOND * at_others * event.octets),
        "bookmarks of three watches, as measured idle": (quiet["bookmarks"], quiet["octets"])}
    say(f"one agent at {LARGE} nodes, a second", "events", "octets")
    for name, (events, octets) in parts.items():
        say(f"  {name}", f"{events:.3f}", f"{octets:.0f}")
    total = [sum(part[i] for part in parts.values()) for i in (0, 1)]
    say(f"  together (must: under {MUST_EVENTS} events)", f"{total[0]:.3f}", f"{total[1]:.0f}")
    return total[0]


def main() -> int:
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else NODES
    with Lab("bigcluster") as lab:
        cluster = Cluster(lab, nodes=2)
        cluster.up()
        mesh = Mesh(lab, cluster, more_pod_cidrs=FILLED_CIDRS)
        mesh.start_controller()
        cluster.wait_for_nodes(120)
        for node in cluster.nodes:
            wait_until(lambda: mesh.up(node), 60, f"the tunnel of {node.name}")
        say("events, and octets, on one agent's watches", "own node", "octets", "another's")
        life, at_others = measure_lives(cluster)
        restart = measure_restarts(mesh)
        fill_cluster(mesh, nodes)
        found = measure_memory(mesh, nodes)
        event = measure_large(mesh, nodes)
    quiet = found["anew"]
    events = compute(life, at_others, restart, event, quiet)
    most = max(found[key]["VmRSS"] for key in ("attached", "anew"))
    cpu = max(found[key]["cpu"] for key in ("attached", "anew"))
    print(f"resident {most:.1f} MB (must {MUST_MB}, toward {TOWARD_MB}), idle CPU {cpu:.2f} % "
          f"(must {MUST_CPU}), {quiet['events']:.0f} events in {IDLE_SECONDS} idle seconds")
    return 0 if most <= MUST_MB and cpu < MUST_CPU and events < MUST_EVENTS else 1


if __name__ == "__main__":
    sys.exit(main())
