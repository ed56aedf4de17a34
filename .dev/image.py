"""./dev image: the container image as an OCI archive, without a registry.

Its root is what the programs are linked with and nothing else: no shell, no
package manager. The libraries come out of Debian 12's archive, since the
programs are built against Debian 12's: newer ones have other names. dpkg's own
notes on each package are kept (/var/lib/dpkg/status.d), so that scanners find
what is in it; the same is written beside the archive as SPDX.
"""

import dataclasses
import datetime
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import build
from console import DevError, Step, must_run, say
import packages
import paths

sys.path.append(str(paths.ROOT / "tests"))
from lab import oci  # noqa: E402

PROGRAMS = ("espalier-agent", "espalier-espd", "espalier-cni", "espalier-controller",
            "kubectl-espalier")
NAME = "localhost/espalier"
# os-release tells a scanner whose versions these are.
FILES_OF = {"base-files": re.compile(r"usr/lib/os-release$")}
# Copyright notices stay; what a program without locales never opens goes.
LEFT_OUT = re.compile(
    r"usr/share/(?!doc/[^/]+/copyright$)|usr/lib/[^/]+/(gconv|engines-3|ossl-modules)/"
    r"|usr/(s?bin|include)/|etc/")
MERGED = re.compile(r"(bin|sbin|lib|lib32|lib64|libx32)/")
FOLDERS = ("etc", "proc", "run", "sys", "dev", "tmp", "usr", "usr/bin", "usr/lib",
           "usr/lib64", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/status.d")


@dataclasses.dataclass
class Package:
    name: str
    version: str
    deb: pathlib.Path
    control: str

    def field(self, name: str) -> str:
        match = re.search(rf"^{name}: (.*)$", self.control, re.M)
        return match[1] if match else ""


def version() -> str:
    """The project's, as CMake has it; it is the image's tag and the chart's
    appVersion."""
    text = (paths.ROOT / "CMakeLists.txt").read_text()
    match = re.search(r"project\(\s*espalier\s[^)]*?VERSION\s+([0-9.]+)", text, re.I)
    if not match:
        raise DevError("CMakeLists.txt names no version of the project")
    return match[1]


def commit_time() -> int:
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    result = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=paths.ROOT,
                            capture_output=True, text=True)
    return int(result.stdout) if result.returncode == 0 else 0


def libraries(program: pathlib.Path) -> set[str]:
    text = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    if "not found" in text:
        raise DevError(f"{program} misses a library:\n{text}")
    return set(re.findall(r"(/\S+) \(0x", text))


def owner(library: str) -> str:
    """The Debian package of a file; with /usr merged its name has two forms."""
    real = os.path.realpath(library)
    for path in (real, real.removeprefix("/usr"), library):
        result = subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True)
        if result.returncode == 0:
            return result.stdout.partition(":")[0]
    raise DevError(f"{library} is of no Debian package: the image takes only those")


def download(names: list[str]) -> list[Package]:
    """In the version that apt would install, from the archive's own file."""
    folder = paths.cache() / "debs"
    folder.mkdir(exist_ok=True)
    # In a folder that has one of the files already, apt leaves that one out.
    text = subprocess.run(
        ["apt-get", "download", "--print-uris", *names], capture_output=True, text=True,
        cwd="/")
    if text.returncode != 0:
        raise DevError(f"apt-get download: {text.stderr.strip()}")
    # 'URI' file size hash
    files = re.findall(r"^'\S+' (\S+) \d+", text.stdout, re.M)
    if len(files) != len(names):
        raise DevError(f"apt-get download names {len(files)} files for {len(names)} packages")
    absent = [name for name in files if not (folder / name).exists()]
    if absent:
        with Step(f"downloading {len(absent)} Debian packages"):
            must_run(["apt-get", "-q", "download", "-o", "APT::Sandbox::User=root",
                      *sorted({name.partition("_")[0] for name in absent})],
                     "apt-get download", cwd=folder, quiet_log=paths.logs() / "apt.log")
    found = []
    for name in files:
        control = subprocess.run(["dpkg-deb", "-f", folder / name], capture_output=True,
                                 text=True, check=True).stdout
        package = Package("", "", folder / name, control)
        package.name, package.version = package.field("Package"), package.field("Version")
        found.append(package)
    return sorted(found, key=lambda package: package.name)


