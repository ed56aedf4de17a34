"""Debian's containerd on a node: real pods, started over CRI as a kubelet does."""

import io
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import tarfile

import pytest

from lab import Lab, LabError, Node, go_program, oci
from lab.session import binary, wait_until

IMAGE = "localhost/espalier-test:1"
BUSYBOX = "/usr/bin/busybox"
CGROUPS = pathlib.Path("/sys/fs/cgroup")


def require() -> None:
    for program in ("containerd", "ctr", "runc", BUSYBOX):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing: apt-get install containerd runc busybox-static")


def write_image(path: pathlib.Path) -> None:
    """A static busybox: sandbox and container."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for folder in ("bin", "etc", "www", "proc", "sys", "dev"):
            oci.add(archive, folder, folder=True)
        oci.add(archive, "bin/busybox", pathlib.Path(BUSYBOX).read_bytes(), mode=0o755)
        for name in ("sh", "sleep", "httpd", "cat", "ip", "ping"):
            oci.add(archive, f"bin/{name}", link="busybox")
    oci.write(path, oci.Image(IMAGE, ["/bin/sleep", "1000000"]), layer.getvalue(),
              compress=False)


class RuntimePod:
    def __init__(self, runtime: "Runtime", name: str, answer: dict):
        self.runtime = runtime
        self.name = name
        self.sandbox = answer["sandbox"]
        self.netns = answer["netns"]
        self.addresses = answer["addresses"]
        self.seconds_to_run = answer["seconds"]
        self.container = ""

    def address(self, family: int) -> str:
        return next(a for a in self.addresses if (":" in a) == (family == 6))

    def run(self, command: list[str], check: bool = True):
        """With the machine's programs, in the pod's network."""
        result = subprocess.run(["nsenter", f"--net={self.netns}", *command],
                                capture_output=True, text=True, timeout=60)
        if check and result.returncode != 0:
            raise LabError(f"{command} in {self.name}: {result.stderr}")
        return result

    def execute(self, *command: str) -> dict:
        return self.runtime.cri(Op="exec", Container=self.container, Command=list(command))


class Runtime:
    """containerd in a node's network namespace, with its own folders. plugins: of
    its network, when it is not the node's agent's."""

    def __init__(self, lab: Lab, node: Node, plugins: list[dict] | None = None):
        require()
        self.lab = lab
        self.node = node
        self._plugins = plugins or [
            {"type": "espalier-cni", "runDirectory": str(node.run_directory)},
            {"type": "portmap", "capabilities": {"portMappings": True}}]
        self.folder = node.folder / "cri"
        self.folder.mkdir()
        self.socket = self.folder / "c.sock"
        self.cgroup = f"/espalier-{lab.id}-{node.name}"
        self.pods: list[RuntimePod] = []
        self.client = go_program("./cri")
        self._write_configuration()
        lab.on_close(self._remove_cgroups)
        # Not `ip netns exec`, which would remount /sys.
        self.process = node.namespace.start(
            f"{node.name}-containerd", ["containerd", "--config", self.folder / "config.toml"],
            log=self.folder / "containerd.log")
        # Before containerd is stopped: its shims outlive it.
        lab.on_close(self.remove_all)
        self.process.wait_for(
            lambda: self.socket.exists() and self._ctr("version").returncode == 0, 30,
            "its socket")
        archive = self.folder / "image.tar"
        write_image(archive)
        imported = self._ctr("-n", "k8s.io", "images", "import", "--snapshotter", "native",
                             str(archive))
        if imported.returncode != 0:
            raise LabError(f"ctr images import: {imported.stdout}{imported.stderr}")
        wait_until(lambda: self.cri(Op="status").get("ready"), 20, "the node's network is ready")

    def _write_configuration(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir()
        (programs / "espalier-cni").symlink_to(binary("espalier-cni"))
        for name in ("loopback", "portmap", "ptp", "host-local"):
            (programs / name).symlink_to(f"/usr/lib/cni/{name}")
        lists = self.folder / "net.d"
        lists.mkdir()
        (lists / "00-espalier.conflist").write_text(json.dumps({
            "cniVersion": "1.0.0", "name": "espalier", "plugins": self._plugins}))
        (self.folder / "config.toml").write_text(f"""
version = 2
root = "{self.folder}/root"
state = "{self.folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{programs}"
    conf_dir = "{lists}"
""")

    def _ctr(self, *words: str):
        return subprocess.run(["ctr", "-a", str(self.socket), *words],
                              capture_output=True, text=True, timeout=60)

    def cri(self, check: bool = True, **request) -> dict:
        result = subprocess.run([str(self.client), str(self.socket)], text=True,
                                input=json.dumps(request), capture_output=True, timeout=90)
        if result.returncode != 0:
            raise LabError(f"cri {request}: {result.stderr}")
        answer = json.loads(result.stdout)
        if check and "error" in answer:
            raise LabError(f"cri {request['Op']}: {answer['error']}; "
                           f"log {self.process.log_path}")
        return answer

    def _settings(self, name: str) -> dict:
        return {"Pod": name, "Uid": secrets.token_hex(8), "Cgroup": self.cgroup,
                "LogFolder": str(self.folder)}

    def run_sandbox(self, name: str) -> RuntimePod:
        """A pod without a container but the runtime's own."""
        return self._run_sandbox(name, self._settings(name))

    def _run_sandbox(self, name: str, settings: dict) -> RuntimePod:
        pod = RuntimePod(self, name, self.cri(Op="run", **settings))
        self.pods.append(pod)
        return pod

    def run_pod(self, name: str, command: list[str]) -> RuntimePod:
        settings = self._settings(name)
        pod = self._run_sandbox(name, settings)
        pod.container = self.cri(Op="start", Sandbox=pod.sandbox, Image=IMAGE,
                                 Command=command, **settings)["container"]
        return pod

    def remove(self, pod: RuntimePod) -> None:
        self.cri(Op="stop", Sandbox=pod.sandbox)
        self.cri(Op="remove", Sandbox=pod.sandbox)
        self.pods.remove(pod)

    def remove_all(self) -> None:
        for pod in list(self.pods):
            self.remove(pod)

    def _remove_cgroups(self) -> None:
        for path in [CGROUPS, *CGROUPS.glob("*")]:
            root = path / self.cgroup.lstrip("/")
            if not root.is_dir():
                continue
            for folder, _, _ in os.walk(root, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError as error:
                    print(f"cgroup {folder}: {error}")
