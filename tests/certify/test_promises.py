"""The page of promises: its tests are there, and its figures stand on the pages that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nsps_local.scoreboard.pieces import PIECES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "promises.md").read_text(encoding="utf-8")
_NUMBER = re.compile(r"[0-9]+(?:[ ,.][0-9]{3})*(?:\.[0-9]+)?")


def rows() -> Iterator[tuple[str, list[str]]]:
    """(section, cells) of each row of a table, without its head."""
    for section in PAGE.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        lines = [line for line in section.splitlines() if line.startswith("|")]
        for line in lines[2:]:
            yield title, [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_test_and_link_is_there() -> None:
    for path in re.findall(r"`(tests/[A-Za-z0-9_/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (DOCS / link).exists(), link


def test_it_leads_to_each_piece_of_the_scoreboard() -> None:
    titles = [re.sub(r"[^a-z ]", "", piece.title.lower()).replace(" ", "-") for piece in PIECES]
    assert set(re.findall(r"scoreboard\.md#([^)]+)", PAGE)) == set(titles)


def test_each_promise_is_tried() -> None:
    tried = [title for title, cells in rows() if "tests/" in cells[1]]
    for promise in ("Nothing lost", "Nothing stale", "Nothing leaked", "Always explainable"):
        assert tried.count(promise) >= 5, promise


def test_each_figure_is_on_the_page_that_it_comes_from() -> None:
    checked = 0
    for title, cells in rows():
        of_speed = title.startswith("Fast")
        link = re.search(r"\]\(([^)#]+)", cells[-1])
        source = "performance.md" if of_speed else link.group(1) if link else None
        figures = cells[1:3] if of_speed else [cells[2].partition("([")[0]]
        numbers = [number for cell in figures for number in _NUMBER.findall(cell)]
        assert source or not numbers, f"{cells}: where does it come from?"
        if source:
            text = (DOCS / source).read_text(encoding="utf-8")
            for number in numbers:
                assert re.search(rf"(?<![0-9]){re.escape(number)}(?![0-9])", text), (cells, number)
                checked += 1
    assert checked > 20
