"""A program in the background, with its log."""

import ctypes
import os
import pathlib
import signal
import subprocess

from lab.errors import LabError
from lab.session import Lab, start_time, wait_until

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """Runs until stop() or until the lab ends. Start it from the main thread:
    the kernel ends it with the thread that started it."""

    def __init__(self, lab: Lab, name: str, command: list[str], *, env=None,
                 cwd=None, log: pathlib.Path | None = None):
        self.name = name
        self.log_path = log or lab.folder / f"{name}.log"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as out:
            self._popen = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, cwd=cwd,
                env={**os.environ, **(env or {})}, preexec_fn=_die_with_parent)
        lab.record_process(self.pid)
        lab.on_close(self.stop)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def running(self) -> bool:
        return self._popen.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def check_running(self) -> None:
        if not self.running():
            raise LabError(
                f"{self.name} ended with {self._popen.returncode}; "
                f"log {self.log_path}:\n{self.tail()}")

    def wait_for(self, condition, seconds: float, what: str):
        """wait_until, but fails at once when the program has ended."""
        def alive_and_true():
            value = condition()
            if not value:
                self.check_running()
            return value
        try:
            return wait_until(alive_and_true, seconds, f"{self.name}: {what}")
        except LabError as error:
            if "; log " in str(error):
                raise
            raise LabError(f"{error}; log {self.log_path}:\n{self.tail()}") from None

    def wait_for_log(self, text: str, seconds: float) -> None:
        self.wait_for(lambda: text in self.log(), seconds, f"log line with {text!r}")

    def wait(self, seconds: float) -> int:
        """The exit code (negative: the signal) of a program that ends by itself."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} still runs after {seconds:g} s") from None

    def signal(self, number: int) -> None:
        if self.running():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As a crash: SIGKILL, nothing said."""
        self.signal(signal.SIGKILL)
        self._popen.wait()

    def stop(self, seconds: float = 5.0) -> int:
        """SIGTERM, then SIGKILL; the exit code."""
        self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._popen.returncode

    def start_time(self) -> str | None:
        return start_time(self.pid)
