"""./dev test: every check, in stages, with the time of each.

A label that ran nothing, a test that was skipped and a test with a label that
no stage knows are failures: nothing may pass by not running.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

from console import DevError, colour, duration, run, say
import ahead
import build
import golang
import image
import packages
import paths
import style

# In this order. A label belongs here from its first test on.
LABELS = (
    "unit",
    "property",
    "exchange",
    "fault",
    "sim",
    "fuzz",
    "bpf",
    "netns",
    "interop",
    "cni",
    "guest",
    "kube",
)
# Of a label, ctest runs as many at once as there are processors; the others are
# alone on the machine. A guest takes a processor.
PARALLEL = {"unit", "property", "exchange", "fault", "sim", "fuzz", "guest", "kube"}
MOSTLY_WAIT = {"kube"}  # one more
OUTSIDE = {"bench"}  # ./dev bench
ASAN_LABELS = ("unit", "property", "exchange", "fault", "sim", "fuzz")
# Of the unit tests, those of programs or folders with more than one thread.
TSAN_TESTS = r"^unit\.(runtime|service|esp|cni|pods|kube)"
GO_LABELS = {"cni", "kube"}
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    # Debian's gRPC and abseil are not instrumented: what happens inside them
    # is not ours to judge, and would be judged without its locks.
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1:"
                    "ignore_noninstrumented_modules=1",
}


# Of a failed test's output, the lines that say why: pytest's, GoogleTest's.
TELLING = re.compile(r"E  |FAILED |.*: Failure$|\[  FAILED  \]|.*\bTimeout\b|.*Sanitizer: ")
TELLING_LINES = 12
# As a terminal has them, and as ctest writes them into XML.
COLOURS = re.compile(r"(\x1b|\[NON-XML-CHAR-0x1B\])\[[0-9;]*m|\[NON-XML-CHAR-0x1B\]|\[[0-9;]+m")


@dataclasses.dataclass
class Totals:
    tests: int = 0
    failed: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # name to why


@dataclasses.dataclass
class Outcome:
    stage: str
    seconds: float
    error: str


@dataclasses.dataclass
class Test:
    labels: set[str]
    program: str


def list_tests(preset: str) -> dict[str, Test]:
    text = subprocess.run(
        ["ctest", "--test-dir", paths.BUILD / preset, "--show-only=json-v1"],
        capture_output=True, text=True, check=True).stdout
    tests = {}
    for test in json.loads(text)["tests"]:
        labels = {
            label for prop in test.get("properties", [])
            if prop["name"] == "LABELS" for label in prop["value"]}
        # A program that is not built yet has no command here.
        program = pathlib.Path(test.get("command", [test["name"].partition(".")[2]])[0])
        tests[test["name"]] = Test(labels, program.name)
    return tests


def check_labels(tests: dict[str, Test]) -> None:
    known = {*LABELS, *OUTSIDE}
    lost = [name for name, test in tests.items() if not test.labels & known]
    if lost:
        raise DevError(
            "no stage runs these tests, their label is unknown to "
            ".dev/suite.py: " + " ".join(sorted(lost)))
    # The sanitizers find what to build by a test's name.
    named = [name for name, test in tests.items()
             if test.labels & {*ASAN_LABELS}
             and not test.program.startswith("python")
             and name.partition(".")[2] != test.program]
    if named:
        raise DevError("a test of a program of another name cannot be built for "
                       "the sanitizers: " + " ".join(sorted(named)))


def telling(output: str) -> list[str]:
    """What is to be read first of a failed test's output: a log's reader may be
    shown its end alone."""
    lines = [line.rstrip() for line in COLOURS.sub("", output).splitlines() if line.strip()]
    chosen = [line for line in lines if TELLING.match(line)]
    return (chosen or lines)[-TELLING_LINES:]


def read_junit(path) -> tuple[int, dict[str, list[str]], list[str]]:
    """How many ran, which failed and why, which were skipped or did not run."""
    root = ElementTree.parse(path).getroot()
    failed, skipped, count = {}, [], 0
    for case in root.iter("testcase"):
        count += 1
        status = case.get("status")
        if status == "fail":
            failed[case.get("name")] = telling(case.findtext("system-out") or "")
        elif status != "run":
            skipped.append(case.get("name"))
    return count, failed, skipped


def at_once(label: str) -> int:
    if label not in PARALLEL:
        return 1
    return build.jobs() + (label in MOSTLY_WAIT)


def run_ctest(preset: str, title: str, choice: list[str], jobs: int,
              totals: Totals) -> None:
    """choice: ctest's options that select the tests."""
    junit = paths.BUILD / preset / f"junit-{title}.xml"
    junit.unlink(missing_ok=True)
    code = run(
        ["ctest", "--test-dir", paths.BUILD / preset, "--output-on-failure",
         "--no-tests=error", "-j", str(jobs), *choice,
         "--output-junit", junit],
        env={"CI": "true", **SANITIZER_ENV})
    count, failed, skipped = read_junit(junit) if junit.exists() else (0, {}, [])
    totals.tests += count
    for name, why in sorted({**dict.fromkeys(skipped, ["skipped"]), **failed}.items()):
        totals.failed[name if preset == "dev" else f"{preset}: {name}"] = why
    if count == 0:
        raise DevError(f"no test was selected by {' '.join(choice)}")
    if skipped:
        raise DevError("skipped, which counts as failed: " + " ".join(skipped))
    if failed or code != 0:
        raise DevError(f"{len(failed)} of {count} failed: {' '.join(failed)}")


