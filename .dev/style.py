"""clang-format and clang-tidy over the project's own C++ files."""

import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess

from console import DevError, say
import build
import paths

FORMAT = "clang-format-19"
TIDY = "clang-tidy-19"


def project_files(*suffixes: str) -> list[str]:
    """Tracked and new files, relative to the root; ignored ones are not ours."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={paths.ROOT}", "ls-files", "-co",
         "--exclude-standard"],
        cwd=paths.ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        raise DevError(f"git ls-files failed: {listing.stderr.strip()}")
    return sorted(
        name for name in set(listing.stdout.splitlines())
        if name.endswith(suffixes) and (paths.ROOT / name).exists())


def format_files(check: bool) -> None:
    files = project_files(".h", ".cc", ".c")
    flags = ["--dry-run", "--Werror"] if check else ["-i"]
    code = subprocess.run([FORMAT, *flags, *files], cwd=paths.ROOT).returncode
    if code != 0:
        raise DevError("not formatted; run ./dev format")
    say(f"   {len(files)} files " + ("checked" if check else "formatted"))


def _key(entry: dict, salt: bytes) -> str:
    """Of all that clang-tidy sees: its settings and the preprocessed unit."""
    command = shlex.split(entry["command"])
    if os.path.basename(command[0]) == "ccache":
        command = command[1:]
    cleaned = []
    skip = False
    for word in command:
        if skip or word == "-c":
            skip = False
        elif word == "-o":
            skip = True
        else:
            cleaned.append(word)
    # -C keeps comments: NOLINT is one.
    text = subprocess.run([*cleaned, "-E", "-C", "-P"], cwd=entry["directory"],
                          capture_output=True)
    return hashlib.sha256(salt + text.stdout + text.stderr).hexdigest()


def _check(entry: dict, salt: bytes, stamps) -> tuple[str, bool, str]:
    name = os.path.relpath(entry["file"], paths.ROOT)
    stamp = stamps / _key(entry, salt)
    if stamp.exists():
        return name, True, "cached"
    result = subprocess.run(
        [TIDY, "-p", str(paths.BUILD / "dev"), "--quiet", entry["file"]],
        cwd=paths.ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        stamp.touch()
        return name, True, "checked"
    return name, False, result.stdout + result.stderr


def tidy(only: list[str]) -> None:
    """Needs the dev preset built (generated headers). Unchanged units, by the
    hash of all that they include, are not checked twice."""
    build.configure("dev")
    # What ships. Tests are compiled with the same warnings, but checking them
    # would double the time for what the tests themselves show.
    ours = {name for name in project_files(".cc") if name.startswith(("agent/", "cni/"))}
    entries = {}
    for entry in json.loads((paths.BUILD / "dev/compile_commands.json").read_text()):
        name = os.path.relpath(entry["file"], paths.ROOT)
        if name in ours and (not only or any(name.startswith(o) for o in only)):
            entries.setdefault(name, entry)
    if not entries:
        raise DevError("clang-tidy: no such file in the build: " + " ".join(only))
    version = subprocess.run([TIDY, "--version"], capture_output=True).stdout
    salt = version + (paths.ROOT / ".clang-tidy").read_bytes()
    stamps = paths.cache() / "tidy"
    stamps.mkdir(exist_ok=True)
    bad, fresh = [], 0
    with concurrent.futures.ThreadPoolExecutor(build.jobs()) as pool:
        waiting = [pool.submit(_check, e, salt, stamps) for e in entries.values()]
        try:
            for future in concurrent.futures.as_completed(waiting):
                name, good, text = future.result()
                fresh += text != "cached"
                if not good:
                    bad.append(name)
                    say(f"{name}:\n{text}")
        except BaseException:
            # Or an interrupted run would go on to the last file.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    say(f"   {len(entries)} files, {fresh} checked anew, {len(bad)} with findings")
    if bad:
        raise DevError("clang-tidy has findings in: " + " ".join(sorted(bad)))
