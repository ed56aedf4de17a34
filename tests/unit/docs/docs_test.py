"""What README, docs/ and the help of ./dev point to is there: files, headings,
and what their `./dev` commands name. The self-tests show that each check can
fail."""

import argparse
import pathlib
import re
import shlex
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / ".dev"))
import main as dev  # noqa: E402
import suite  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
# In a block, or between backticks in a line.
COMMAND = re.compile(r"^ {4}(?:\w+=\S+ )*(\./dev .*)$|`(\./dev [^`]*)`", re.M)


def prose(text: str) -> str:
    """Without what stands there to be typed or read by programs."""
    text = FENCE.sub("", text)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
            for title in titles}


def broken_links(page: pathlib.Path, text: str) -> list[str]:
    found = []
    for target in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            found.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(text if file == page else file.read_text()):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert not broken_links(page, page.read_text())


def test_a_broken_link_is_noticed():
    page = ROOT / "docs/README.md"
    assert broken_links(page, "[a](nowhere.md)") == ["nowhere.md: no such file"]
    assert broken_links(page, "[a](design.md#nowhere)") == ["design.md#nowhere: no such heading"]
    assert not broken_links(page, "# The image\n[a](#the-image) [b](https://example.org/x)")
    assert not broken_links(page, "    [what is typed](nowhere.md)")


def targets() -> set[str]:
    """Names of programs and libraries that CMake builds."""
    text = "\n".join(file.read_text() for folder in ("agent", "bpf", "cni", "tests")
                     for file in (ROOT / folder).rglob("CMakeLists.txt"))
    return set(re.findall(r"\b(?:add_executable|espalier_test|espalier_fuzz)\(\s*([\w-]+)", text))


def unknown_names(command: str) -> list[str]:
    """Of a command line that begins with ./dev."""
    try:
        args = dev.parser().parse_args(shlex.split(command, comments=True)[1:])
    except SystemExit as end:
        return [f"{command}: ./dev refuses it"] if end.code else []  # 0: --help
    words = {name: value or [] for name, value in vars(args).items()}

    def absent(paths) -> list[str]:
        return [path for path in paths if not (ROOT / path).exists()]
    have: dict[str, tuple[list, set]] = {
        "cmd_build": (words.get("target"), targets()),
        "cmd_test": (words.get("stage"), set(suite.stages(suite.Totals()))),
        "cmd_fuzz": ([words.get("target")],
                     {path.name for path in (ROOT / "tests/fuzz/corpus").iterdir()}),
        "cmd_bench": (words.get("name"), {path.stem.removesuffix("_bench") for path in
                                          (ROOT / "tests/bench").glob("*_bench.*")}),
        "cmd_tidy": (absent(words.get("path", [])), set()),
        "cmd_guest": (absent(re.findall(r"tests/\S+\.py", words.get("run") or "")), set()),
    }
    named, known = have.get(args.function.__name__, ([], set()))
    return [f"{command}: there is no {name}" for name in named if name not in known]


def examples() -> list[str]:
    """Of the help of ./dev and of each of its commands."""
    parser = dev.parser()
    (commands,) = (action for action in parser._actions
                   if isinstance(action, argparse._SubParsersAction))
    return [re.split(r"\s{3,}", line.strip())[0]
            for some in (parser, *commands.choices.values())
            for line in (some.epilog or "").splitlines() if "./dev " in line]


def typed(text: str) -> list[str]:
    """A page's commands of ./dev."""
    whole = re.sub(r"\\\n\s*", "", text)
    return [block or inline for block, inline in COMMAND.findall(whole)]


def test_examples_of_help_name_what_there_is():
    found = [words[words.index("./dev "):] for words in examples()]
    assert len(found) > 20
    for command in found:
        assert "COMMAND" in command or not unknown_names(command)


def test_commands_of_pages_name_what_there_is():
    found = [command for page in PAGES for command in typed(page.read_text())]
    assert len(found) > 10
    for command in found:
        # Capitals and dots stand for a word of the reader's.
        placeholder = re.search(r"\b[A-Z]{4,}\b|\.\.\.", re.sub(r"\s#.*", "", command))
        assert placeholder or not unknown_names(command)


@pytest.mark.parametrize("command", [
    "./dev fuzz ike_header 60", "./dev bench esp", "./dev test units",
    "./dev build dev --target no_such_test", "./dev tidy agent/none", "./dev brew",
    "./dev guest 'python3 -m pytest tests/netns/none_test.py'"])
def test_a_name_of_nothing_is_noticed(command):
    assert unknown_names(command)
