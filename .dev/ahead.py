"""What the last stages of ./dev test need is made while the first ones run, by
processors that would otherwise be idle: most tests wait more than they compute.

A stage finds done what was done, and does the rest itself: nothing depends on
how far this came."""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys

import paths

PR_SET_PDEATHSIG = 1
TESTS = paths.ROOT / "tests"


class Ahead:
    """The process that does these steps, in their order; its words go to a log."""

    def __init__(self, steps: list[str]):
        self._process = None
        if not steps:
            return
        log = open(paths.logs() / "ahead.log", "wb")
        self._process = subprocess.Popen(
            [sys.executable, pathlib.Path(__file__).resolve(), *steps],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def end(self) -> None:
        """With its compilers: the processors are wanted."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()
        self._process = None


def _go() -> None:
    sys.path.insert(0, str(TESTS))
    import golang
    golang.ensure()
    from lab.golang import go_program
    from lab.kube import cluster, node
    go_program(".", "kubernetes")
    go_program(cluster.HELM, "helm")
    for name in cluster.CONTAINERD_PROGRAMS:
        go_program(f"{cluster.CONTAINERD}/{name}", "containerd")
    for plugin in node.NODE_PLUGINS:
        go_program(f"{node.PLUGINS}/{plugin}")


def _step(name: str) -> None:
    import style
    import suite
    if name == "kube":
        _go()
    elif name == "tidy":
        style.tidy([])
    else:
        suite.build_sanitizer(name)


STEPS = ("kube", "asan-ubsan", "tsan", "tidy")


def main(steps: list[str]) -> int:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # With whoever started it, however that ends; and not without its children.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    for name in steps:
        try:
            _step(name)
        except Exception as failure:
            # The stage itself will say it to people.
            print(f"{name}: {failure}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
