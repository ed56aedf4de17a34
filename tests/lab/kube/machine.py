"""A machine of the cluster: a network, mount, UTS and PID namespace under one
holder, so that ending the holder ends every process of it, pods included."""

import os
import pathlib
import signal
import subprocess

from lab.errors import LabError
from lab.namespace import Namespace
from lab.process import Process
from lab.session import Lab, wait_until
from lab.wire import Wire

CGROUPS = pathlib.Path("/sys/fs/cgroup")

# Daemons with fixed paths write into folders of the machine's own: overlays,
# so that nothing stays in the real ones. containerd's and the kubelet's are
# plain, since an overlay (a container's root) cannot lie on another.
_SETUP = r"""
set -e
hostname "$2"
mount --make-rshared /
for folder in etc opt var; do
  mkdir -p "$1/$folder" "$1/work/$folder"
  mount -t overlay overlay \
    -o "lowerdir=/$folder,upperdir=$1/$folder,workdir=$1/work/$folder" "/$folder"
done
for folder in /var/lib/containerd /var/lib/kubelet /var/log/pods; do
  mkdir -p "$1/plain$folder" "$folder"
  mount --bind "$1/plain$folder" "$folder"
done
mkdir -p /etc/cni/net.d /opt/cni/bin /var/log/containers /var/lib/cni
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/containerd /run/lock
mount -t bpf bpf /sys/fs/bpf
touch "$1/up"
"""
# Pid 1: bash reaps whatever is handed to it while it waits.
_HOLD = "sleep infinity & while :; do wait; done"


def children(pid: int) -> list[int]:
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def processes_below(root: int, program: str) -> list[int]:
    """Pids, as seen from this machine, of those that were started as `program`."""
    waiting, found = [root], []
    while waiting:
        pid = waiting.pop()
        waiting += children(pid)
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(program.encode() + b"\0"):
            found.append(pid)
    return found


class Machine:
    """Its disk and its uplink's addresses outlive a reboot."""

    def __init__(self, lab: Lab, wire: Wire, name: str, number: int):
        self.lab = lab
        self.wire = wire
        self.name = name
        self.number = number
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.namespace = Namespace(lab, name)
        self.uplink = wire.attach(self.namespace, number)
        self.processes: dict[str, Process] = {}
        self._holder: Process | None = None
        self._gateway: Machine | None = None
        self._ran = False

    @property
    def addresses(self) -> list[str]:
        return [self.uplink.ipv4, self.uplink.ipv6]

    def default_route(self, via: "Machine") -> None:
        self._gateway = via
        for address in via.addresses:
            self.namespace.run(["ip", "route", "replace", "default", "via", address])

    def _renew_network(self) -> None:
        """As a kernel that starts: no device, rule, route or table of before."""
        self.wire.detach(self.number)
        self.namespace.renew()
        self.uplink = self.wire.attach(self.namespace, self.number)
        if self._gateway:
            self.default_route(self._gateway)

    def boot(self) -> None:
        if self._ran:
            self._renew_network()
        self._ran = True
        up = self.folder / "up"
        up.unlink(missing_ok=True)
        script = f"{_SETUP}\n{_HOLD}"
        self._holder = self.namespace.start(
            f"{self.name}-holder",
            ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child",
             "--mount-proc", "--propagation", "slave",
             "bash", "-c", script, "holder", self.folder, self.name])
        self._holder.wait_for(up.exists, 20, "its mounts")

    @property
    def pid(self) -> int:
        """Of its pid 1, as seen from outside."""
        found = children(self._holder.pid)
        if not found:
            raise LabError(f"{self.name} is down; log {self._holder.log_path}")
        return found[0]

    def power_off(self) -> None:
        """As a plug pulled: every process of it is gone at once."""
        if self._holder is None:
            return
        inner = children(self._holder.pid)
        self._holder.kill()
        # The kernel keeps a pid 1 until the last process of its namespace ended.
        for pid in inner:
            wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists(), 20,
                       f"{self.name} is off")
        self._holder = None
        self.processes.clear()

    def command(self, words: list) -> list[str]:
        # Keep /sys as it is: cgroups are seen through it.
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p",
                *(str(word) for word in words)]

    def run(self, words: list, *, check: bool = True, timeout: float = 60,
            input: str | None = None) -> subprocess.CompletedProcess:
        command = self.command(words)
        try:
            result = subprocess.run(command, capture_output=True, text=True,
                                    timeout=timeout, input=input)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {' '.join(map(str, words))}: still running "
                           f"after {timeout} s") from None
        if check and result.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(map(str, words))}: "
                           f"{(result.stderr or result.stdout).strip()[-1500:]}")
        return result

    def start(self, name: str, words: list, *, env=None) -> Process:
        process = Process(self.lab, f"{self.name}-{name}", self.command(words), env=env)
        self.processes[name] = process
        # Before the lab asks each of them in turn.
        self.lab.on_close(self.power_off)
        return process

    def kill(self, name: str) -> None:
        """SIGKILL. nsenter forks to enter a PID namespace, so the program is its
        child, and ending nsenter would end nothing."""
        process = self.processes.pop(name)
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(10)


def make_cgroups(lab: Lab, name: str) -> None:
    """A cgroup of every hierarchy for what a kubelet starts. A stale one would
    delay the next kubelet by seconds."""
    lab.record_cgroup(name)
    for hierarchy in CGROUPS.iterdir():
        if not (hierarchy / "cgroup.procs").exists() or hierarchy.name == "unified":
            continue
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / file).exists():
                (folder / file).write_text((hierarchy / file).read_text())
