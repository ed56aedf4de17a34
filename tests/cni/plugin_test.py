"""espalier-cni as a runtime calls it, by hand: environment, standard input,
standard output and exit code, against the real kernel."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest

from lab import Namespace
from lab.session import binary, wait_until
from pods_node import VERSIONS, PodsNode, Sandbox, address_of


@pytest.fixture
def node(lab):
    return PodsNode(lab)


def error(answer, code: int, *parts: str) -> dict:
    exit_code, result = answer
    assert exit_code == 1, result
    assert result["code"] == code, result
    for part in parts:
        assert part in result["msg"] + result.get("details", ""), result
    return result


def test_the_binary_is_static_and_needs_no_agent_for_version(lab):
    shown = subprocess.run(["file", "-L", binary("espalier-cni")],
                           capture_output=True, text=True)
    if shown.returncode == 0:
        assert "statically linked" in shown.stdout
    node = PodsNode(lab, start=False)
    code, result = node.call("VERSION", stdin='{"cniVersion":"0.4.0"}')
    assert code == 0
    assert result == {"cniVersion": "0.4.0", "supportedVersions": VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_add_check_del_in_every_version(lab, node, version):
    sandbox = Sandbox(lab, "pod")
    result = node.add(sandbox, version=version)
    assert result["cniVersion"] == version
    host, pod = result["interfaces"]
    assert host["name"] in node.pod_interfaces() and "sandbox" not in host
    assert pod["name"] == "eth0" and pod["sandbox"] == sandbox.path
    assert ("mtu" in pod) == (version == "1.1.0")
    assert [entry["interface"] for entry in result["ips"]] == [1, 1]
    assert ("version" in result["ips"][0]) == (version in ("0.3.1", "0.4.0"))
    assert sorted(entry["address"].partition("/")[0] for entry in result["ips"]) == \
        sorted(sandbox.addresses())
    assert {route["dst"] for route in result["routes"]} == {"0.0.0.0/0", "::/0"}

    check = node.call("CHECK", sandbox, version=version, prevResult=result)
    if version == "0.3.1":
        error(check, 1, "CHECK")
    else:
        assert check == (0, None)
        sandbox.namespace.run(["ip", "route", "del", "default"])
        error(node.call("CHECK", sandbox, version=version, prevResult=result),
              102, "default route")

    node.delete(sandbox, version=version, prevResult=result)
    assert not node.pod_routes()
    wait_until(lambda: not node.pod_interfaces(), 5, "the pair is gone")
    assert sandbox.interfaces() == []
    node.delete(sandbox, version=version)
    node.delete(sandbox, version=version, netns="")
    if version != "0.3.1":
        error(node.call("CHECK", sandbox, version=version, prevResult=result), 3)


def test_pods_of_one_node_reach_each_other(lab, node):
    one, two = Sandbox(lab, "one"), Sandbox(lab, "two")
    node.add(one)
    result = node.add(two)
    assert one.namespace.ping(address_of(result, 4)) == 1
    assert one.namespace.ping(address_of(result, 6)) == 1
    # The largest packet that the interface takes, and none larger.
    assert one.namespace.ping(address_of(result, 4), size=1400 - 28) == 1
    assert one.namespace.ping(address_of(result, 4), size=1400 - 27, wait=1) == 0


def test_add_is_idempotent_and_del_frees_the_address(lab, node):
    sandbox = Sandbox(lab, "pod")
    first = node.add(sandbox)
    assert node.add(sandbox) == first
    node.delete(sandbox)
    # Waits for the pair to go; the address of before rests.
    second = node.add(sandbox)
    assert address_of(second) != address_of(first)
    assert sandbox.addresses()


def test_bad_environment_and_configuration(lab, node):
    sandbox = Sandbox(lab, "pod")
    error(node.call("ADD"), 4, "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS")
    error(node.call("ADD", sandbox, interface="a/b"), 4, "CNI_IFNAME")
    error(node.call("REMOVE", sandbox), 4, "REMOVE")
    error(node.call("ADD", sandbox, stdin=""), 6, "JSON")
    error(node.call("ADD", sandbox, stdin='{"cniVersion":"1.0.0",'), 6, "parse error")
    error(node.call("ADD", sandbox, stdin="[]"), 6, "array")
    error(node.call("ADD", sandbox, version="0.2.0"), 1, "0.2.0", "0.3.1")
    error(node.call("ADD", sandbox, ipam={"type": "host-local"}), 2, "ipam", "host-local")
    error(node.call("ADD", sandbox, name=""), 7, "name")
    error(node.call("ADD", sandbox, prevResult={}), 7, "first")
    error(node.call("GC", version="1.0.0"), 1, "GC")
    assert sandbox.interfaces() == [] and node.pod_interfaces() == []
    assert node.leases() == []


def test_a_closed_standard_input_is_an_io_error(node):
    result = subprocess.run(
        ["sh", "-c", f"exec {binary('espalier-cni')} <&-"], capture_output=True, text=True,
        env={**os.environ, "CNI_COMMAND": "STATUS"})
    assert result.returncode == 1
    assert json.loads(result.stdout)["code"] == 5


def test_namespaces_that_cannot_be_used(lab, node):
    sandbox = Sandbox(lab, "pod")
    error(node.call("ADD", sandbox, netns="/run/netns/none"), 8, "/run/netns/none")
    error(node.call("ADD", sandbox, netns=str(node.namespace.path)), 8, "own")
    error(node.call("ADD", sandbox, netns="/etc/hostname"), 8, "no network namespace")
    sandbox.namespace.run(["ip", "link", "add", "eth0", "type", "veth",
                           "peer", "name", "eth1"])
    error(node.call("ADD", sandbox), 103, "eth0")
    assert node.pod_interfaces() == [] and node.leases() == []


def test_a_full_pool(lab):
    node = PodsNode(lab, pod_cidrs=["10.244.7.0/29"])
    sandboxes = [Sandbox(lab, f"p{i}") for i in range(6)]
    for sandbox in sandboxes[:5]:
        node.add(sandbox)
    error(node.call("ADD", sandboxes[5]), 101, "10.244.7.0/29", "5 of 5 used")
    assert sandboxes[5].interfaces() == []
    assert node.call("STATUS")[0] == 0
    node.delete(sandboxes[2])
    # Waits for the pair to go.
    node.add(sandboxes[5])


def test_fifty_adds_at_once(lab, node):
    sandboxes = [Sandbox(lab, f"p{i}") for i in range(50)]

    def calls(command):
        processes = []
        for sandbox in sandboxes:
            process = subprocess.Popen(
                node.namespace.command([binary("espalier-cni")]), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "CNI_COMMAND": command, "CNI_CONTAINERID": sandbox.id,
                     "CNI_IFNAME": "eth0", "CNI_NETNS": sandbox.path})
            process.stdin.write(json.dumps(node.configuration()))
            process.stdin.close()
            processes.append(process)
        return [(process.wait(60), process.stdout.read()) for process in processes]

    answers = calls("ADD")
    assert [code for code, _ in answers] == [0] * 50
    results = [json.loads(text) for _, text in answers]
    for family in (4, 6):
        assert len({address_of(result, family) for result in results}) == 50
    for sandbox, result in zip(sandboxes, results):
        assert address_of(result) in sandbox.addresses()
    assert len(node.leases()) == 50
    assert sandboxes[0].namespace.ping(address_of(results[49], 6)) == 1
    assert calls("DEL") == [(0, "")] * 50
    wait_until(lambda: not node.pod_interfaces() and not node.leases(), 20, "all is gone")
    assert not node.pod_routes()


def test_without_an_agent(lab):
    node = PodsNode(lab, start=False)
    sandbox = Sandbox(lab, "pod")
    error(node.call("ADD", sandbox), 11, "does not answer", str(node.socket))
    error(node.call("STATUS"), 50)
    error(node.call("GC", **{"cni.dev/valid-attachments": []}), 11)
    # DEL is left for the agent, which does it before it serves ADD.
    node.delete(sandbox)
    assert len(list((node.run_directory / "deletions").iterdir())) == 1
    node.start()
    wait_until(lambda: not list((node.run_directory / "deletions").iterdir()), 5,
               "the queue is empty")


def test_an_agent_that_is_away_for_a_while(lab, node):
    kept, deleted = Sandbox(lab, "kept"), Sandbox(lab, "deleted")
    result = node.add(kept)
    node.add(deleted)
    node.agent.kill()
    # As long as the heartbeat is young the node can attach pods, in a moment.
    assert node.call("STATUS") == (0, None)
    error(node.call("ADD", Sandbox(lab, "new")), 11)
    node.delete(deleted, netns="")
    boot, at = (node.run_directory / "heartbeat").read_text().split()
    (node.run_directory / "heartbeat").write_text(f"{boot} {int(at) - 121 * 10**9}\n")
    error(node.call("STATUS"), 50)

    node.start()
    assert node.call("STATUS") == (0, None)
    wait_until(lambda: len(node.pod_interfaces()) == 1, 5, "the queued DEL is done")
    assert kept.addresses() and deleted.interfaces() == []
    assert node.call("CHECK", kept, prevResult=result) == (0, None)
    assert node.add(kept) == result


def test_not_ready_is_try_again_later(lab):
    node = PodsNode(lab, start=False)
    node.start("--not-ready")
    sandbox = Sandbox(lab, "pod")
    error(node.call("ADD", sandbox), 11, "not ready")
    error(node.call("STATUS"), 50, "not ready")
    node.delete(sandbox)


def test_killed_during_add(lab, node):
    """At whatever moment the agent ends, the runtime's DEL or a repeated ADD
    sets things right, and no address is held by two pods."""
    survivors = {}
    for delay in (0.0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.010):
        sandbox = Sandbox(lab, f"d{int(delay * 1000)}")
        process = subprocess.Popen(
            node.namespace.command([binary("espalier-cni")]), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": sandbox.id,
                 "CNI_IFNAME": "eth0", "CNI_NETNS": sandbox.path})
        process.stdin.write(json.dumps(node.configuration()))
        process.stdin.close()
        time.sleep(delay + 0.004)
        node.agent.kill()
        code = process.wait(30)
        assert code in (0, 1)
        node.start()
        if delay in (0.001, 0.004):
            node.delete(sandbox)
            wait_until(lambda: sandbox.interfaces() == [], 5, "nothing is left")
        else:
            survivors[sandbox.path] = node.add(sandbox)
            assert address_of(survivors[sandbox.path]) in sandbox.addresses()
    assert len({address_of(result) for result in survivors.values()}) == len(survivors)
    wait_until(lambda: len(node.pod_interfaces()) == len(survivors), 5, "no leftovers")
    assert len(node.leases()) == len(survivors)


@pytest.mark.parametrize("damage", ["none", "removed", "cut", "rubbish", "future"])
def test_checkpoint_after_kill_9(lab, node, damage):
    sandboxes = [Sandbox(lab, f"p{i}") for i in range(3)]
    results = [node.add(sandbox) for sandbox in sandboxes]
    node.agent.kill()
    text = node.checkpoint.read_text()
    if damage == "removed":
        node.checkpoint.unlink()
    elif damage == "cut":
        node.checkpoint.write_text(text[:len(text) // 2])
    elif damage == "rubbish":
        node.checkpoint.write_bytes(os.urandom(500))
    elif damage == "future":
        node.checkpoint.write_text(text.replace('"version": 1', '"version": 9'))
    node.start()
    aside = pathlib.Path(f"{node.checkpoint}.unusable")
    assert aside.exists() == (damage in ("cut", "rubbish", "future"))
    # Nobody's address goes to another, and the pods are still known.
    taken = {address_of(result) for result in results}
    new = Sandbox(lab, "new")
    assert address_of(node.add(new)) not in taken
    for sandbox, result in zip(sandboxes, results):
        assert node.call("CHECK", sandbox, prevResult=result) == (0, None)
        assert new.namespace.ping(address_of(result)) == 1
        node.delete(sandbox)
    wait_until(lambda: len(node.pod_interfaces()) == 1, 5, "only the new pod is left")


def test_leftovers_are_collected(lab, node):
    sandbox = Sandbox(lab, "pod")
    node.add(sandbox)
    # The runtime forgot it: no DEL, and its namespace is gone.
    sandbox.namespace.delete()
    wait_until(lambda: not node.pod_interfaces(), 5, "the kernel took the pair")
    node.agent.kill()
    node.start()
    assert node.leases() == []
    # A namespace of that name made anew is another pod's.
    again = Sandbox(lab, "again")
    node.add(again)
    node.agent.kill()
    again.namespace.delete()
    Namespace(lab, "again")
    node.start()
    assert node.leases() == []


def test_garbage(lab, node):
    keep, stale = Sandbox(lab, "keep"), Sandbox(lab, "stale")
    result = node.add(keep)
    node.add(stale)
    other = Sandbox(lab, "other")
    node.add(other, name="other-network")
    # Without a list nothing is taken that is still there.
    assert node.call("GC") == (0, None)
    assert keep.addresses() and stale.addresses()
    valid = [{"containerID": keep.id, "ifname": "eth0"}]
    assert node.call("GC", **{"cni.dev/valid-attachments": valid}) == (0, None)
    wait_until(lambda: stale.interfaces() == [], 5, "the stale pod is gone")
    assert node.call("CHECK", keep, prevResult=result) == (0, None)
    assert other.addresses()


def test_only_root_may_speak_to_the_agent(lab):
    node = PodsNode(lab, start=False)
    # Where everyone may go, unlike the lab's own folder.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="espalier-", dir="/tmp"))
    lab.on_close(lambda: shutil.rmtree(folder))
    folder.chmod(0o755)
    node.run_directory = folder / "run"
    node.start()
    assert node.socket.stat().st_mode & 0o777 == 0o600
    program = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(5);"
               "s.connect(sys.argv[1]); s.send(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n');"
               "print(len(s.recv(100)))")

    def connect(*user: str):
        return node.namespace.run(
            [*user, "/usr/bin/python3", "-c", program, node.socket], check=False)

    nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
    assert "PermissionError" in connect(*nobody).stderr
    # Even where the modes would let others in.
    node.run_directory.chmod(0o755)
    node.socket.chmod(0o666)
    refused = connect(*nobody)
    assert refused.returncode != 0 or refused.stdout.strip() == "0"
    assert "PermissionError" not in refused.stderr
    wait_until(lambda: "connection refused" in node.agent.log(), 5, "the log line")
    assert int(connect().stdout) > 0
