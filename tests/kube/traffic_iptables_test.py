"""The kinds of traffic once more where kube-proxy uses iptables."""

import pytest

from conftest import show
from kinds import KINDS, MODES, Scene, check_rows
from lab.kube import Cluster


@pytest.fixture(scope="module")
def scene(kube_lab, image) -> Scene:
    cluster = Cluster(kube_lab, nodes=2, proxy_mode="iptables", progress=show)
    cluster.up()
    return Scene(cluster, image)


def test_every_kind_arrives_and_none_is_plaintext(scene):
    rules = scene.first.run(["iptables-save", "-t", "nat"]).stdout
    assert "KUBE-NODEPORTS" in rules
    for report in scene.cluster.get("espaliernodereports")["items"]:
        reasons = {c["type"]: c["reason"] for c in report["status"]["conditions"]}
        assert reasons["KubeProxySupported"] == "Iptables"
    check_rows(scene, *MODES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_kind_of_its_own(scene, kind):
    kind(scene)
