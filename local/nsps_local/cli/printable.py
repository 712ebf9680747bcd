"""What a terminal is given: text in which no value can act.

A subscriber's name comes from outside; escape sequences and bidirectional marks in it are shown
as ``\\x1b`` or ``\\u202e``, in one place for everything that the commands print.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

UNWRAPPED = 100_000
"""Columns of a console that wraps nothing."""


def printable(text: str) -> str:
    """The text with control, bidirectional and other invisible format characters escaped."""
    return "".join(letter if letter in "\n\t" else one_line(letter) for letter in text)


def one_line(text: str) -> str:
    """As ``printable``, line ends and tabs escaped too: a value cannot begin a line of its own."""
    return "".join(letter if _harmless(letter) else _escaped(letter) for letter in text)


def bounded(text: str, width: int) -> str:
    """At most ``width`` characters of a value in one line, so that it cannot push columns off."""
    line = one_line(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def safe_console() -> Console:
    """A console that escapes whatever it prints; into a pipe it prints a line a record."""
    wrapping = None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNWRAPPED
    console = Console(highlight=False, width=wrapping)
    console.push_render_hook(_Escaping())
    return console


class _Escaping(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(each) for each in renderables]


class _Escaped:
    """Renders as another renderable does, its text escaped; rich's own control codes stay."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for segment in console.render(self._inner, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)


def _harmless(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def _escaped(letter: str) -> str:
    code = ord(letter)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
