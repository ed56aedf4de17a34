"""Progress lines, timings, and running programs with a log."""

import os
import subprocess
import sys
import time


class DevError(Exception):
    """A failure that the user can act on; shown without a traceback."""


def say(text: str) -> None:
    print(text, flush=True)


def colour(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Step:
    """with Step("building"): prints the begin, then done or failed, with time."""

    def __init__(self, title: str):
        self.title = title
        self.seconds = 0.0

    def __enter__(self) -> "Step":
        say(colour(f"== {self.title}", "1"))
        self._begin = time.monotonic()
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.seconds = time.monotonic() - self._begin
        word = colour("failed", "31") if kind else "done"
        say(f"== {self.title}: {word} ({duration(self.seconds)})")


def run(command: list[str], *, cwd=None, env=None, quiet_log=None) -> int:
    """Runs a program; its output is shown, or goes to quiet_log."""
    command = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    if quiet_log is None:
        return subprocess.run(command, cwd=cwd, env=environment).returncode
    with open(quiet_log, "ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        return subprocess.run(
            command, cwd=cwd, env=environment, stdout=log, stderr=log
        ).returncode


def must_run(command: list[str], what: str, **options) -> None:
    code = run(command, **options)
    if code != 0:
        log = options.get("quiet_log")
        if log:
            tail = open(log, errors="replace").read().splitlines()[-25:]
            say("\n".join(tail))
        where = f"; whole log: {log}" if log else ""
        raise DevError(f"{what} failed (exit code {code}){where}")
