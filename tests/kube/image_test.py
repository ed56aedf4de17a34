"""What is in the image, and what is not."""

import json
import os
import subprocess
import tarfile

import pytest

PROGRAMS = {"espalier-agent", "espalier-espd", "espalier-cni", "espalier-controller",
            "kubectl-espalier"}


@pytest.fixture(scope="module")
def root(image, tmp_path_factory):
    """Its one layer, unpacked."""
    with tarfile.open(image) as archive:
        def read(digest: str):
            return archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
        index = json.load(archive.extractfile("index.json"))
        layers = json.load(read(index["manifests"][0]["digest"]))["layers"]
        assert len(layers) == 1
        folder = tmp_path_factory.mktemp("root")
        with tarfile.open(fileobj=read(layers[0]["digest"])) as layer:
            layer.extractall(folder)
    return folder


def test_the_programs_run_in_it_and_nothing_else_can(root):
    assert {path.name for path in (root / "usr/bin").iterdir()} == PROGRAMS
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    for program in PROGRAMS - {"espalier-cni"}:
        ran = subprocess.run(["/usr/sbin/chroot", root, f"/usr/bin/{program}", "--help"],
                             capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, (program, ran.stderr)
    version = subprocess.run(["/usr/sbin/chroot", root, "/usr/bin/espalier-cni"], timeout=30,
                             input='{"cniVersion":"1.0.0"}', capture_output=True, text=True,
                             env={"CNI_COMMAND": "VERSION"})
    assert "1.1.0" in version.stdout


def test_the_bill_of_materials_names_every_package(image, root):
    noted = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert "libc6" in noted and "libssl3" in noted
    bill = json.loads(image.with_suffix(".spdx.json").read_text())
    assert bill["spdxVersion"] == "SPDX-2.3"
    named = {package["name"] for package in bill["packages"]}
    assert noted | PROGRAMS <= named
    for name in noted - {"base-files"}:
        assert (root / "usr/share/doc" / name / "copyright").stat().st_size > 0, name


def test_the_cluster_has_its_place_in_it(root):
    """A runtime names network namespaces by /var/run; scanners ask os-release."""
    assert (root / "var/run").readlink().as_posix() == "../run"
    assert "bookworm" in (root / "usr/lib/os-release").read_text()