def run_label(label: str, totals: Totals) -> None:
    run_ctest("dev", label, ["-L", f"^{label}$"], at_once(label), totals)


def kube(totals: Totals) -> None:
    """Its nodes get what users get: the image."""
    image.main("dev")
    run_label("kube", totals)


# Of each preset: ctest's options that select the tests, and the same as a
# function of a test.
SANITIZERS = {
    "asan-ubsan": (["-L", "^(" + "|".join(ASAN_LABELS) + ")$"],
                   lambda _, test: test.labels & set(ASAN_LABELS)),
    "tsan": (["-R", TSAN_TESTS], lambda name, _: re.match(TSAN_TESTS, name)),
}


def build_sanitizer(preset: str) -> list[str]:
    """Builds the C++ tests that are for it; returns the other tests' names."""
    _, wanted = SANITIZERS[preset]
    build.configure(preset)
    tests = list_tests(preset)
    python = sorted(name for name, test in tests.items()
                    if test.program.startswith("python"))
    targets = sorted({test.program for name, test in tests.items()
                      if wanted(name, test) and name not in python})
    if not targets:
        raise DevError(f"{preset}: no test to build")
    build.build(preset, targets)
    return python


def run_sanitizer(preset: str, totals: Totals) -> None:
    python = build_sanitizer(preset)
    choice, _ = SANITIZERS[preset]
    exclude = "^(" + "|".join(map(re.escape, python)) + ")$"
    run_ctest(preset, preset, [*choice, "-E", exclude], build.jobs(), totals)


def stages(totals: Totals) -> dict:
    """Name to function, in order."""
    table = {
        "format": lambda: style.format_files(check=True),
        "build": lambda: build.build("dev"),
        "labels": lambda: check_labels(list_tests("dev")),
    }
    for label in LABELS:
        table[label] = lambda label=label: run_label(label, totals)
    table["kube"] = lambda: kube(totals)
    table["tidy"] = lambda: style.tidy([])
    for preset in SANITIZERS:
        table[preset] = lambda preset=preset: run_sanitizer(preset, totals)
    return table


def choose(table: dict, wanted: list[str], quick: bool) -> list[str]:
    unknown = [name for name in wanted if name not in table]
    if unknown:
        raise DevError(f"no stage {' '.join(unknown)}; there are: {' '.join(table)}")
    chosen = [name for name in table if not wanted or name in wanted]
    # clang-tidy reads headers that the build generates.
    if wanted and {*wanted} & {*LABELS, "labels", "tidy"} and "build" not in chosen:
        chosen.insert(0, "build")
    if quick:
        chosen = [n for n in chosen if n not in ("tidy", "asan-ubsan", "tsan")]
    return chosen


def run_stage(name: str, action) -> Outcome:
    say(colour(f"\n==== {name}", "1"))
    begin = time.monotonic()
    error = ""
    try:
        action()
    except DevError as failure:
        error = str(failure)
        say(colour(f"{name}: {error}", "31"))
    seconds = time.monotonic() - begin
    say(f"==== {name}: {'failed' if error else 'ok'} ({duration(seconds)})")
    return Outcome(name, seconds, error)


def closing(outcomes: list[Outcome], totals: Totals, skipped_stages: list[str]) -> int:
    say("\nstage            time")
    for outcome in outcomes:
        say(f"{outcome.stage:<14} {duration(outcome.seconds):>12}  "
            + (f"FAILED: {outcome.error}" if outcome.error else "ok"))
    for name in skipped_stages:
        say(f"{name:<14} {'':>12}  NOT RUN: an earlier stage failed")
    for name, why in totals.failed.items():
        say(f"failed test: {name}")
        for line in why:
            say(f"    {line[:200]}")
    bad = len(totals.failed)
    if totals.tests:
        percent = (totals.tests - bad) * 100 // totals.tests
        say(f"\n{percent}% tests passed, {bad} tests failed out of {totals.tests}")
    broken = [o.stage for o in outcomes if o.error] + skipped_stages
    if broken:
        say(colour(f"./dev test: FAILED in {', '.join(broken)}", "31"))
        return 1
    say(f"./dev test: all {len(outcomes)} stages passed in "
        + duration(sum(o.seconds for o in outcomes)))
    return 0


def main(wanted: list[str], quick: bool) -> int:
    os.environ["CI"] = "true"
    sys.stdout.reconfigure(line_buffering=True)
    totals = Totals()
    table = stages(totals)
    chosen = choose(table, wanted, quick)
    packages.ensure(["format", "demo", "test", "guest"])
    if GO_LABELS & set(chosen):
        golang.ensure()
    outcomes: list[Outcome] = []
    early = None
    try:
        for position, name in enumerate(chosen):
            if early is not None and name in {"tidy", *SANITIZERS}:
                early.end()
            outcomes.append(run_stage(name, table[name]))
            if name != "build":
                continue
            if outcomes[-1].error:
                return closing(outcomes, totals, chosen[position + 1:])
            # A single stage is for somebody who waits for it.
            if len(chosen) > len(LABELS):
                early = ahead.Ahead([s for s in ahead.STEPS if s in chosen])
    finally:
        if early is not None:
            early.end()
    return closing(outcomes, totals, [])
