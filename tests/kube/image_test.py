"""What is in the image, and what is not."""

import json
import os
import pathlib
import re
import subprocess
import tarfile

import pytest

PROGRAMS = {"espalier-agent", "espalier-espd", "espalier-cni", "espalier-controller",
            "kubectl-espalier"}
CONTAINERFILE = pathlib.Path(__file__).resolve().parents[2] / "charts/espalier/Containerfile"
# Compressed, as a node pulls it; with the dev build's symbols.
MOST_MEGABYTES = 50


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


def test_it_is_small(image):
    megabytes = image.stat().st_size / 1e6
    print(f"{image.name}: {megabytes:.1f} MB")
    assert megabytes < MOST_MEGABYTES


def depends(root, package: str) -> set[str]:
    """All that are named, alternatives too."""
    control = (root / "var/lib/dpkg/status.d" / package).read_text()
    fields = re.findall(r"^(?:Pre-)?Depends: (.*(?:\n .*)*)", control, re.M)
    return set(re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", ", ".join(fields)))


def installed_for_users() -> set[str]:
    """By the Containerfile; nobody builds it here, for want of a registry."""
    words = re.search(r"install --no-install-recommends ([^&]*)&&",
                      CONTAINERFILE.read_text())[1]
    return set(words.replace("\\", " ").split())


def unmet(root, named: set[str]) -> set[str]:
    """Packages of the image that apt would not install with those."""
    noted = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    reached, waiting = set(), set(named)
    while waiting:
        package = waiting.pop()
        if package in noted and package not in reached:
            reached.add(package)
            waiting |= depends(root, package)
    # Debian's own image brings it.
    return noted - reached - {"base-files"}


def test_the_containerfile_installs_what_the_programs_need(root):
    named = installed_for_users()
    noted = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert named - noted == set(), "needless"
    assert unmet(root, named) == set(), "missing"
    # Each of them counts, and one that is left out is seen.
    assert all(package in unmet(root, named - {package})
               for package in ("libnftables1", "libyaml-cpp0.7"))
