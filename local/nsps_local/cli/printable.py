"""A terminal's console that escapes whatever it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from nsps.domain.printable import printable
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

UNWRAPPED = 100_000
"""Columns of a console that wraps nothing."""


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
