"""Go, only where a test's tool is a Go module: 1.23 or newer, which fetches
by itself the toolchain that a go.mod names."""

import os
import pathlib
import re
import shutil
import subprocess

from console import DevError, Step, must_run
import packages
import paths

MINIMUM = (1, 23)
PLACES = ("/usr/local/go/bin", "/usr/lib/go-1.23/bin")


def _version(program: str) -> tuple[int, int]:
    # The local toolchain's: a go.mod must not decide the answer.
    text = subprocess.run([program, "env", "GOVERSION"], capture_output=True,
                          text=True, cwd="/", env={**os.environ,
                                                   "GOTOOLCHAIN": "local"}).stdout
    match = re.match(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find() -> str | None:
    for program in [shutil.which("go"), *(f"{p}/go" for p in PLACES)]:
        if program and os.access(program, os.X_OK) and _version(program) >= MINIMUM:
            return program
    return None


def debian_site() -> str:
    """The archive this machine already uses."""
    text = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)",
         "Created-By: Packages"], capture_output=True, text=True).stdout
    for line in text.splitlines():
        site, _, codename = line.partition(" ")
        if codename == "bookworm":
            return site
    raise DevError("apt's sources do not name Debian 12 (bookworm)")


def _install() -> None:
    """From bookworm-backports, through lists of our own: the machine's apt
    sources stay as they are."""
    packages.check_debian()
    if os.geteuid() != 0:
        raise DevError("Go 1.23 or newer is missing, and only root can install it")
    home = paths.cache() / "apt-backports"
    (home / "lists/partial").mkdir(parents=True, exist_ok=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    site = debian_site()
    source = home / "backports.list"
    source.write_text("".join(
        f"deb [signed-by={key}] {site} {suite} main\n"
        for suite in ("bookworm", "bookworm-backports")))
    options = ["-o", f"Dir::Etc::SourceList={source}",
               "-o", "Dir::Etc::SourceParts=/dev/null",
               "-o", f"Dir::State::Lists={home}/lists",
               "-o", "APT::Sandbox::User=root"]
    packages.apt(["update"], "apt-get update (backports)", options)
    packages.apt(["install", "--no-install-recommends", "golang-1.23-go"],
                 "installing Go", options)


def ensure() -> str:
    program = find()
    if not program:
        with Step("installing Go from bookworm-backports"):
            _install()
        program = find()
    if not program:
        raise DevError("Go 1.23 was installed but does not run")
    os.environ["PATH"] = f"{pathlib.Path(program).parent}:{os.environ['PATH']}"
    os.environ.setdefault("GOFLAGS", "-mod=readonly")
    return program
