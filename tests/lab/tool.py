"""A program of the lab that is asked by lines and answers in JSON."""

import json
import select
import subprocess

from lab.errors import LabError
from lab.session import Lab, binary

ANSWER_SECONDS = 30


class Tool:
    """Runs until close() or until the lab ends."""

    def __init__(self, lab: Lab, name: str, *words: object):
        self.name = name
        self._errors = lab.folder / f"{name}.log"
        with open(self._errors, "ab") as errors:
            # In no namespace of its own: it enters those it is told of.
            self._popen = subprocess.Popen(
                [binary(name), *(str(word) for word in words)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        lab.record_process(self._popen.pid)
        lab.on_close(self.close)
        self._pending = b""

    def ask(self, *words: object) -> dict:
        try:
            self._popen.stdin.write((" ".join(str(word) for word in words) + "\n").encode())
            self._popen.stdin.flush()
        except BrokenPipeError:
            self._fail(f"is gone, asked for {words[0]}")
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._popen.stdout], [], [], ANSWER_SECONDS)
            data = self._popen.stdout.read1(1 << 20) if ready else b""
            if not data:
                self._fail(f"gave no answer to {words[0]}")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def _fail(self, what: str):
        raise LabError(f"{self.name} {what}; log {self._errors}: "
                       f"{self._errors.read_text().strip()}")

    def close(self) -> None:
        if self._popen.poll() is None:
            self._popen.stdin.close()  # it ends with its input
            try:
                self._popen.wait(5)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        self._popen.stdout.close()
