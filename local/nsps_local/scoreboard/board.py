"""Runs the pieces and writes what they printed, with the machine, the date and the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nsps_local.scoreboard.pieces import Piece

_LINES = 200
_DOTS = re.compile(r"^[.sxFE]*(\.(?=\S)|[.sxFE]\s*(\[\s*\d+%\])?$)")
"""What pytest prints of each test, alone in its line or before what the tests print."""
_CONTROL = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Outcome:
    piece: Piece
    good: bool
    seconds: float
    printed: str


def run(piece: Piece, root: Path, long: bool) -> Outcome:
    """Run one piece to its end; its output is kept, whatever becomes of it."""
    began = time.monotonic()
    environ = {**os.environ, "COLUMNS": "110", **(piece.long if long else piece.environ)}
    done = subprocess.run(  # noqa: S603 (the commands of this package)
        piece.arguments(),
        cwd=root,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Outcome(piece, done.returncode == 0, time.monotonic() - began, _shown(done.stdout))


def _shown(printed: str) -> str:
    """Its last lines, without the dots of a test run."""
    lines = [_DOTS.sub("", _CONTROL.sub("", line).rstrip()) for line in printed.splitlines()]
    return "\n".join([line for line in lines if line][-_LINES:])


def machine(root: Path) -> Mapping[str, str]:
    """Where and when, so that a figure means something."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(root),
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _commit(root: Path) -> str:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(  # noqa: S603
            command, cwd=root, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        changed = " (with changes that are not committed)" if git("status", "--porcelain") else ""
        return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
    except OSError:
        return "unknown"


def page(about: Mapping[str, str], outcomes: Sequence[Outcome], long: bool) -> str:
    """The scoreboard in Markdown."""
    return "\n".join(_lines(about, outcomes, long)) + "\n"


def _lines(about: Mapping[str, str], outcomes: Sequence[Outcome], long: bool) -> Iterator[str]:
    yield "# Scoreboard"
    yield ""
    yield f"Written by `make scoreboard{' LONG=--long' if long else ''}`. What each promise means,"
    yield "and what else tries to break it: [promises.md](promises.md)."
    yield ""
    yield "| | |\n|---|---|"
    for name, value in about.items():
        yield f"| {name} | {value} |"
    yield ""
    yield "| what | holds | seconds |\n|---|---|---|"
    for each in outcomes:
        yield f"| {each.piece.title} | {_verdict(each)} | {each.seconds:.0f} |"
    yield f"| all together | | {sum(each.seconds for each in outcomes):.0f} |"
    for each in outcomes:
        yield f"\n## {each.piece.title}\n"
        yield f"{each.piece.says[0].upper()}{each.piece.says[1:]}: **{_verdict(each)}**. Alone:\n"
        yield f"```\n{each.piece.alone(long)}\n```\n"
        yield f"```\n{each.printed.replace('```', chr(39) * 3)}\n```"


def _verdict(outcome: Outcome) -> str:
    return "yes" if outcome.good else "NO"
