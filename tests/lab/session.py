"""Lab: owns everything that a run makes, and undoes it in reverse order."""

import atexit
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from lab.errors import LabError

KEPT_FAILURES = 5
BPFFS = "/sys/fs/bpf"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
GUEST_SLOWNESS = 4
LINES_OF_GUEST_LOGS = 40
# What is allowed in the name of a unix socket's path, with its final 0.
MAX_SOCKET_PATH = 107


def cache_folder() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(base) / "espalier" / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def binary(name: str) -> str:
    """A program of the build that the test belongs to."""
    folder = os.environ.get("ESPALIER_BIN_DIR")
    if not folder:
        raise LabError("ESPALIER_BIN_DIR is not set; run through ctest or ./dev shell")
    path = pathlib.Path(folder) / name
    if not path.exists():
        raise LabError(f"{path} is missing; build it with ./dev build")
    return str(path)


def wait_until(condition: Callable[[], object], seconds: float, what: str):
    """Returns the first true value of condition(); an error names `what`. In the
    guest, whose processor is emulated, the time is longer."""
    seconds *= GUEST_SLOWNESS if "ESPALIER_GUEST" in os.environ else 1
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def start_time(pid: int) -> str | None:
    """Tells a process from a later one with the same pid."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def kill_process(pid: int, started: str | None, grace: float = 3.0) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if started is None or start_time(pid) != started:
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + grace
        while start_time(pid) == started and time.monotonic() < deadline:
            time.sleep(0.02)


def remove_cgroups(name: str, seconds: float = 5.0) -> None:
    """In every hierarchy, deepest first. The kernel lets go of a cgroup only
    some time after its last process ended."""
    deadline = time.monotonic() + seconds
    while True:
        left = None
        for root in [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]:
            for folder, _, _ in os.walk(root, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError as error:
                    left = error
        if left is None:
            return
        if time.monotonic() >= deadline:
            print(f"lab: cgroup {name}: {left}", flush=True)
            return
        time.sleep(0.05)


def mount_bpffs() -> None:
    """A fresh machine may have the folder and nothing mounted there."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", BPFFS], capture_output=True, text=True)
    if kind.stdout.strip() != "bpf_fs":
        subprocess.run(["mount", "-t", "bpf", "bpf", BPFFS], check=True)


def delete_namespace(name: str) -> None:
    subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


class Lab:
    """with Lab("demo") as lab: ... Needs root. Uses the main thread's signals:
    SIGTERM and SIGHUP unwind as SIGINT does, so nothing is left behind."""

    def __init__(self, name: str):
        if os.geteuid() != 0:
            raise LabError("network namespaces need root")
        self.id = secrets.token_hex(3)
        self.name = name
        self.failed = False
        mount_bpffs()
        sweep_stale()
        self.folder = cache_folder() / f"{self.id}-{name}"
        if len(str(self.folder)) > MAX_SOCKET_PATH - 40:
            raise LabError(f"too long for unix sockets: {self.folder}; set XDG_CACHE_HOME")
        self.folder.mkdir()
        self._record_path = cache_folder() / f"{self.id}.json"
        self._record = {
            "owner": [os.getpid(), start_time(os.getpid())],
            "folder": str(self.folder),
            "namespaces": [],
            "processes": [],
            "pins": [],
            "cgroups": [],
        }
        self._undo: list[Callable[[], None]] = []
        self._save()

    def __enter__(self) -> "Lab":
        self._old_handlers = {
            number: signal.signal(number, self._interrupted)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        atexit.register(self.close)
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self.failed = True
        self.close()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    @staticmethod
    def _interrupted(number, frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    def namespace_name(self, suffix: str) -> str:
        return f"el-{self.id}-{suffix}"

    def on_close(self, action: Callable[[], None]) -> None:
        self._undo.append(action)

    # Called before the thing is made: a run that is killed in between must
    # leave a record of it.
    def record_namespace(self, name: str) -> None:
        self._record["namespaces"].append(name)
        self._save()

    def record_process(self, pid: int) -> None:
        self._record["processes"].append([pid, start_time(pid)])
        self._save()

    def record_pins(self, path: pathlib.Path) -> None:
        """What a node's guard leaves in bpffs: it outlives its agent."""
        self._record["pins"].append(str(path))
        self._save()

    def record_cgroup(self, name: str) -> None:
        """Its name below the root of each hierarchy."""
        self._record["cgroups"].append(name)
        self._save()

    def _save(self) -> None:
        temporary = self._record_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._record))
        temporary.rename(self._record_path)

    def close(self) -> None:
        """Undoes everything; a second Ctrl-C does not stop it half-way."""
        if not self._record_path.exists():
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        while self._undo:
            action = self._undo.pop()
            try:
                action()
            except (OSError, LabError, subprocess.SubprocessError) as error:
                print(f"lab: clean-up: {error}", flush=True)
        undo_record(self._record, keep_folder=self.failed)
        self._record_path.unlink(missing_ok=True)
        atexit.unregister(self.close)
        signal.signal(signal.SIGINT, before)
        if self.failed and "ESPALIER_GUEST" in os.environ:
            # The guest's files go with it.
            for path in sorted(self.folder.rglob("*.log")):
                lines = path.read_text(errors="replace").splitlines()[-LINES_OF_GUEST_LOGS:]
                print(f"==> {path.relative_to(self.folder)}", *lines, sep="\n", flush=True)
        elif self.failed:
            print(f"lab: logs are kept in {self.folder}", flush=True)
            forget_old_failures()


def undo_record(record: dict, keep_folder: bool) -> None:
    for pid, started in reversed(record["processes"]):
        kill_process(pid, started)
    for name in reversed(record["namespaces"]):
        delete_namespace(name)
    for path in record.get("pins", []):
        shutil.rmtree(path, ignore_errors=True)
    for name in record.get("cgroups", []):
        remove_cgroups(name)
    if not keep_folder:
        shutil.rmtree(record["folder"], ignore_errors=True)


def sweep_stale() -> None:
    """Undoes what runs whose owner is gone left behind."""
    for path in cache_folder().glob("*.json"):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        pid, started = record["owner"]
        if start_time(pid) != started:
            undo_record(record, keep_folder=False)
            path.unlink(missing_ok=True)


def forget_old_failures() -> None:
    live = {path.stem for path in cache_folder().glob("*.json")}
    folders = sorted(
        (p for p in cache_folder().iterdir()
         if p.is_dir() and p.name.split("-")[0] not in live),
        key=lambda p: p.stat().st_mtime)
    for folder in folders[:-KEPT_FAILURES]:
        shutil.rmtree(folder, ignore_errors=True)
