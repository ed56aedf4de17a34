"""A Kubernetes node: containerd, kubelet and kube-proxy on a machine."""

import dataclasses
import json
import pathlib
import shutil

from lab.golang import go_program
from lab.kube import images
from lab.kube.machine import Machine, make_cgroups
from lab.kube.settings import CLUSTER_DNS, POD_CIDRS, Settings
from lab.node import BPF_PINS
from lab.session import Lab, remove_cgroups
from lab.wire import Wire

PLUGINS = "github.com/containernetworking/plugins/plugins"
# What every distribution's installer leaves in /opt/cni/bin; ptp and host-local
# are there to compare with.
NODE_PLUGINS = ("main/loopback", "main/ptp", "ipam/host-local", "meta/portmap")

_CONTAINERD = f"""
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{images.NAME}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""


class KubeNode(Machine):
    def __init__(self, lab: Lab, wire: Wire, name: str, number: int, settings: Settings):
        super().__init__(lab, wire, name, number)
        self.settings = settings
        self._address_number = number
        self.cgroup = self.namespace.name
        self._forward()
        (self.folder / "containerd.toml").write_text(_CONTAINERD)
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet_configuration()))

    def _forward(self) -> None:
        """As an installer of Kubernetes does."""
        self.namespace.sysctl("net.ipv4.ip_forward", 1)
        self.namespace.sysctl("net.ipv6.conf.all.forwarding", 1)

    def _renew_network(self) -> None:
        super()._renew_network()
        self._forward()
        self._take_addresses(self._address_number)

    @property
    def cni_binaries(self) -> pathlib.Path:
        return self.folder / "opt/cni/bin"

    @property
    def cni_lists(self) -> pathlib.Path:
        return self.folder / "etc/cni/net.d"

    @property
    def guard_maps(self) -> pathlib.Path:
        """In its own bpffs."""
        pins = pathlib.Path(f"/proc/{self.pid}/root{BPF_PINS}") / self.namespace.cookie()
        (folder,) = pins.glob("v*")
        return folder

    def _kubelet_configuration(self) -> dict:
        ca = str(self.settings.authority.certificate)
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                               "x509": {"clientCAFile": ca}},
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self.cgroup}",
            "enforceNodeAllocatable": [], "failSwapOn": False, "failCgroupV1": False,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": list(CLUSTER_DNS), "clusterDomain": "cluster.local",
            "resolvConf": "/dev/null", "rotateCertificates": False,
            # The machine's disk is not the nodes' own.
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%",
                             "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100, "localStorageCapacityIsolation": False,
            "serializeImagePulls": False, "volumeStatsAggPeriod": "0s",
            "nodeStatusUpdateFrequency": "4s", "maxPods": 250,
        }

    def boot(self) -> None:
        super().boot()
        make_cgroups(self.lab, self.cgroup)
        self.cni_binaries.mkdir(parents=True, exist_ok=True)
        for plugin in NODE_PLUGINS:
            target = self.cni_binaries / plugin.rpartition("/")[2]
            if not target.exists():
                shutil.copy(go_program(f"{PLUGINS}/{plugin}"), target)
        self.start_containerd()
        self.start_kubelet()
        if self.settings.proxy_mode != "none":
            self.start_proxy()

    def power_off(self) -> None:
        super().power_off()
        remove_cgroups(self.cgroup)

    def start_containerd(self) -> None:
        process = self.start(
            "containerd", ["containerd", "--config", self.folder / "containerd.toml"],
            env=self._runtime_environment())
        process.wait_for(lambda: self.ctr("version", check=False).returncode == 0, 30,
                         "its socket")

    def _runtime_environment(self) -> dict:
        return {"PATH": f"{self.settings.runtime_programs}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def ctr(self, *words, check: bool = True):
        program = self.settings.runtime_programs / "ctr"
        return self.run([program, *words], check=check, timeout=120)

    def import_image(self, archive: pathlib.Path) -> None:
        self.ctr("-n", "k8s.io", "images", "import", archive)

    def start_kubelet(self) -> None:
        self.start("kubelet", [
            self.settings.kubernetes, "kubelet", f"--config={self.folder}/kubelet.json",
            f"--kubeconfig={self.settings.authority.folder}/{self.name}.conf",
            f"--hostname-override={self.name}", f"--node-ip={','.join(self.addresses)}"])

    def start_proxy(self) -> None:
        # conntrack's sysctls are the machine's own.
        self.start("kube-proxy", [
            self.settings.kubernetes, "kube-proxy",
            f"--kubeconfig={self.settings.authority.folder}/proxy.conf",
            f"--hostname-override={self.name}", f"--proxy-mode={self.settings.proxy_mode}",
            f"--cluster-cidr={','.join(POD_CIDRS)}", "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"])

    def readdress(self, number: int) -> None:
        """Its uplink has the addresses of another number from now on, and kubelet
        and kube-proxy, started anew, go by them."""
        self._address_number = number
        self._take_addresses(number)
        for name, start in (("kubelet", self.start_kubelet), ("kube-proxy", self.start_proxy)):
            if name in self.processes:
                self.kill(name)
                start()

    def _take_addresses(self, number: int) -> None:
        before, after = tuple(self.addresses), self.wire.addresses(number)
        if before == after:
            return
        device = self.uplink.device
        for old, new, length, words in zip(before, after, (24, 64), ([], ["nodad"])):
            self.namespace.run(["ip", "address", "delete", f"{old}/{length}", "dev", device])
            self.namespace.run(["ip", "address", "add", f"{new}/{length}", "dev", device,
                                *words])
        self.uplink = dataclasses.replace(self.uplink, ipv4=after[0], ipv6=after[1])
        # The kernel took the routes with the addresses.
        if self._gateway:
            self.default_route(self._gateway)
