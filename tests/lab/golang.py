"""Go programs that tests drive (cnitool, a whole Kubernetes, helm): pinned by
the go.mod and go.sum of tests/tools and the modules below it, built once into
the cache."""

import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess

from lab.errors import LabError
from lab.session import cache_folder

TOOLS = pathlib.Path(__file__).resolve().parents[1] / "tools"
PLACES = ("/usr/local/go/bin/go", "/usr/lib/go-1.23/bin/go")
# Of a package path, the last element that is a name: /v2 is a version.
NAME = re.compile(r"([a-z][a-z0-9-]*)(?:/v\d+)?$")


def _go() -> str:
    for program in (shutil.which("go"), *PLACES):
        if program and os.access(program, os.X_OK):
            return program
    raise LabError("Go 1.23 or newer is missing; ./dev test installs it")


def _link_flags(module: pathlib.Path) -> str:
    """Kubernetes and containerd learn their version from the linker; without
    it a kubelet reports v0.0.0-master, which charts' kubeVersion refuses."""
    text = (module / "go.mod").read_text()
    flags = ["-s", "-w"]
    if match := re.search(r"^(?:require |\t)k8s\.io/kubernetes (v1\.(\d+)\.\d+)$", text, re.M):
        variables = "k8s.io/component-base/version."
        flags += [f"-X {variables}gitVersion={match[1]}", f"-X {variables}gitMajor=1",
                  f"-X {variables}gitMinor={match[2]}",
                  f"-X {variables}gitTreeState=clean"]
    if match := re.search(r"^(?:require |\t)(github\.com/containerd/containerd/v2) (v\S+)$",
                          text, re.M):
        flags.append(f"-X {match[1]}/version.Version={match[2]}")
    return " ".join(flags)


def go_program(package: str, module: str = ".") -> pathlib.Path:
    """The built program of a main package: one that the module's tools.go
    imports, as "github.com/containernetworking/cni/cnitool", or one of the
    module itself, as "./cri" or ".". module: a folder of tests/tools with a
    go.mod of its own, since one set of dependencies cannot suit all."""
    go = _go()
    home = TOOLS / module
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -p=2"}
    version = subprocess.run([go, "version"], cwd=home, env=environment,
                             capture_output=True, text=True).stdout
    own = sorted((home / package).glob("*.go")) if package.startswith(".") else []
    flags = _link_flags(home)
    key = hashlib.sha256("\0".join(
        [package, version, flags, (home / "go.mod").read_text(),
         (home / "go.sum").read_text(),
         *(path.read_text() for path in own)]).encode()).hexdigest()[:16]
    folder = cache_folder().parent / "go"
    folder.mkdir(exist_ok=True)
    name = NAME.search(package)[1] if package != "." else home.name
    program = folder / f"{name}-{key}"
    if program.exists():
        return program
    # A build takes minutes and gigabytes: two at once gain nothing.
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return program
        temporary = program.with_suffix(f".{os.getpid()}")
        result = subprocess.run(
            ["nice", go, "build", "-trimpath", "-ldflags", flags, "-o", temporary,
             package], cwd=home, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            raise LabError(f"go build {package}: {result.stderr.strip()[-2000:]}")
        temporary.rename(program)
    return program
