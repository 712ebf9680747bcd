"""What a terminal is given: text in which no value can act.

A subscriber's name comes from outside; escape sequences and bidirectional marks in it are shown
as ``\\x1b`` or ``\\u202e``, in one place for everything that the commands print.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment


def printable(text: str) -> str:
    """The text with control, bidirectional and other invisible format characters escaped."""
    return "".join(letter if _harmless(letter) else _escaped(letter) for letter in text)


def bounded(text: str, width: int) -> str:
    """At most ``width`` characters of a value, so that it cannot push other columns off."""
    return text if len(text) <= width else text[: width - 1] + "…"


def safe_console() -> Console:
    """A console that escapes whatever it prints."""
    console = Console(highlight=False)
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
    return letter.isprintable() or letter in "\n\t" or unicodedata.category(letter) == "Zs"


def _escaped(letter: str) -> str:
    code = ord(letter)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
