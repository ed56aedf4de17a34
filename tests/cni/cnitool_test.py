"""cnitool, libcni's own driver: the conflist with portmap behind Espalier, and
every command of CNI 1.1.0, as libcni forms it."""

import json
import pathlib
import shutil

import pytest

from lab import go_program
from lab.session import binary, wait_until
from pods_node import NETWORK, PodsNode, Sandbox, address_of

DEBIAN_PLUGINS = "/usr/lib/cni"


class CniTool:
    def __init__(self, lab, node: PodsNode, version: str = "1.1.0"):
        self.lab = lab
        self.node = node
        self.program = go_program("github.com/containernetworking/cni/cnitool")
        if not pathlib.Path(DEBIAN_PLUGINS, "portmap").exists():
            pytest.skip("portmap is missing: apt-get install containernetworking-plugins")
        self.configuration = node.folder / "net.d"
        self.configuration.mkdir()
        # Debian 12's portmap, 1.1.1, ends at CNI 1.0.0; and of a list's
        # cniVersions libcni takes the newest, without asking the plugins.
        self.plugins = node.folder / "bin"
        self.plugins.mkdir()
        (self.plugins / "espalier-cni").symlink_to(binary("espalier-cni"))
        (self.plugins / "portmap").symlink_to(
            go_program("github.com/containernetworking/plugins/plugins/meta/portmap")
            if version == "1.1.0" else f"{DEBIAN_PLUGINS}/portmap")
        conflist = {
            "cniVersion": version, "name": NETWORK,
            "plugins": [
                {"type": "espalier-cni", "runDirectory": str(node.run_directory)},
                {"type": "portmap", "capabilities": {"portMappings": True},
                 "snat": True}]}
        if version == "1.1.0":
            # As it is installed: read by runtimes of both.
            conflist |= {"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"]}
        (self.configuration / "00-espalier.conflist").write_text(json.dumps(conflist))

    def __call__(self, command: str, sandbox: Sandbox | None, **environment):
        # Its cache of results is a fixed path.
        return self.node.namespace.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             'mkdir -p /var/lib/cni "$CACHE" && mount --bind "$CACHE" /var/lib/cni && '
             'exec "$@"', "sh", self.program, command, NETWORK,
             sandbox.path if sandbox else str(self.node.namespace.path)],
            check=False,
            env={"NETCONFPATH": str(self.configuration),
                 "CNI_PATH": str(self.plugins),
                 "CACHE": str(self.node.folder / "cache"), **environment})


@pytest.fixture
def node(lab):
    return PodsNode(lab)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_add_check_del(lab, node, version):
    tool = CniTool(lab, node, version)
    sandbox = Sandbox(lab, "pod")
    added = tool("add", sandbox)
    assert added.returncode == 0, added.stdout + added.stderr
    result = json.loads(added.stdout)
    assert result["cniVersion"] == version
    assert address_of(result) in sandbox.addresses()
    checked = tool("check", sandbox)
    if version == "0.3.1":
        assert checked.returncode != 0
    else:
        assert checked.returncode == 0, checked.stdout + checked.stderr
        sandbox.namespace.run(["ip", "address", "del", address_of(result), "dev", "eth0"])
        assert tool("check", sandbox).returncode != 0
    for _ in range(2):
        deleted = tool("del", sandbox)
        assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    wait_until(lambda: not node.pod_interfaces(), 5, "the pair is gone")


def test_status_and_gc(lab, node):
    tool = CniTool(lab, node)
    assert tool("status", None).returncode == 0
    known, unknown = Sandbox(lab, "known"), Sandbox(lab, "unknown")
    assert tool("add", known).returncode == 0
    node.add(unknown)
    # cnitool means "none is valid": libcni deletes what it knows of, and hands
    # the plugin no list, so that the rest stays.
    collected = tool("gc", None)
    assert collected.returncode == 0, collected.stdout + collected.stderr
    wait_until(lambda: known.interfaces() == [], 5, "what libcni knew is gone")
    assert unknown.addresses()
    node.agent.kill()
    (node.run_directory / "heartbeat").unlink()
    assert tool("status", None).returncode != 0


def test_portmap_gets_the_result_and_forwards(lab, node):
    if not shutil.which("iptables"):
        pytest.skip("iptables is missing: apt-get install iptables")
    tool = CniTool(lab, node)
    pod, client = Sandbox(lab, "pod"), Sandbox(lab, "client")
    mappings = {"portMappings": [
        {"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"}]}
    added = tool("add", pod, CAP_ARGS=json.dumps(mappings))
    assert added.returncode == 0, added.stdout + added.stderr
    node.add(client)
    node.namespace.run(["ip", "link", "set", "lo", "up"])
    # The node's address as others see it.
    node.namespace.run(["ip", "address", "add", "192.0.2.7/32", "dev", "lo"])
    server = pod.namespace.start("server", [
        "/usr/bin/python3", "-c",
        "import socket\n"
        "s = socket.create_server(('0.0.0.0', 8080))\n"
        "while True: c, _ = s.accept(); c.sendall(b'hello'); c.close()\n"])
    fetch = ["/usr/bin/python3", "-c",
             "import socket; s = socket.create_connection(('192.0.2.7', 18080), 2);"
             "print(s.recv(9).decode())"]
    wait_until(lambda: client.namespace.run(fetch, check=False).stdout == "hello\n", 10,
               "the answer through the host port")
    server.check_running()
    assert tool("del", pod, CAP_ARGS=json.dumps(mappings)).returncode == 0
    assert client.namespace.run(fetch, check=False).returncode != 0
