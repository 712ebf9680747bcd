"""Pictures as numbers: what a template draws as SVG, in thousandths of the width. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nsps.console.pages.render import read_time, span

WIDTH = 1000
LEAST = 12
"""What is there can be seen."""


def bar(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """One bar of several parts, each as wide as its share."""
    total = sum(counts.values())
    at, parts = 0.0, []
    for kind, count in counts.items():
        width = max(LEAST, WIDTH * count / total) if count else 0
        width = min(width, WIDTH - at)
        if width > 0:
            parts.append({"kind": kind, "count": count, "x": round(at), "width": round(width)})
        at += width
    return parts


@dataclass(frozen=True, slots=True)
class Lane:
    """One part of an event's timeline: from when to when, for people and for the picture."""

    name: str
    outcome: str
    begins: datetime | None
    ends: datetime | None
    note: str = ""
    open: bool = False
    """It has not ended."""
    marks: tuple[datetime, ...] = ()


def drawn(lanes: Iterable[Lane], now: datetime) -> dict[str, Any]:
    """The lanes to one scale, from the first moment to the last."""
    shown = sorted((each for each in lanes if each.begins), key=lambda each: str(each.begins))
    if not shown:
        return {"lanes": [], "took": ""}
    start = min(each.begins for each in shown if each.begins)
    stops = [moment for each in shown for moment in (each.ends, each.begins, *each.marks) if moment]
    end = max([*stops, now] if any(each.open for each in shown) else stops)
    whole = max((end - start).total_seconds(), 0.001)

    def place(moment: datetime) -> int:
        return round(WIDTH * (moment - start).total_seconds() / whole)

    return {"lanes": [_lane(each, start, end, place) for each in shown], "took": _span(start, end)}


def _lane(each: Lane, start: datetime, end: datetime, place: Any) -> dict[str, Any]:
    assert each.begins is not None
    stop = end if each.open else (each.ends or each.begins)
    x = min(place(each.begins), WIDTH - LEAST)
    return {
        "name": each.name,
        "outcome": each.outcome,
        "note": each.note,
        "open": each.open,
        "x": x,
        "width": max(LEAST, min(place(stop), WIDTH) - x),
        "marks": [min(place(mark), WIDTH - LEAST) for mark in each.marks],
        "after": f"+{_span(start, each.begins)}",
        "took": _span(each.begins, stop) if stop > each.begins else "",
    }


def _span(begin: datetime, end: datetime) -> str:
    return span((end - begin).total_seconds() * 1000)


def lanes_of(event: Mapping[str, Any]) -> list[Lane]:
    """An event's timeline: received, read, each delivery, each status for PortaBilling."""
    received = read_time(event["received_at"]) or read_time(event["opened_at"])
    opened, enriched = read_time(event["opened_at"]), read_time(event["read_by"])
    lanes = [Lane("received", "done", received, received, "published, and ESPF answered 200")]
    if enriched is not None:
        lanes.append(Lane("PortaBilling read", "done", opened, enriched, _read(event)))
    elif event["state"] != "unhandled" and opened is not None:
        error = (event["retry"] or {}).get("error", "")
        ended = event["state"] == "expired"
        lanes.append(
            Lane(
                "PortaBilling read",
                "expired" if ended else "waiting",
                opened,
                None,
                error,
                not ended,
            )
        )
    for each in event["deliveries"]:
        lanes += _delivery(each, enriched)
    return lanes


def _marks(failures: Iterable[Mapping[str, Any]]) -> tuple[datetime, ...]:
    """When attempts failed: of the same failure many times the first and the newest."""
    times = {failure.get(name) for failure in failures for name in ("first_at", "at")}
    return tuple(sorted(filter(None, map(read_time, times))))


def _read(event: Mapping[str, Any]) -> str:
    return f"the calls took {event['read_ms']:g} ms" if event["read_ms"] else ""


def _delivery(each: Mapping[str, Any], enriched: datetime | None) -> list[Lane]:
    name = f"{each['handler']}, replay {each['run']}" if each["run"] else each["handler"]
    begun = read_time(each["begun_at"]) or (None if each["run"] else enriched)
    ends = read_time(each["finished_at"]) or read_time(each["last_at"])
    attempts = f"{each['attempts']} attempts" if each["attempts"] > 1 else ""
    lanes = [
        Lane(
            name,
            each["outcome"] or "waiting",
            begun,
            ends,
            attempts,
            not each["final"],
            _marks(each["failures"]),
        )
    ]
    espf = each["espf"] or {}
    sent = read_time(espf.get("sent_at"))
    if espf.get("of_this") and sent is not None and (begun is None or sent >= begun):
        lanes.append(Lane(f"status sent ({espf['group']})", espf["status"], sent, sent))
    return lanes
