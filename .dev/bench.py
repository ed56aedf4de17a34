"""./dev bench: the figures of tests/bench, from the release build.

A benchmark is a program NAME_bench (built from C++) or a script
tests/bench/NAME_bench.py; each prints its own table and fails when a figure
that must be reached is not. Those of a cluster take the image of that build.
"""

import datetime
import os
import pathlib
import platform
import subprocess
import sys

from console import DevError, Step, say
import build
import golang
import image
import packages
import paths

SCRIPTS = paths.ROOT / "tests/bench"
RECORDS = paths.ROOT / "docs/benchmarks"
OF_A_CLUSTER = {"cluster", "idle_agent"}


def find() -> dict[str, list[str]]:
    """Name to command; programs only after the build."""
    programs = sorted((paths.BUILD / "release/bin").glob("*_bench"))
    found = {p.name.removesuffix("_bench"): [str(p)] for p in programs}
    for script in sorted(SCRIPTS.glob("*_bench.py")):
        found[script.stem.removesuffix("_bench")] = ["/usr/bin/python3", str(script)]
    return found


def machine() -> str:
    model = next((line.partition(":")[2].strip()
                  for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) >> 20
    return (f"{datetime.date.today()}, {model}, {os.cpu_count()} cores, {memory} GB, "
            f"Linux {platform.release()}")


def run_one(name: str, command: list[str], record: bool) -> bool:
    environment = {**os.environ, "ESPALIER_BIN_DIR": str(paths.BUILD / "release/bin"),
                   "PYTHONPATH": str(paths.ROOT / "tests")}
    lines = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                               env=environment, cwd=paths.ROOT)
    for line in process.stdout:
        lines.append(line)
        sys.stdout.write(line)
        sys.stdout.flush()
    good = process.wait() == 0
    if record and good:
        RECORDS.mkdir(parents=True, exist_ok=True)
        (RECORDS / f"{name}.txt").write_text(f"{machine()}\n\n" + "".join(lines))
    return good


def main(wanted: list[str], record: bool) -> int:
    packages.ensure(["demo", "test", "bench"])
    golang.ensure()
    build.build("release")
    found = find()
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise DevError(f"no benchmark {' '.join(unknown)}; there are: {' '.join(found)}")
    if OF_A_CLUSTER & set(wanted or found):
        image.main("release")
    say(machine())
    missed = []
    for name in wanted or found:
        with Step(f"bench {name}"):
            if not run_one(name, found[name], record):
                missed.append(name)
    if missed:
        raise DevError("failed, or missed a figure: " + " ".join(missed))
    return 0