class Layer:
    """A tar archive in which neither order nor time depends on the machine."""

    def __init__(self, when: int):
        self._when = when
        self._entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def put(self, name: str, data: bytes = b"", *, mode: int = 0o644, link: str = "",
            folder: bool = False) -> None:
        entry = tarfile.TarInfo(name)
        entry.mtime, entry.mode, entry.size = self._when, mode, len(data)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        elif folder:
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        self._entries[name] = (entry, data)

    def _put_parents(self, name: str) -> None:
        for parent in map(str, pathlib.PurePath(name).parents):
            if parent != "." and parent not in self._entries:
                self.put(parent, folder=True)

    def unpack(self, package: Package) -> None:
        raw = subprocess.run(["dpkg-deb", "--fsys-tarfile", package.deb],
                             capture_output=True, check=True).stdout
        only = FILES_OF.get(package.name)
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for entry in archive:
                name = entry.name.removeprefix("./")
                if MERGED.match(name):
                    name = f"usr/{name}"
                if entry.isdir() or (only and not only.search(name)):
                    continue
                if not only and LEFT_OUT.match(name):
                    continue
                if entry.issym():
                    self.put(name, link=entry.linkname)
                elif entry.isfile():
                    self.put(name, archive.extractfile(entry).read(), mode=entry.mode)
                self._put_parents(name)
        # Where that folder is a link into another package's, this machine has it.
        notice = f"usr/share/doc/{package.name}/copyright"
        if notice not in self._entries and not only:
            self.put(notice, pathlib.Path("/", notice).read_bytes())
            self._put_parents(notice)
        self.put(f"var/lib/dpkg/status.d/{package.name}",
                 f"{package.control.rstrip()}\nStatus: install ok installed\n".encode())

    def bytes(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name in sorted(self._entries):
                entry, data = self._entries[name]
                archive.addfile(entry, io.BytesIO(data))
        return out.getvalue()


def make_layer(programs: list[pathlib.Path], debs: list[Package], when: int) -> bytes:
    layer = Layer(when)
    for name in FOLDERS:
        layer.put(name, folder=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        layer.put(name, link=f"usr/{name}")
    layer.put("usr/sbin", link="bin")
    # Runtimes name a pod's network namespace by either path.
    layer.put("var/run", link="../run")
    layer.put("etc/os-release", link="../usr/lib/os-release")
    layer.put("etc/passwd", b"root:x:0:0:root:/:/usr/sbin/nologin\n")
    layer.put("etc/group", b"root:x:0:\n")
    # Names before DNS: the host's own file is not seen in here.
    layer.put("etc/nsswitch.conf", b"hosts: files dns\n")
    for package in debs:
        layer.unpack(package)
    for program in programs:
        layer.put(f"usr/bin/{program.name}", program.read_bytes(), mode=0o755)
    return layer.bytes()


def bill_of_materials(programs: list[pathlib.Path], debs: list[Package], name: str,
                      digest: str, when: int) -> str:
    """SPDX 2.3."""
    created = datetime.datetime.fromtimestamp(when, datetime.timezone.utc)
    entries = [{
        "SPDXID": "SPDXRef-image", "name": name, "versionInfo": version(),
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
        "licenseDeclared": "Apache-2.0", "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    }]
    for program in programs:
        entries.append({
            "SPDXID": f"SPDXRef-{program.name}", "name": program.name,
            "versionInfo": version(), "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False, "licenseDeclared": "Apache-2.0",
            "licenseConcluded": "NOASSERTION", "copyrightText": "NOASSERTION",
            "checksums": [{"algorithm": "SHA256", "checksumValue":
                           hashlib.sha256(program.read_bytes()).hexdigest()}],
        })
    for package in debs:
        safe = re.sub(r"[^A-Za-z0-9.-]", "-", package.name)
        source = package.field("Source").partition(" ")[0] or package.name
        entries.append({
            "SPDXID": f"SPDXRef-deb-{safe}", "name": package.name,
            "versionInfo": package.version, "supplier": "Organization: Debian",
            "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
            "licenseDeclared": "NOASSERTION", "licenseConcluded": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "sourceInfo": f"built from the Debian source package {source}",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": f"pkg:deb/debian/{package.name}@{package.version}"
                                    f"?arch={package.field('Architecture')}"
                                    "&distro=bookworm"}],
        })
    return json.dumps({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": name, "documentNamespace": f"https://espalier.dev/spdx/{digest}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
                         "creators": ["Tool: espalier-dev-image"]},
        "packages": entries,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
             "relatedSpdxElement": "SPDXRef-image"},
            *({"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS",
               "relatedSpdxElement": entry["SPDXID"]} for entry in entries[1:])],
    }, indent=1)


def main(preset: str, output: str | None = None) -> pathlib.Path:
    packages.ensure([])
    packages.check_debian()
    build.build(preset, list(PROGRAMS))
    programs = [paths.BUILD / preset / "bin" / name for name in PROGRAMS]
    when = commit_time()
    with Step("writing the image"):
        needed = set().union(*map(libraries, programs))
        debs = download(sorted({*map(owner, needed), *FILES_OF}))
        layer = make_layer(programs, debs, when)
        path = (pathlib.Path(output) if output
                else paths.BUILD / "image" / preset / "espalier.tar")
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"{NAME}:{version()}"
        digest = oci.write(path, oci.Image(
            name, ["/usr/bin/espalier-agent"], ["PATH=/usr/bin"],
            {"org.opencontainers.image.title": "espalier",
             "org.opencontainers.image.version": version(),
             "org.opencontainers.image.licenses": "Apache-2.0"}), layer)
        sbom = path.with_suffix(".spdx.json")
        sbom.write_text(bill_of_materials(programs, debs, name, digest, when))
    say(f"   {name} {digest}\n   {path}: {path.stat().st_size / 1e6:.1f} MB, "
        f"{len(layer) / 1e6:.1f} MB unpacked\n   {sbom}: {len(debs)} Debian packages")
    return path
