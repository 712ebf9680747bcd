"""Text in which no value can act: control and invisible characters made visible.

A subscriber's name comes from outside; escape sequences and bidirectional marks in it are shown
as ``\\x1b`` or ``\\u202e``, on a terminal and in the console's pages alike. Pure.
"""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """The text with control, bidirectional and other invisible format characters escaped."""
    return "".join(letter if letter in "\n\t" else one_line(letter) for letter in text)


def one_line(text: str) -> str:
    """As ``printable``, line ends and tabs escaped too: a value cannot begin a line of its own."""
    return "".join(letter if _harmless(letter) else _escaped(letter) for letter in text)


def bounded(text: str, width: int) -> str:
    """At most ``width`` characters of a value in one line, so that it cannot push others off."""
    line = one_line(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def _harmless(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def _escaped(letter: str) -> str:
    code = ord(letter)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
