"""What is wrong, why, and what to press; and how every handler is."""

from __future__ import annotations

from typing import Any

from nsps.console.pages.bars import bar
from nsps.console.pages.site import Shown, Visit


def overview(visit: Visit) -> Shown:
    """The first page."""
    found = visit.get("overview")
    handlers = [{**row, "bars": _bars(row)} for row in found["handlers"]]
    return visit.page("overview.html", **{**found, "handlers": handlers})


def health(visit: Visit) -> Shown:
    """PortaBilling and every system, asked at this moment."""
    return visit.page("health.html", health=visit.get("health"))


def _bars(row: dict[str, Any]) -> dict[str, Any]:
    return {window: bar(row[window]) for window in ("hour", "day")}
