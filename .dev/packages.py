"""Installs by apt what is missing, and nothing when nothing is missing."""

import contextlib
import os
import pathlib
import subprocess
import tempfile

from console import DevError, Step, must_run, say
import paths

LIST = paths.ROOT / ".dev" / "packages.txt"

# Only Debian 12's own suites: whatever else a machine's sources name, the
# build sees the versions it was written for.
PINS = "".join(
    f"Package: *\nPin: release n={suite}\nPin-Priority: 990\n\n"
    for suite in ("bookworm", "bookworm-updates", "bookworm-security")
)


def read_list(text: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current = None
    for number, line in enumerate(text.splitlines(), 1):
        name, _, reason = line.partition("#")
        name = name.strip()
        if not name:
            continue
        if name.startswith("[") and name.endswith("]"):
            current = sections.setdefault(name[1:-1], [])
        elif current is None or not reason.strip() or " " in name:
            raise DevError(
                f"{LIST}:{number}: expected 'package  # reason' in a [section]"
            )
        else:
            current.append(name)
    return sections


def missing(names: list[str]) -> list[str]:
    query = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n"],
        capture_output=True, text=True, check=True)
    installed = {
        line.split()[0] for line in query.stdout.splitlines()
        if line.endswith(" installed")
    }
    return [name for name in names if name not in installed]


@contextlib.contextmanager
def no_services_started():
    """Test peers (strongSwan, containerd) must not start on the machine."""
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def apt(words: list[str], what: str, options: list[str]) -> None:
    # DPkg::Lock::Timeout: another apt on this machine is waited for.
    must_run(
        ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=900",
         "-o", "Acquire::Retries=3", *options, *words],
        what,
        env={"DEBIAN_FRONTEND": "noninteractive"},
        quiet_log=paths.logs() / "apt.log")


def check_debian() -> None:
    release = pathlib.Path("/etc/os-release").read_text()
    if "VERSION_CODENAME=bookworm" not in release:
        raise DevError(
            "packages are missing and this is not Debian 12 (bookworm): "
            f"install the equivalents of {LIST} by hand")


def ensure(sections: list[str]) -> None:
    """Every package of the sections (with build) is there afterwards."""
    listed = read_list(LIST.read_text())
    wanted = [name for section in dict.fromkeys(["build", *sections])
              for name in listed[section]]
    absent = missing(wanted)
    if not absent:
        return
    if os.geteuid() != 0:
        raise DevError(
            "packages are missing; run as root: apt-get install "
            "--no-install-recommends " + " ".join(absent))
    check_debian()
    with Step(f"installing {len(absent)} Debian packages"):
        say("   " + " ".join(absent))
        with tempfile.NamedTemporaryFile("w", suffix=".pref") as pins:
            pins.write(PINS)
            pins.flush()
            os.chmod(pins.name, 0o644)
            options = ["-o", f"Dir::Etc::Preferences={pins.name}"]
            with no_services_started():
                apt(["update"], "apt-get update", options)
                apt(["install", "--no-install-recommends", *absent],
                    "apt-get install", options)
    still = missing(wanted)
    if still:
        raise DevError("apt did not install: " + " ".join(still))
