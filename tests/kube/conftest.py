"""One cluster for all tests of a file: it is up in ten seconds, but its pods are
not. CI builds the image (./dev image dev) before; ESPALIER_IMAGE names it."""

import os
import pathlib

import pytest

from lab import Lab
from lab.kube import Cluster

pytest.register_assert_rewrite("kinds")

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/espalier"


def show(step: str, seconds: float) -> None:
    print(f"{seconds:6.1f} s  {step}", flush=True)


@pytest.fixture(scope="module")
def image() -> pathlib.Path:
    path = pathlib.Path(os.environ.get("ESPALIER_IMAGE",
                                       ROOT / "build/image/dev/espalier.tar"))
    if not path.exists():
        pytest.skip(f"{path} is missing: ./dev image dev")
    return path


@pytest.fixture(scope="module")
def kube_lab(request):
    if os.geteuid() != 0:
        pytest.skip("the cluster's nodes are network namespaces: needs root")
    failed = request.session.testsfailed
    with Lab("kube") as lab:
        yield lab
        lab.failed = request.session.testsfailed > failed


@pytest.fixture(scope="module")
def cluster(kube_lab) -> Cluster:
    """Two nodes without a pod network."""
    cluster = Cluster(kube_lab, nodes=2, progress=show)
    cluster.up()
    return cluster
