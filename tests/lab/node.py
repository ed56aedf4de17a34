"""A node: a namespace with an uplink, espalier-espd, espalier-agent, and pods
that the real CNI binary attaches."""

import json
import os
import pathlib
import secrets

from lab.errors import LabError
from lab.namespace import Namespace
from lab.process import Process
from lab.session import Lab, binary, wait_until
from lab.wire import Wire

CLUSTER_CIDRS = ["10.244.0.0/16", "fd00:244::/32"]
POD_INTERFACE = "eth0"
CNI_VERSION = "1.0.0"
BPF_PINS = pathlib.Path("/sys/fs/bpf/espalier")


def write_secret(path: pathlib.Path, text: str) -> pathlib.Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


class Pod:
    """A namespace as a container runtime makes it, before CNI ADD."""

    def __init__(self, node: "Node", name: str):
        self.node = node
        self.name = name
        self.container_id = f"{node.lab.id}{secrets.token_hex(8)}"
        self.namespace = Namespace(node.lab, f"{node.name}-{name}")
        self.result: dict = {}
        self.ipv4 = self.ipv6 = ""

    def run(self, command: list[str], **options):
        return self.namespace.run(command, **options)

    def ping(self, address: str, **options) -> int:
        return self.namespace.ping(address, **options)

    @property
    def full_name(self) -> str:
        return f"{self.node.name}/{self.name}"


def default_driver() -> str:
    """The datapath of nodes that are made without saying which: ./dev guest runs
    a test of the lab over the kernel's with ESPALIER_DATAPATH=kernel."""
    return os.environ.get("ESPALIER_DATAPATH", "user")


def default_kernel_options() -> dict:
    """The same for how the kernel finds tunnels: ESPALIER_ROUTING=policy-based."""
    routing = os.environ.get("ESPALIER_ROUTING")
    return {"routing": routing} if routing else {}


