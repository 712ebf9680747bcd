"""The runbook as a page whose commands can be run: sections, console blocks, and what they print.

In a block a line ``$ COMMAND`` is followed by its output. What is another on each run (times, ids,
ports) is compared by its kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operate.md"
FENCE, END = "```console\n", "```\n"
_VOLATILE = (
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>"),
    (r"\b\d{8}-\d{6}-[0-9a-f]{6}\b", "<job>"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?( UTC)?", "<time>"),
    (r"\b((Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?\d\d [A-Z][a-z]{2} \d\d:\d\d(:\d\d)?", "<time>"),
    (r"\b\d\d:\d\d:\d\d\b", "<time>"),
    (r"[+-]*\b\d+(\.\d+)? (ms|s|min|h)\b( \d+ (s|min))?", "<span>"),
    (r"127\.0\.0\.1:\d+", "<host>"),
    (r"\bSO-\d+", "<order>"),
    (r"\b\d+ documents deleted", "<n> documents deleted"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the page, and the lines that the page says it prints."""

    line: str
    output: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its console blocks."""

    title: str
    blocks: tuple[tuple[Command, ...], ...]


def sections(page: str) -> list[Section]:
    """The sections that have commands."""
    parts = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    found = [
        Section(part.partition("\n")[0].strip(), tuple(map(_commands, _blocks(part))))
        for part in parts
    ]
    return [section for section in found if section.blocks]


def _blocks(part: str) -> Iterator[str]:
    while FENCE in part:
        _, _, part = part.partition(FENCE)
        block, _, part = part.partition(END)
        yield block


def _commands(block: str) -> tuple[Command, ...]:
    commands: list[Command] = []
    for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, output = text.rstrip("\n").partition("\n")
        commands.append(Command(line, tuple(output.split("\n")) if output else ()))
    return tuple(commands)


def written(page: str, printed: dict[str, list[list[str]]]) -> str:
    """The page with the output of its commands as ``printed``: section -> block -> command."""
    head, *parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return head + "".join(_section_written(part, printed) for part in parts)


def _section_written(part: str, printed: dict[str, list[list[str]]]) -> str:
    title = part.partition("\n")[0].removeprefix("## ").strip()
    made, rest = "", part
    for outputs in printed.get(title, []):
        before, _, rest = rest.partition(FENCE)
        block, _, rest = rest.partition(END)
        made += before + FENCE + _block_written(_commands(block), outputs) + END
    return made + rest


def _block_written(commands: tuple[Command, ...], outputs: list[str]) -> str:
    pairs = zip(commands, outputs, strict=True)
    lines = [f"$ {command.line}\n{output}".rstrip("\n") + "\n" for command, output in pairs]
    return "".join(lines)


def same(output: tuple[str, ...], printed: str) -> bool:
    """Whether the page's lines are what was printed. What happened at the same moment for several
    handlers may come in another order: lines are compared, not their order."""
    return sorted(map(_usual, output)) == sorted(map(_usual, printed.splitlines()))


def _usual(line: str) -> str:
    """A line without what is another each time, and without the width of its columns."""
    for pattern, kind in _VOLATILE:
        line = re.sub(pattern, kind, line)
    return re.sub(r"\s+", " ", line).strip()
