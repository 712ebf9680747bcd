"""``python -m nsps_local.retries_page``: the table in docs/retries.md, rendered from the data.

With ``--check`` nothing is written; exit status 1 if the page is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nsps.domain.retry import Schedule
from nsps.domain.retry_table import duration, note, rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "retries.md"
BEGIN = "<!-- rendered by python -m nsps_local.retries_page -->\n"
END = "<!-- end -->\n"


def rendered(page: str) -> str:
    """The page with its table as the data has it. Raises ValueError if it has no place for it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has no place for the table: write {BEGIN.strip()}{END}")
    return f"{before}{begin}\n{table(Schedule())}\n\n{note(Schedule())}\n\n{end}{after}"


def table(schedule: Schedule) -> str:
    """The schedule in Markdown; times are counted from the first attempt."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    lines = ["| try | when | first after | last after |", "|---|---|---|---|"]
    for row in rows(schedule, start):
        first, last = duration(row.first - start), duration(row.last - start)
        lines.append(f"| {row.what} | {row.gap} | {first} | {'' if last == first else last} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    wanted = rendered(page)
    if "--check" in arguments:
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
