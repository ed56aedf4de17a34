"""A whole cluster: control plane and nodes, each a machine on one wire."""

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Sequence

from lab.errors import LabError
from lab.golang import go_program
from lab.kube import images
from lab.kube.machine import Machine
from lab.kube.node import KubeNode
from lab.kube.pki import Authority
from lab.kube.settings import API_SERVICE, POD_CIDRS, PROXY_MODES, SERVICE_CIDRS, Settings
from lab.namespace import Namespace
from lab.session import Lab, binary, wait_until
from lab.wire import Wire

CONTROL_NUMBER = 250
OUTSIDE_NUMBER = 240
API_PORT = 6443
RUNTIMES = ("debian", "2.4")
ETCD = "http://127.0.0.1:2379"
HELM = "helm.sh/helm/v4/cmd/helm"
CONTAINERD = "github.com/containerd/containerd/v2/cmd"
CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")


def say_nothing(step: str, seconds: float) -> None:
    pass


class Outside:
    """The world that is not the cluster: the nodes' default route."""

    def __init__(self, lab: Lab, wire: Wire):
        self.namespace = Namespace(lab, "outside")
        self.uplink = wire.attach(self.namespace, OUTSIDE_NUMBER)

    @property
    def addresses(self) -> list[str]:
        return [self.uplink.ipv4, self.uplink.ipv6]