class Node:
    """number: 1 to 254; it decides the node's addresses and pod CIDRs. driver:
    datapath.driver, "user" or "kernel"."""

    def __init__(self, lab: Lab, wire: Wire, name: str, number: int, *,
                 driver: str | None = None):
        self.lab = lab
        self.driver = driver or default_driver()
        # datapath.kernel, with that driver.
        self.kernel_options = default_kernel_options()
        self.name = name
        self.number = number
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.run_directory.mkdir(mode=0o700)
        self.namespace = Namespace(lab, name)
        self.uplink = wire.attach(self.namespace, number)
        self.uplink_mtu = wire.mtu
        self.pod_cidrs = [f"10.244.{number}.0/24", f"fd00:244:{number:x}::/64"]
        self.pods: dict[str, Pod] = {}
        self.espd: Process | None = None
        self.agent: Process | None = None
        self.bpf_pins = BPF_PINS / self.namespace.cookie()
        lab.record_pins(self.bpf_pins)
        # A test that upgrades the agent puts another program here.
        self.agent_binary = binary("espalier-agent")
        # Forwarding is the node's owner's business, as on a Kubernetes node.
        self.namespace.sysctl("net.ipv4.ip_forward", 1)
        self.namespace.sysctl("net.ipv6.conf.all.forwarding", 1)

    @property
    def addresses(self) -> list[str]:
        return [self.uplink.ipv4, self.uplink.ipv6]

    @property
    def espd_socket(self) -> pathlib.Path:
        return self.folder / "espd.sock"

    @property
    def agent_socket(self) -> pathlib.Path:
        return self.run_directory / "agent.sock"

    @property
    def run_directory(self) -> pathlib.Path:
        """Where the CNI binary and the agent meet."""
        return self.folder / "run"

    @property
    def config_path(self) -> pathlib.Path:
        return self.folder / "node.yaml"

    @property
    def key_log(self) -> pathlib.Path:
        return self.folder / "keylog"

    def write_config(self, peers: list["Node"], psk: str, *, key_log: bool = False,
                     extra: dict | None = None,
                     peer_fields: dict[str, dict] | None = None) -> None:
        """extra: top-level fields that are added or replaced; peer_fields: the
        same in the entry of the peer with that name, left out when None."""
        write_secret(self.folder / "mesh.psk", psk)
        config = {
            "node": {"name": self.name, "addresses": self.addresses,
                     "podCIDRs": self.pod_cidrs, "uplinkMTU": self.uplink_mtu},
            "cluster": {"podCIDRs": CLUSTER_CIDRS},
            "auth": {"pskFile": "mesh.psk"},
            "peers": [
                {field: value for field, value in {
                    "name": peer.name, "addresses": peer.addresses,
                    "podCIDRs": peer.pod_cidrs,
                    **(peer_fields or {}).get(peer.name, {})}.items() if value is not None}
                for peer in peers],
            "datapath": {"driver": self.driver, "espdSocket": str(self.espd_socket),
                         **({"kernel": self.kernel_options}
                            if self.driver == "kernel" and self.kernel_options else {})},
            "sockets": {"metrics": "127.0.0.1:9469"},
            "runDirectory": str(self.run_directory),
            "stateDirectory": str(self.folder / "state"),
            "logLevel": "debug",
        }
        if key_log:
            self.key_log.mkdir(mode=0o700, exist_ok=True)
            config["keyLogDirectory"] = str(self.key_log)
        config.update(extra or {})
        # JSON is YAML.
        self.config_path.write_text(json.dumps(config, indent=2))

    def start_espd(self) -> None:
        self.espd = self.namespace.start(
            f"{self.name}-espd",
            [binary("espalier-espd"), "--socket", self.espd_socket,
             *(["--hold-udp-encap"] if self.driver == "kernel" else [])],
            log=self.folder / "espd.log")
        self.espd.wait_for(self.espd_socket.exists, 30, "its control socket")

    def upgrade_espd(self) -> None:
        """The next espd takes over; the agent stays. User datapath only."""
        old, log = self.espd, self.folder / f"espd-{secrets.token_hex(3)}.log"
        self.espd = self.namespace.start(
            f"{self.name}-{log.stem}",
            [binary("espalier-espd"), "--socket", self.espd_socket, "--take-over"], log=log)
        self.espd.wait_for_log("espd running", 10)
        if old.wait(10) != 0:
            raise LabError(f"{old.name} did not end well; log {old.log_path}:\n{old.tail()}")

    def start_agent(self) -> None:
        """Returns when the agent can attach pods."""
        self.agent_socket.unlink(missing_ok=True)
        before = self._times_ready()
        self.agent = self.namespace.start(
            f"{self.name}-agent",
            [self.agent_binary, "--config", self.config_path],
            log=self.folder / "agent.log")
        self.agent.wait_for(self.agent_socket.exists, 15, "its socket")
        # Not CNI STATUS: that tolerates an agent that is away.
        self.agent.wait_for(lambda: self._times_ready() > before, 15, "ready for pods")

    def _times_ready(self) -> int:
        log = self.folder / "agent.log"
        return log.read_text(errors="replace").count('"ready for pods"') if log.exists() else 0

    def network_configuration(self) -> dict:
        return {"cniVersion": CNI_VERSION, "name": "espalier", "type": "espalier-cni",
                "runDirectory": str(self.run_directory)}

    def cni(self, command: str, container_id: str, netns: str | None, *,
            pod_name: str = "", namespace: str | None = "default",
            configuration: dict | None = None):
        """Runs the CNI binary as a runtime does: environment and stdin. Without a
        namespace, as one that knows nothing of Kubernetes."""
        configuration = configuration or self.network_configuration()
        if command in ("STATUS", "GC"):
            configuration = {**configuration, "cniVersion": "1.1.0"}
        environment = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container_id,
            "CNI_IFNAME": POD_INTERFACE, "CNI_NETNS": netns or "",
            "CNI_PATH": str(pathlib.Path(binary("espalier-cni")).parent),
            "CNI_ARGS": "IgnoreUnknown=1" + (
                f";K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod_name};"
                f"K8S_POD_UID={container_id}" if namespace else ""),
        }
        return self.namespace.run(
            [binary("espalier-cni")], check=False, env=environment,
            input=json.dumps(configuration))

    def add_pod(self, name: str, namespace: str | None = "default") -> Pod:
        pod = Pod(self, name)
        result = self.cni("ADD", pod.container_id, str(pod.namespace.path), pod_name=name,
                          namespace=namespace)
        if result.returncode != 0:
            raise LabError(
                f"CNI ADD of {pod.full_name}: {result.stdout.strip()} "
                f"{result.stderr.strip()}; agent's log {self.folder}/agent.log")
        pod.result = json.loads(result.stdout)
        for entry in pod.result.get("ips", []):
            address = entry["address"].partition("/")[0]
            if ":" in address:
                pod.ipv6 = address
            else:
                pod.ipv4 = address
        self.pods[name] = pod
        return pod

    def delete_pod(self, pod: Pod) -> None:
        result = self.cni("DEL", pod.container_id, str(pod.namespace.path),
                          pod_name=pod.name)
        if result.returncode != 0:
            raise LabError(f"CNI DEL of {pod.full_name}: {result.stdout.strip()}")
        pod.namespace.delete()
        self.pods.pop(pod.name, None)

    def kubectl(self, *words: str, check: bool = True) -> str:
        result = self.namespace.run(
            [binary("kubectl-espalier"), "--socket", self.agent_socket, *words],
            check=check)
        return result.stdout

    def metrics(self) -> dict[str, float]:
        """Prometheus' text format: sample with its labels to value."""
        text = self.namespace.run(
            ["/usr/bin/python3", "-c",
             "import urllib.request as u;"
             "print(u.urlopen('http://127.0.0.1:9469/metrics', timeout=5).read().decode())"]
        ).stdout
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def wait_for_tunnels(self, count: int, seconds: float = 30) -> None:
        def enough():
            self.agent.check_running()
            return sum(t.get("state") == "up" for t in self.tunnels()) >= count
        try:
            wait_until(enough, seconds, f"{count} tunnels up on {self.name}")
        except LabError as error:
            raise LabError(f"{error}; agent's log {self.folder}/agent.log, "
                           f"tunnels: {self.tunnels()}") from None

    def tunnels(self) -> list[dict]:
        return json.loads(self.kubectl("tunnels", "-o", "json"))["tunnels"]

    def show(self, peer: str) -> dict:
        """One tunnel with its IKE_SAs and ESP SAs."""
        return json.loads(self.kubectl("show", peer, "-o", "json"))
