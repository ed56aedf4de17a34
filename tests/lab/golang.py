"""Go programs that tests drive (cnitool, wireguard-go): pinned by
tests/tools/go.mod and go.sum, built once into the cache."""

import hashlib
import os
import pathlib
import shutil
import subprocess

from lab.errors import LabError
from lab.session import cache_folder

MODULE = pathlib.Path(__file__).resolve().parents[1] / "tools"
PLACES = ("/usr/local/go/bin/go", "/usr/lib/go-1.23/bin/go")


def _go() -> str:
    for program in (shutil.which("go"), *PLACES):
        if program and os.access(program, os.X_OK):
            return program
    raise LabError("Go 1.23 or newer is missing; ./dev test installs it")


def go_program(package: str) -> pathlib.Path:
    """The built program of a main package that tests/tools/tools.go imports,
    as "github.com/containernetworking/cni/cnitool", or of one below
    tests/tools, as "./cri"."""
    go = _go()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    version = subprocess.run([go, "version"], cwd=MODULE, env=environment,
                             capture_output=True, text=True).stdout
    own = sorted((MODULE / package).glob("*.go")) if package.startswith("./") else []
    key = hashlib.sha256("\0".join(
        [package, version, (MODULE / "go.mod").read_text(),
         (MODULE / "go.sum").read_text(),
         *(path.read_text() for path in own)]).encode()).hexdigest()[:16]
    folder = cache_folder().parent / "go"
    folder.mkdir(exist_ok=True)
    program = folder / f"{package.rpartition('/')[2]}-{key}"
    if program.exists():
        return program
    temporary = program.with_suffix(f".{os.getpid()}")
    result = subprocess.run([go, "build", "-trimpath", "-o", temporary, package],
                            cwd=MODULE, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise LabError(f"go build {package}: {result.stderr.strip()[-2000:]}")
    temporary.rename(program)
    return program
