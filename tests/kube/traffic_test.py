"""Every kind of traffic of a cluster, in both families, with pods of the default
mode and `required` ones; kube-proxy uses nftables."""

import pytest

from kinds import KINDS, MODES, Scene, check_rows


@pytest.fixture(scope="module")
def scene(cluster, image) -> Scene:
    return Scene(cluster, image)


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_arrives_and_none_is_plaintext(scene, mode):
    check_rows(scene, mode)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_kind_of_its_own(scene, kind):
    kind(scene)
