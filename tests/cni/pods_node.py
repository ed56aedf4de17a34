"""A node that attaches pods and has no tunnels: pods-agent in a namespace."""

import json
import pathlib
import secrets

from lab import Lab, Namespace
from lab.process import Process
from lab.session import binary

NETWORK = "espalier"
VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
POD_CIDRS = ["10.244.7.0/24", "fd00:244:7::/64"]


class Sandbox:
    """A pod's namespace, as a container runtime makes it."""

    def __init__(self, lab: Lab, name: str):
        self.id = f"{lab.id}{secrets.token_hex(8)}"
        self.namespace = Namespace(lab, name)
        self.path = str(self.namespace.path)

    def addresses(self) -> list[str]:
        shown = self.namespace.run(["ip", "-j", "address", "show", "scope", "global"])
        return [entry["local"] for link in json.loads(shown.stdout)
                for entry in link.get("addr_info", []) if "local" in entry]

    def interfaces(self) -> list[str]:
        shown = self.namespace.run(["ip", "-j", "link"])
        return [link["ifname"] for link in json.loads(shown.stdout)
                if link.get("link_type") == "ether"]


class PodsNode:
    def __init__(self, lab: Lab, name: str = "node", *, pod_cidrs=POD_CIDRS,
                 start: bool = True):
        self.lab = lab
        self.name = name
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.run_directory = self.folder / "run"
        self.state_directory = self.folder / "state"
        self.checkpoint = self.state_directory / "pods.json"
        self.pod_cidrs = pod_cidrs
        self.namespace = Namespace(lab, name)
        self.namespace.sysctl("net.ipv4.ip_forward", 1)
        self.namespace.sysctl("net.ipv6.conf.all.forwarding", 1)
        self.agent: Process | None = None
        if start:
            self.start()

    def start(self, *options: str) -> None:
        command = [binary("pods-agent"), "--run-directory", self.run_directory,
                   "--state-directory", self.state_directory, "--mtu", "1400", *options]
        for cidr in self.pod_cidrs:
            command += ["--pod-cidr", cidr]
        log_lines = len(self.agent.log().splitlines()) if self.agent else 0
        self.agent = self.namespace.start(
            f"{self.name}-agent", command, log=self.folder / "agent.log")
        self.agent.wait_for(
            lambda: "pods taken over" in "\n".join(
                self.agent.log().splitlines()[log_lines:])
            and self.socket.exists(), 10, "ready")

    @property
    def socket(self) -> pathlib.Path:
        return self.run_directory / "cni.sock"

    def configuration(self, version: str = "1.1.0", **more) -> dict:
        return {"cniVersion": version, "name": NETWORK, "type": "espalier-cni",
                "runDirectory": str(self.run_directory), **more}

    def call(self, command: str, sandbox: Sandbox | None = None, *,
             version: str = "1.1.0", interface: str = "eth0", netns: str | None = None,
             stdin: str | None = None, environment: dict | None = None, **more):
        """Exit code and what standard output holds (None when it is empty)."""
        variables = {"CNI_COMMAND": command, "CNI_PATH": "/usr/lib/cni"}
        if sandbox:
            variables |= {"CNI_CONTAINERID": sandbox.id, "CNI_IFNAME": interface,
                          "CNI_NETNS": sandbox.path if netns is None else netns}
        if stdin is None:
            stdin = json.dumps(self.configuration(version, **more))
        result = self.namespace.run([binary("espalier-cni")], check=False, input=stdin,
                                    env=variables | (environment or {}))
        assert result.stderr == "", result.stderr
        return (result.returncode,
                json.loads(result.stdout) if result.stdout else None)

    def add(self, sandbox: Sandbox, **options) -> dict:
        code, result = self.call("ADD", sandbox, **options)
        assert code == 0, result
        return result

    def delete(self, sandbox: Sandbox, **options) -> None:
        assert self.call("DEL", sandbox, **options) == (0, None)

    def pod_interfaces(self) -> list[str]:
        shown = self.namespace.run(["ip", "-j", "link", "show", "type", "veth"])
        return [link["ifname"] for link in json.loads(shown.stdout or "[]") if link]

    def pod_routes(self) -> list[str]:
        out = []
        for family in ("-4", "-6"):
            shown = self.namespace.run(
                ["ip", "-j", family, "route", "show", "proto", "70"])
            out += [route["dst"] for route in json.loads(shown.stdout or "[]")]
        return out

    def leases(self) -> list[str]:
        return [lease["owner"] for lease in json.loads(self.checkpoint.read_text())["leases"]]


def address_of(result: dict, family: int = 4) -> str:
    for entry in result["ips"]:
        address = entry["address"].partition("/")[0]
        if (":" in address) == (family == 6):
            return address
    raise AssertionError(f"no IPv{family} address in {result}")
