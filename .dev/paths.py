"""Where things are. Nothing is written into the checkout but build/."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


def cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(base) / "espalier"
    path.mkdir(parents=True, exist_ok=True)
    return path


def logs() -> pathlib.Path:
    path = cache() / "logs"
    path.mkdir(parents=True, exist_ok=True)
    return path


def use_ccache() -> None:
    """One compiler cache for all checkouts, unless the user has set one."""
    os.environ.setdefault("CCACHE_DIR", str(cache() / "ccache"))
    os.environ.setdefault("CCACHE_MAXSIZE", "5G")
    os.environ.setdefault("CCACHE_BASEDIR", str(ROOT))
    os.environ.setdefault("CCACHE_NOHASHDIR", "1")
