"""The kinds of traffic once more where kube-proxy uses iptables."""

import pytest

from conftest import show
from kinds import Scene, wrong
from lab.kube import Cluster
from lab.kube.captured import Captured


@pytest.fixture(scope="module")
def scene(kube_lab, image) -> Scene:
    cluster = Cluster(kube_lab, nodes=2, proxy_mode="iptables", progress=show)
    cluster.up()
    return Scene(cluster, image)


def test_every_kind_arrives_and_none_is_plaintext(scene):
    rules = scene.first.run(["iptables-save", "-t", "nat"]).stdout
    assert "KUBE-NODEPORTS" in rules
    rows = scene.rows("plain") + scene.rows("shop")
    with Captured(scene.cluster, "kinds", *scene.pods["shop"]) as seen:
        found = wrong(rows)
    assert not found, "\n".join(f"{name}: {seen}" for name, seen in found.items())
    assert seen.packets.esp > len(rows)
