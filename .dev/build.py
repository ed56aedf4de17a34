"""Configure and build one preset."""

import os

from console import DevError, Step, must_run
import paths

PRESETS = ("dev", "release", "asan-ubsan", "tsan", "fuzz")


def jobs() -> int:
    return int(os.environ.get("ESPALIER_JOBS", 0)) or os.cpu_count() or 1


def configure(preset: str) -> None:
    if preset not in PRESETS:
        raise DevError(f"no preset {preset}; there are: {', '.join(PRESETS)}")
    paths.use_ccache()
    must_run(["cmake", "--preset", preset, "-Wno-dev"], f"configuring {preset}",
             cwd=paths.ROOT, quiet_log=paths.logs() / f"configure-{preset}.log")


def build(preset: str, targets: list[str] | None = None) -> None:
    with Step(f"build {preset}" + (f" ({' '.join(targets)})" if targets else "")):
        configure(preset)
        must_run(["ninja", "-C", paths.BUILD / preset, "-j", str(jobs()),
                  *(targets or [])], f"building {preset}")
