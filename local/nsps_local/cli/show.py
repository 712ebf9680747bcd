"""How answers of the console are printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from nsps.domain.event import RECONCILE
from nsps.domain.printable import bounded, one_line
from nsps.domain.retry_table import duration
from rich.table import Table
from rich.text import Text

from nsps_local.cli.printable import safe_console

COLOURS = {
    "delivered": "green",
    "unchanged": "green",
    "accepted": "cyan",
    "superseded": "bright_black",
    "retrying": "yellow",
    "waiting": "yellow",
    "parked": "yellow",
    "rejected": "red",
    "expired": "red",
    "PortaBilling not read": "yellow",
}

console = safe_console()

_VALUE_WIDTH = 60
"""What a table's column shows of a value that comes from outside."""
_CLOSE = timedelta(seconds=10)
"""What follows so soon is shown by how long after."""


def asked_for(kind: str, spec: Mapping[str, Any]) -> str:
    """A job's specification, for people."""
    parts = [f"{name}={_plain(name, value)}" for name, value in sorted(spec.items()) if value]
    if kind == "reconcile" and not (spec.get("account") or spec.get("customer")):
        parts.append("all")
    return " ".join(parts)


def _plain(name: str, value: Any) -> str:
    if name in ("since", "until"):
        return f"{datetime.fromisoformat(value).astimezone():%Y-%m-%dT%H:%M}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def events_table(events: Iterable[Mapping[str, Any]]) -> Table:
    """One line an event, as the API gives it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("received", "i_event", "event type", "owner", "outcome", "took"):
        whole = column != "outcome"
        justify: Literal["left", "right"] = "right" if column == "took" else "left"
        table.add_column(column, justify=justify, no_wrap=whole, overflow="fold")
    for event in events:
        took = event["took_ms"]
        table.add_row(
            _date(event["received_at"] or event["opened_at"]),
            _number(event),
            bounded(event["event_type"], _VALUE_WIDTH),
            bounded(event["owner"], _VALUE_WIDTH),
            _outcomes(event["outcomes"]),
            "" if took is None else span(timedelta(milliseconds=took)),
        )
    return table


def _number(event: Mapping[str, Any]) -> str:
    if event["event_type"] == RECONCILE:
        return ""
    return bounded(event["i_event"] or "", _VALUE_WIDTH)


def _outcomes(outcomes: Iterable[Mapping[str, Any]]) -> Text:
    """The handlers of like outcome together."""
    handlers: dict[str, list[str]] = {}
    for each in outcomes:
        run = f" (replay {each['run']})" if each["run"] else ""
        handlers.setdefault(each["outcome"], []).append(each["handler"] + run)
    text = Text()
    for outcome, names in handlers.items():
        text.append("; " if text else "")
        text.append(outcome.replace("_", " "), COLOURS.get(outcome, ""))
        text.append(f" {', '.join(filter(None, names))}".rstrip())
    return text


def headline(event_type: str, i_event: str | None, owner: str, event_id: str) -> Text:
    """Which event it is."""
    number = "" if event_type == RECONCILE else f"  i_event {i_event}"
    text = Text(f"{event_type}", style="bold")
    return text.append(f"{number}  {owner}  {event_id}", style="not bold")


def explained(explanation: Mapping[str, Any], *, in_order: bool = True) -> Text:
    """An explanation of the console. ``in_order``: what happened is in the order of time."""
    text, start = Text(), None
    for line in explanation["happened"]:
        at = _moment(line["at"])
        near = in_order and start is not None and at is not None and at - start < _CLOSE
        shown = f"+{span(at - start)}" if near and at and start else _date(line["at"])
        start = start or at
        text.append(f"{shown:>15}  ", "bright_black")
        text.append(f"{one_line(line['text'])}\n")
    if explanation["waiting"]:
        text.append("\nWaits:\n", "bold yellow")
        for each in explanation["waiting"]:
            text.append(f"  {one_line(each)}\n")
    if explanation["advice"]:
        text.append("\nYou can:\n", "bold")
        for each in explanation["advice"]:
            text.append(f"  {one_line(each['text'])}:\n      ")
            text.append(f"{one_line(each['command'])}\n", "cyan")
    return text


def span(passed: timedelta) -> str:
    """How long something took: in milliseconds below ten seconds."""
    seconds = passed.total_seconds()
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 10 else duration(passed)


def _date(text: str | None) -> str:
    moment = _moment(text)
    return moment.astimezone().strftime("%d %b %H:%M:%S") if moment else ""


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
