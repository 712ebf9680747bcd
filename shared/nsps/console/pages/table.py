"""Tables as CSV files, for a spreadsheet in which no value can act."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from nsps.console.pages.site import Shown
from nsps.domain.printable import printable

_ACTS = ("=", "+", "-", "@", "\t")
"""A cell that begins so would be a formula."""


def csv_file(name: str, heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> Shown:
    """A file to keep, in UTF-8 with the mark by which Excel knows it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(heads)
    for line in lines:
        writer.writerow([_cell(value) for value in line])
    plain = "".join(letter for letter in name if letter.isalnum() or letter in "-_.")
    return Shown(
        200,
        text.getvalue().encode("utf-8-sig", "replace"),
        "text/csv; charset=utf-8",
        {"Content-Disposition": f'attachment; filename="{plain}"'},
    )


def _cell(value: Any) -> str:
    shown = printable("" if value is None else str(value)).replace("\n", " ")
    return f"'{shown}" if shown.startswith(_ACTS) else shown
