"""A page of docs/ as somebody follows it: its blocks of commands in order, and
whether what a command printed is what the page shows."""

import dataclasses
import ipaddress
import pathlib
import re

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
INDENT = "    "
AGE = re.compile(r"(\d+[dhms])+")
SIZE = re.compile(r"\d+(\.\d+)?([KMGT]i)?B")
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
NODE = re.compile(r"node-\d")  # the scheduler chooses


@dataclasses.dataclass
class Block:
    page: str
    line: int
    section: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def steps(self) -> list[tuple[str, list[str] | None]]:
        """Scripts, each with what is shown to be printed. A block with a `$ ` is a
        transcript; any other is one script whose output the page does not show."""
        if not re.search(r"^\$ ", self.text, re.M):
            return [(self.text, None)]
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif not found:
                raise ValueError(f"{self}: begins neither as a script nor with `$ `")
            else:
                found[-1][1].append(line)
        return [(script, shown or None) for script, shown in found]


def blocks(page: str, text: str) -> list[Block]:
    """Of indented lines. What is not to be typed stands in fences, with the name
    of its language."""
    found: list[Block] = []
    section, fenced, before = "", False, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            pass
        elif line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith(INDENT):
            if found and found[-1].section == section and before == INDENT:
                found[-1].text += line[4:] + "\n"
            else:
                found.append(Block(page, number, section, line[4:] + "\n"))
            before = INDENT
            continue
        elif not line and before == INDENT:
            found[-1].text += "\n"  # it may go on after an empty line
            continue
        before = ""
    for block in found:
        block.text = block.text.rstrip() + "\n"
    return found


def of_page(name: str) -> list[Block]:
    return blocks(name, (DOCS / "guide" / name).read_text())


def _is_address(word: str) -> bool:
    try:
        return bool(ipaddress.ip_address(word))
    except ValueError:
        return False


def _kind(word: str) -> str:
    """What differs from run to run, by its kind; else the word itself."""
    for name, pattern in (("age", AGE), ("size", SIZE), ("time", TIME),
                          ("node", NODE)):
        if pattern.fullmatch(word):
            return f"<{name}>"
    return "<address>" if _is_address(word) else word


def same_line(shown: str, printed: str) -> bool:
    """Columns may be wider; addresses, ages, sizes, times and numbers from ten on
    may be others. Smaller numbers are what the page speaks of."""
    ours, theirs = (re.findall(r"[^\s,/()]+", line) for line in (shown, printed))
    return len(ours) == len(theirs) and all(
        a == b or _kind(a.rstrip(":.")) == _kind(b.rstrip(":."))
        or (a.isdigit() and b.isdigit() and int(a) >= 10)
        for a, b in zip(ours, theirs))


def same(shown: list[str], printed: list[str]) -> bool:
    """Rows may come in another order; `...` stands for any lines, the others then
    in their order."""
    shown = [line for line in shown if line.strip()]
    left = [line for line in printed if line.strip()]
    if "..." in shown:
        found = iter(left)
        return all(any(same_line(line, other) for other in found)
                   for line in shown if line != "...")
    for line in shown:
        alike = next((other for other in left if same_line(line, other)), None)
        if alike is None:
            return False
        left.remove(alike)
    return not left
