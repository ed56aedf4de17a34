"""Every kind of traffic of a cluster, in both families, with pods of the default
mode and `required` ones; kube-proxy uses nftables."""

import pytest

from kinds import LARGE, Scene, namespace, wrong
from lab import Capture
from lab.kube.captured import Captured
from lab.kube.pods import pod_object
from lab.kube.reach import PORT, Question, ask
from lab.kube.settings import POD_CIDRS

MODES = ("plain", "shop")


@pytest.fixture(scope="module")
def scene(cluster, image) -> Scene:
    return Scene(cluster, image)


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_arrives_and_none_is_plaintext(scene, mode):
    rows = scene.rows(mode)
    with Captured(scene.cluster, f"kinds-{mode}", *scene.pods[mode]) as seen:
        found = wrong(rows)
        scene.curl_api_server(mode)
    assert not found, "\n".join(f"{name}: {seen}" for name, seen in found.items())
    assert seen.packets.esp > len(rows)
    # Errors about pods' packets quote them.
    assert not errors_between_nodes(scene, f"kinds-{mode}")


def errors_between_nodes(scene: Scene, name: str) -> str:
    """ICMP errors from node to node in plaintext: unreachable, too big."""
    nodes = " or ".join(address for node in scene.cluster.nodes for address in node.addresses)
    return scene.cluster.wire.namespace.run([
        "tcpdump", "-nr", scene.cluster.lab.folder / f"{name}.pcap",
        f"src host ({nodes}) and dst host ({nodes}) and "
        "(icmp[icmptype] == icmp-unreach or (icmp6 and ip6[40] < 128))"]).stdout


def test_modes_mixed_are_esp(scene):
    a, b = scene.pods["plain"][0], scene.pods["shop"][1]
    with Captured(scene.cluster, "mixed", a, b) as seen:
        for one, other in ((a, b), (b, a)):
            assert ask(one.namespace.path, [
                Question(kind, address, size=size) for address in (other.ipv4, other.ipv6)
                for kind in ("udp", "tcp") for size in (64, LARGE)]
            ) == [one.ipv4] * 4 + [one.ipv6] * 4
    assert seen.packets.esp >= 16


def test_hostnetwork_pod(scene):
    host = pod_object("plain", "host", scene.second, host_network=True,
                      command=["httpd", "-f", "-p", "8090", "-h", "/etc"])
    web = pod_object("shop", "web", scene.first,
                     command=["httpd", "-f", "-p", "8090", "-h", "/etc"])
    scene.cluster.apply(host)
    web, = scene.add_pods(web)
    scene.cluster.kubectl("wait", "-n", "plain", "--for=condition=Ready", "pod/host",
                          "--timeout=60s", timeout=70)
    with Captured(scene.cluster, "host", web, scene.pods["shop"][1]) as seen:
        for address in scene.second.addresses:
            assert web.exec("curl", "-sS", "--max-time", "5", "--globoff",
                            url(address)).stdout.strip() == "node-2"
        for address in (web.ipv4, web.ipv6):
            assert scene.cluster.kubectl(
                "exec", "-n", "plain", "host", "--", "curl", "-sS", "--max-time", "5",
                "--globoff", url(address)).stdout.strip() == "web"
    assert seen.packets.esp >= 16


def url(address: str) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:8090/hostname"


def test_outside_directly_to_a_pod(scene):
    """The one plaintext of pods on the wire, and only of pods that allow it."""
    outside, lab = scene.cluster.outside, scene.cluster.lab
    opened, closed = scene.add_pods(
        namespace("open", encryption="required", outside_in="allow"),
        namespace("closed", encryption="required", outside="deny"),
        pod_object("open", "b", scene.second), pod_object("closed", "b", scene.second))
    for node in scene.cluster.nodes:
        for cidr, address in zip(scene.cluster.pod_cidrs(node), node.addresses):
            outside.namespace.run(["ip", "route", "replace", cidr, "via", address])
    required = scene.pods["shop"][1]
    before = scene.answerers["shop-b"].asked
    assert ask(outside.namespace.path, questions(required)) == [None] * 4
    assert scene.answerers["shop-b"].asked == before
    capture = Capture(scene.cluster.wire, lab.folder / "outside.pcap", list(POD_CIDRS))
    expected = [outside.uplink.ipv4] * 2 + [outside.uplink.ipv6] * 2
    assert ask(outside.namespace.path, questions(opened)) == expected
    assert ask(outside.namespace.path, questions(scene.pods["plain"][1])) == expected
    assert capture.stop().plaintext >= 16
    # The other way, and it is seen as its node; unless outside is `deny`.
    there = [Question(kind, address) for address in outside.addresses
             for kind in ("udp", "tcp")]
    assert ask(required.namespace.path, there) == [
        address for address in scene.second.addresses for _ in range(2)]
    before = scene.answerers["outside"].asked
    assert ask(closed.namespace.path, there) == [None] * 4
    assert scene.answerers["outside"].asked == before


def questions(pod) -> list[Question]:
    return [Question(kind, address, PORT) for address in (pod.ipv4, pod.ipv6)
            for kind in ("udp", "tcp")]