class Cluster:
    """nodes: 0 for the control plane alone. proxy_mode: "none" for no kube-proxy.
    runtime: "debian" is containerd 1.6 with CNI 1.0.0, "2.4" speaks 1.1.0.
    apiserver_flags: beside the lab's own. progress: told of each step and the
    seconds since the beginning."""

    def __init__(self, lab: Lab, *, nodes: int = 2, proxy_mode: str = PROXY_MODES[0],
                 runtime: str = RUNTIMES[0], apiserver_flags: Sequence[str] = (),
                 progress: Callable[[str, float], None] = say_nothing):
        self.lab = lab
        self.begin = time.monotonic()
        self._apiserver_flags = apiserver_flags
        self._progress = progress
        self.programs = self._find_programs(runtime)
        self._step("programs are built")
        authority = Authority(lab.folder / "pki")
        self.settings = Settings(self.programs["kubernetes"], self.programs["runtime"],
                                 authority, proxy_mode)
        self.wire = Wire(lab)
        self.outside = Outside(lab, self.wire)
        self.control = Machine(lab, self.wire, "control", CONTROL_NUMBER)
        self.nodes = [KubeNode(lab, self.wire, f"node-{number}", number, self.settings)
                      for number in range(1, nodes + 1)]
        for machine in (self.control, *self.nodes):
            machine.default_route(self.outside)
        self._images: list[pathlib.Path] = []
        self._next_number = nodes + 1
        self._issue_certificates()
        self.folder_of_commands = self._write_commands()

    def _step(self, text: str) -> None:
        self._progress(text, time.monotonic() - self.begin)

    def _find_programs(self, runtime: str) -> dict[str, pathlib.Path]:
        if runtime not in RUNTIMES:
            raise LabError(f"no runtime {runtime}; there are {' '.join(RUNTIMES)}")
        folder = pathlib.Path("/usr/bin")
        if runtime != "debian":
            folder = self.lab.folder / "runtime"
            folder.mkdir()
            for name in CONTAINERD_PROGRAMS:
                (folder / name).symlink_to(go_program(f"{CONTAINERD}/{name}", "containerd"))
        for program in (folder / "containerd", pathlib.Path("/usr/sbin/runc"),
                        pathlib.Path("/usr/sbin/nft"), pathlib.Path("/usr/sbin/iptables")):
            if not program.exists():
                raise LabError(f"{program} is missing: apt-get install containerd runc "
                               "nftables iptables")
        return {"kubernetes": go_program(".", "kubernetes"), "runtime": folder,
                "helm": go_program(HELM, "helm")}

    @property
    def server(self) -> str:
        return f"https://{self.control.uplink.ipv4}:{API_PORT}"

    def _issue_certificates(self) -> None:
        authority = self.settings.authority
        authority.issue("apiserver", "kube-apiserver", server=[
            *self.control.addresses, API_SERVICE, "127.0.0.1", "kubernetes",
            "kubernetes.default", "kubernetes.default.svc"])
        authority.issue("apiserver-kubelet", "kube-apiserver", "system:masters")
        authority.signing_pair("accounts")
        for name, common, organization in (
                ("admin", "admin", "system:masters"),
                ("controller-manager", "system:kube-controller-manager", ""),
                ("scheduler", "system:kube-scheduler", ""),
                ("proxy", "system:kube-proxy", "")):
            authority.issue(name, common, organization)
            authority.kubeconfig(name, self.server)
        for node in self.nodes:
            self._issue_node_certificate(node)

    def _issue_node_certificate(self, node: KubeNode) -> None:
        authority = self.settings.authority
        authority.issue(node.name, f"system:node:{node.name}", "system:nodes")
        authority.kubeconfig(node.name, self.server)

    def _write_commands(self) -> pathlib.Path:
        """kubectl and helm as people call them: in the control plane's network,
        since the machine's own is left as it is."""
        folder = self.lab.folder / "bin"
        folder.mkdir()
        (folder / "kubernetes").symlink_to(self.programs["kubernetes"])
        config = self.settings.authority.folder / "admin.conf"
        for name, program in (("kubectl", f"{folder}/kubernetes kubectl"),
                              ("helm", self.programs["helm"])):
            script = folder / name
            script.write_text(
                "#!/bin/sh\n"
                f"export KUBECONFIG=\"${{KUBECONFIG:-{config}}}\" PATH=\"{folder}:$PATH\"\n"
                f"exec nsenter --net={self.control.namespace.path} {program} \"$@\"\n")
            script.chmod(0o755)
        try:
            (folder / "kubectl-espalier").symlink_to(binary("kubectl-espalier"))
        except LabError:
            pass  # a cluster without a build of Espalier is one all the same
        return folder

    # Up and down.

    def up(self) -> None:
        self.control.boot()
        self.control.start("etcd", [
            self.settings.kubernetes, "etcd", "--data-dir", self.control.folder / "etcd",
            "--listen-client-urls", ETCD, "--advertise-client-urls", ETCD,
            "--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync",
            "--logger=zap", "--log-level=warn"])
        self.start_apiserver()
        # While the API server starts: it takes no longer for it.
        test_image = self.lab.folder / "test-image.tar"
        images.write_test_image(test_image)
        self._images.append(test_image)
        for node in self.nodes:
            node.boot()
            node.import_image(test_image)
        self._step("containerd and kubelet run on each node")
        self.wait_for_apiserver()
        self._step("API server is ready")
        self._start_controllers()
        if self.nodes:
            # kubectl wait --for=create may give up at once, while there is none.
            wait_until(lambda: self.kubectl("get", *(f"node/{n.name}" for n in self.nodes),
                                            check=False).returncode == 0, 120,
                       "every node is registered")
            self._wait_for_pod_cidrs()
            self._step("nodes are registered, with pod CIDRs")

    def start_apiserver(self) -> None:
        folder = self.settings.authority.folder
        self.control.start("apiserver", [
            self.settings.kubernetes, "kube-apiserver", f"--etcd-servers={ETCD}",
            f"--advertise-address={self.control.uplink.ipv4}", f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={','.join(SERVICE_CIDRS)}",
            f"--client-ca-file={folder}/ca.crt",
            f"--tls-cert-file={folder}/apiserver.crt",
            f"--tls-private-key-file={folder}/apiserver.key",
            f"--kubelet-client-certificate={folder}/apiserver-kubelet.crt",
            f"--kubelet-client-key={folder}/apiserver-kubelet.key",
            f"--service-account-key-file={folder}/accounts.pub",
            f"--service-account-signing-key-file={folder}/accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP",
            *self._apiserver_flags])

    def _start_controllers(self) -> None:
        self.start_controller_manager()
        self.control.start("scheduler", [
            self.settings.kubernetes, "kube-scheduler",
            f"--kubeconfig={self.settings.authority.folder}/scheduler.conf",
            "--leader-elect=false"])

    def start_controller_manager(self, *, allocate_node_cidrs: bool = True) -> None:
        folder = self.settings.authority.folder
        self.control.start("controller-manager", [
            self.settings.kubernetes, "kube-controller-manager",
            f"--kubeconfig={folder}/controller-manager.conf",
            f"--service-account-private-key-file={folder}/accounts.key",
            f"--root-ca-file={folder}/ca.crt", f"--cluster-cidr={','.join(POD_CIDRS)}",
            f"--allocate-node-cidrs={str(allocate_node_cidrs).lower()}",
            "--node-cidr-mask-size-ipv4=24",
            "--node-cidr-mask-size-ipv6=64",
            f"--service-cluster-ip-range={','.join(SERVICE_CIDRS)}", "--leader-elect=false",
            "--use-service-account-credentials", "--node-monitor-grace-period=20s",
            f"--cluster-signing-cert-file={folder}/ca.crt",
            f"--cluster-signing-key-file={folder}/ca.key"])

    def wait_for_apiserver(self) -> None:
        self.control.processes["apiserver"].wait_for(
            lambda: self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0,
            90, "ready")

    def _wait_for_pod_cidrs(self) -> None:
        wait_until(lambda: all(len(self.pod_cidrs(node)) == 2 for node in self.nodes), 60,
                   "every node has a pod CIDR of each family")

    def pod_cidrs(self, node: KubeNode) -> list[str]:
        return self.get("node", node.name)["spec"].get("podCIDRs", [])

    def add_node(self) -> KubeNode:
        """To the running cluster; it has the images of the others. Returns once the
        API server knows it."""
        number = self._next_number  # never that of one removed
        self._next_number += 1
        node = KubeNode(self.lab, self.wire, f"node-{number}", number, self.settings)
        node.default_route(self.outside)
        self._issue_node_certificate(node)
        self.nodes.append(node)
        node.boot()
        for image in self._images:
            node.import_image(image)
        self.kubectl("wait", "--for=create", f"node/{node.name}", "--timeout=60s", timeout=70)
        self._step(f"{node.name} is registered")
        return node

    def remove_node(self, node: KubeNode) -> None:
        """One that is off, as its owner does who will not have it back."""
        self.kubectl("delete", "node", node.name)
        self.nodes.remove(node)

    def load_image(self, archive: pathlib.Path) -> None:
        """As a registry would serve it: on every node; a reboot does not lose it."""
        self._images.append(archive.resolve())
        for node in self.nodes:
            node.import_image(archive.resolve())
        self._step(f"image {archive.name} is on each node")

    def plain_network(self) -> None:
        """ptp with host-local and static routes: what Espalier replaces, and is
        compared with."""
        for node in self.nodes:
            cidrs = self.pod_cidrs(node)
            for other in (self.control, *self.nodes):
                if other is not node:
                    for cidr, address in zip(cidrs, node.addresses):
                        other.namespace.run(["ip", "route", "replace", cidr, "via", address])
            text = json.dumps({"cniVersion": "1.0.0", "name": "plain", "plugins": [
                {"type": "ptp", "ipMasq": False, "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": cidr}] for cidr in cidrs],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": True}}]})
            node.run(["sh", "-c", "cat > /etc/cni/net.d/.new && "
                      "mv /etc/cni/net.d/.new /etc/cni/net.d/10-plain.conflist"], input=text)
        self._step("ptp and host-local are configured")

    def wait_for_nodes(self, seconds: int = 120) -> None:
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all",
                     f"--timeout={seconds}s", timeout=seconds + 10)
        self._step("nodes are Ready")

    def ready_conditions(self) -> dict[str, dict]:
        """By the node's name."""
        return {node["metadata"]["name"]: next(
            c for c in node["status"]["conditions"] if c["type"] == "Ready")
            for node in self.get("nodes")["items"]}

    def assert_ready_since(self, before: dict[str, dict]) -> None:
        """before: of ready_conditions(). A node that was NotReady for a moment has
        another lastTransitionTime since."""
        now = self.ready_conditions()
        assert now.keys() == before.keys()
        for name, condition in now.items():
            assert (condition["status"], condition["lastTransitionTime"]) == (
                "True", before[name]["lastTransitionTime"]), (name, condition)

    # As people use it.

    def run(self, words: list, *, check: bool = True, timeout: float = 60,
            input: str | None = None) -> subprocess.CompletedProcess:
        """A command line with kubectl and helm on its PATH."""
        environment = {**os.environ, "PATH": f"{self.folder_of_commands}:{os.environ['PATH']}"}
        environment.pop("KUBECONFIG", None)
        command = [str(word) for word in words]
        try:
            result = subprocess.run(command, capture_output=True, text=True, env=environment,
                                    timeout=timeout, input=input)
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(command)}: still running after {timeout} s") from None
        if check and result.returncode != 0:
            raise LabError(f"{' '.join(command)}: exit code {result.returncode}: "
                           f"{(result.stderr or result.stdout).strip()[-2000:]}")
        return result

    def kubectl(self, *words, **options) -> subprocess.CompletedProcess:
        return self.run([self.folder_of_commands / "kubectl", *words], **options)

    def helm(self, *words, **options) -> subprocess.CompletedProcess:
        return self.run([self.folder_of_commands / "helm", *words], **options)

    def get(self, *words) -> dict:
        return json.loads(self.kubectl("get", *words, "-o", "json").stdout)

    def apply(self, *objects: dict) -> None:
        self.kubectl("apply", "-f", "-", input=json.dumps(
            {"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def node(self, name: str) -> KubeNode:
        return next(node for node in self.nodes if node.name == name)

    def write_shell(self) -> pathlib.Path:
        """A file to source: the cluster's commands first on PATH."""
        path = self.lab.folder / "env"
        path.write_text(f'export PATH="{self.folder_of_commands}:$PATH"\n'
                        f'export KUBECONFIG="{self.settings.authority.folder}/admin.conf"\n')
        return path
