"""docs/rfc7296-coverage.md names, for each rule, code and tests that exist.

A row of its tables is | section | rule | where | test |. `where` holds paths
in backticks, `test` the tests that prove the rule: GoogleTest names as
`Suite.Name`, Python tests as `path::function`. The self-tests show that each
check can fail.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/rfc7296-coverage.md"
GTEST = re.compile(r"\bTEST(?:_F|_P)?\(\s*(\w+)\s*,\s*(\w+)\s*\)")


def gtest_names(root):
    return {
        f"{suite}.{name}"
        for file in (root / "tests").rglob("*_test.cc")
        for suite, name in GTEST.findall(file.read_text())
    }


def python_test_exists(root, name):
    path, _, function = name.partition("::")
    file = root / path
    return file.is_file() and re.search(
        rf"^def {re.escape(function)}\(", file.read_text(), re.MULTILINE
    )


def rows(text):
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|") or set(line) <= set("|- :"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] != "section":
            yield number, cells


def faults(text, root, known):
    """What is wrong with the page, as lines for people."""
    found = []
    for number, cells in rows(text):
        if len(cells) != 4 or not all(cells):
            found.append(f"line {number}: not four filled cells")
            continue
        where = re.findall(r"`([^`]+)`", cells[2])
        tests = re.findall(r"`([^`]+)`", cells[3])
        if not where or not tests:
            found.append(f"line {number}: code or test is missing")
        found += [
            f"line {number}: no file {path}"
            for path in where
            if not (root / path).is_file()
        ]
        found += [
            f"line {number}: no test {test}"
            for test in tests
            if test not in known
            and not ("::" in test and python_test_exists(root, test))
        ]
    return found


def test_every_row_names_code_and_tests_that_exist():
    text = PAGE.read_text()
    assert len(list(rows(text))) > 40
    assert not faults(text, ROOT, gtest_names(ROOT))


@pytest.mark.parametrize(
    "row, fault",
    [
        ("| 2.1 | a rule | `CMakeLists.txt` | `NoSuite.NoTest` |", "no test"),
        ("| 2.1 | a rule | `no/file.cc` | `A.B` |", "no file"),
        ("| 2.1 | a rule | `CMakeLists.txt` | |", "not four"),
        ("| 2.1 | a rule | `CMakeLists.txt` | someday |", "is missing"),
        ("| 2.1 | a rule | `CMakeLists.txt` | `dev::test_no` |", "no test"),
    ],
)
def test_a_false_row_is_found(row, fault):
    assert any(fault in f for f in faults(row, ROOT, {"A.B"}))


def test_a_true_row_is_accepted():
    row = "| 2.1 | a rule | `CMakeLists.txt` | `A.B` |"
    assert faults(row, ROOT, {"A.B"}) == []
