"""The figures of one run, in docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nsps_local.bench.figures import Section

PAGE = Path(__file__).resolve().parents[3] / "docs" / "performance.md"
BEGIN = "<!-- one run: written by make bench -->\n"
END = "<!-- end -->\n"


def write(about: Mapping[str, Any], sections: Iterable[Section]) -> None:
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), about, sections), encoding="utf-8")


def rendered(page: str, about: Mapping[str, Any], sections: Iterable[Section]) -> str:
    """The page with the figures of this run. Raises ValueError if it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has no place for the figures: write {BEGIN.strip()}{END}")
    made = ", ".join(f"{name} {value}" for name, value in about.items())
    tables = "\n\n".join(section.as_markdown() for section in sections)
    return f"{before}{begin}\n{made[:1].upper()}{made[1:]}.\n\n{tables}\n\n{end}{after}"
