"""No value that comes from outside acts on an operator's terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.domain.printable import bounded, one_line, printable
from nsps_local.cli.printable import safe_console
from rich.table import Table
from rich.text import Text

NAME = "Bo\x1b]0;owned\x07\x1b[2J"


def _printed(renderable: object) -> str:
    console = safe_console()
    console.file = io.StringIO()
    console.print(renderable)
    return console.file.getvalue()


def _table(text: str) -> Table:
    table = Table(box=None)
    table.add_column(no_wrap=True)
    table.add_row(text)
    return table


@pytest.mark.parametrize("wrap", [Text, str, _table])
def test_an_escape_sequence_is_shown_not_obeyed(wrap: object) -> None:
    printed = _printed(wrap(NAME))  # type: ignore[operator]
    assert "\x1b" not in printed and "\x07" not in printed
    assert "\\x1b[2J" in printed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u202egnp", "\\u202egnp"),
        ("a\u200bb", "a\\u200bb"),
        ("\x9b2J", "\\x9b2J"),
        ("Zoë 東京", "Zoë 東京"),
        ("two\nlines", "two\nlines"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_nothing_acts(text: str) -> None:
    kinds = {unicodedata.category(each) for each in printable(text) if each not in "\n\t"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_a_long_value_is_cut() -> None:
    assert bounded("x" * 100, 10) == "x" * 9 + "…"
    assert bounded("short", 10) == "short"


def test_a_value_cannot_begin_a_line_of_its_own() -> None:
    assert one_line("Bo\nhss: delivered") == "Bo\\x0ahss: delivered"
    assert bounded("a\tb", 10) == "a\\x09b"


@pytest.mark.parametrize("wrap", [Text, _table])
def test_a_pipe_gets_a_record_in_one_line(wrap: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert len(_printed(wrap("word " * 100)).strip().splitlines()) == 1  # type: ignore[operator]
