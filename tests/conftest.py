"""A skipped test is never shown as passed: in CI (CI=true) it fails, elsewhere
the whole ctest entry ends with 77, which ctest reports as skipped."""

import os

import pytest

from lab.session import Lab

SKIP_EXIT_CODE = 77
_skipped: list[str] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    # For the lab fixture: whether to keep the logs.
    item.__dict__.setdefault("lab_reports", []).append(report)
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)
        if os.environ.get("CI") == "true":
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {report.longrepr}"


def pytest_sessionfinish(session, exitstatus):
    if _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = SKIP_EXIT_CODE


@pytest.fixture
def lab(request):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab(request.node.originalname[:24]) as session:
        yield session
        session.failed = any(
            report.failed for report in getattr(request.node, "lab_reports", []))
