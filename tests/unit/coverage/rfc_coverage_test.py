"""docs/rfc7296-coverage.md names, for each rule, code and tests that exist.

A row of its tables is | section | rule | where | test |. `where` holds paths
in backticks, `test` the tests that prove the rule: GoogleTest names as
`Suite.Name`, Python tests as `path::function`. Every section of RFC 7296 that
has rules is named by a row, or by the list of what is not implemented. The
self-tests show that each check can fail.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/rfc7296-coverage.md"
GTEST = re.compile(r"\bTEST(?:_F|_P)?\(\s*(\w+)\s*,\s*(\w+)\s*\)")


# RFC 7296's table of contents. 1.1 tells where IKE is used, 1.6 to 1.8 are about
# words and other RFCs, 2 and 3 only hold what is below them, and of 5 to 8 only
# 5.1 has rules of the protocol.
SECTIONS = """
1.2 1.3 1.3.1 1.3.2 1.3.3 1.4 1.4.1 1.5
2.1 2.2 2.3 2.4 2.5 2.6 2.6.1 2.7 2.8 2.8.1 2.8.2 2.8.3 2.9 2.9.1 2.9.2 2.10 2.11
2.12 2.13 2.14 2.15 2.16 2.17 2.18 2.19 2.20 2.21 2.21.1 2.21.2 2.21.3 2.21.4 2.22
2.23 2.23.1 2.24 2.25 2.25.1 2.25.2
3.1 3.2 3.3 3.3.1 3.3.2 3.3.3 3.3.4 3.3.5 3.3.6 3.4 3.5 3.6 3.7 3.8 3.9 3.10 3.10.1
3.11 3.12 3.13 3.13.1 3.14 3.15 3.15.1 3.15.2 3.15.3 3.15.4 3.16
4 5.1
""".split()
SECTION = re.compile(r"\d+(?:\.\d+)*")


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


def named_sections(text):
    named = set()
    for _, cells in rows(text):
        named |= {part.strip() for part in cells[0].split(",")}
    # "- 2.19, 3.15, configuration payload: why"
    for line in text.splitlines():
        if line.startswith("- "):
            for part in line[2:].split(","):
                if not SECTION.fullmatch(part.strip()):
                    break
                named.add(part.strip())
    return named


def unnamed_sections(text):
    named = named_sections(text)
    return [section for section in SECTIONS if section not in named]


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


def test_every_section_is_named():
    assert not unnamed_sections(PAGE.read_text())


def test_a_section_that_is_named_nowhere_is_found():
    text = PAGE.read_text()
    without = re.sub(r"^\| 2\.6\.1 .*\n", "", text, flags=re.MULTILINE)
    assert unnamed_sections(without) == ["2.6.1"]
    without = text.replace("- 2.22, 3.10.1, IPComp", "- IPComp")
    assert unnamed_sections(without) == ["2.22"]


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
