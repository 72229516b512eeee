"""README, CONTRIBUTING and the pages of docs/, and the commands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^(jaxhand \w|python -m jaxhand)")
# What stands for files, a module or a host of the reader
_OF_THE_READER = re.compile(r"\b(PATH|FOLDER|SOURCE|NAME|HOST|my_\w+)\b")


def blocks(page: Path) -> list[str]:
    """The code blocks of a page."""
    return re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[str]:
    """The command lines of jaxhand on a page: in code blocks, and in backticks. Environment variables are left out.

    A comment in the first line of a block is appended to each of its commands.
    """
    lines = []
    for block in blocks(page):
        head, *rest = block.replace("\\\n", "").splitlines()
        lines += [f"{line}  {head}" for line in rest] if head.startswith("# ") else [head, *rest]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))
    lines = [re.sub(r"^[A-Z_]+=\S+ ", "", line) for line in lines]
    return [line for line in lines if COMMAND.match(line) and "…" not in line]


def needs_something(command: str) -> bool:
    """Whether a command needs what jaxhand does not bring: its comment says so, or it names a placeholder."""
    command, _, comment = command.partition(" #")
    return "need" in comment or bool(_OF_THE_READER.search(command.replace("folder:PATH", "")))
