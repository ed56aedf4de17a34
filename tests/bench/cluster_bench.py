"""Figures of a real cluster, as many of each as docs/benchmarks.md states: from
helm install to the first ping, from an annotation to its enforcement and to the
other node, three hundred pods at once.

    cluster_bench.py      run by ./dev bench; needs root

The tests of tests/kube measure them, print them, and judge them when they are
asked for so many.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
COUNTS = {"ESPALIER_PUBLICATIONS": "50", "ESPALIER_ANNOTATIONS": "50",
          "ESPALIER_PODS_AT_ONCE": "300"}
RUNS = (
    ("install_test.py", "first_ping"),
    ("agent_test.py", "waits_for_the_controller or from_nothing or published"),
    ("outage_test.py", "strengthened or guard_drops or many_pods"),
)


def main() -> int:
    environment = {**os.environ, **COUNTS,
                   "ESPALIER_IMAGE": str(ROOT / "build/image/release/espalier.tar")}
    failed = []
    for file, tests in RUNS:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-s", "-rs", "-k", tests,
             ROOT / "tests/kube" / file], env=environment)
        if done.returncode != 0:
            failed.append(file)
    if failed:
        print("failed, or missed a figure: " + " ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
